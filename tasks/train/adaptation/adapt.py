"""Go on with an encoder's masked-language pre-training on the project's own text, before it is fine-tuned.

Domain- and task-adaptive pre-training: Gururangan et al. 2020 (arXiv:2004.10964). Dev and test texts are never read, and
an unlabelled text that repeats a passage of one is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.curate.checks.leak import leak
from tasks.encoder.embed import has_bf16
from tasks.errors import UserError
from tasks.progress import Report, silent
from tasks.project import Project
from tasks.records import Record, read_records
from tasks.references import digest_of_path, resolve
from tasks.stage import Stage, stage
from tasks.text.fingerprints import FINGERPRINTS, Fingerprints
from tasks.train.adaptation.masked import Masked, history_of, load_masked, save_encoder, train_masked, warm_head

VERSION = 2
FEWEST = 20  # texts


def adapt(
    project: Project, *, curated: Stage, splits: Stage, beside: Path, home: Path, report: Report = silent
) -> Stage:
    """`encoder/` (a Hugging Face directory with safetensors and tokenizer), `adapt.json` and `history.json`.

    Counts: `rows` learned from, `steps`, `resumed_from`, and the pseudo-`perplexity` before and after, over the masked
    tokens (the same ones) of held-out texts. `head` is `made` where the checkpoint has no head for masked words: one is
    made, its decoder tied to the word embeddings, and trained with the encoder frozen before anything is measured. A
    killed stage goes on from its last whole checkpoint. Raises UserError where there is no mask token or too little text, the
    checkpoint's weights don't fit, or the training fails.
    """
    encoder = resolve(project.train.model, beside=beside, cache=home / "cache", kind="model")

    def build(out: Path, work: Path) -> dict[str, Any]:
        texts, held, told = _texts(project, curated, splits)
        masked = load_masked(encoder, project)
        made = masked.new_head
        if made:
            warm_head(masked, texts, project.adapt, report=report)
        before = _before(masked, held, project, work)
        steps, resumed, log = train_masked(masked, texts, project.adapt, work=work, report=report)
        after = masked.perplexity(held, project.adapt)
        save_encoder(masked, encoder, out / "encoder")
        told |= {
            "steps": steps,
            "resumed_from": resumed,
            "head": "made" if made else "its own",
            "head_steps": project.adapt.head_steps if made else 0,
            "perplexity": {"before": before, "after": after},
            "precision": "bf16" if masked.bf16 else "fp32",
        }
        atomic.write_json(out / "adapt.json", told)
        atomic.write_json(out / "history.json", history_of(log))
        return told

    inputs = {"curated": curated.digest, "splits": splits.digest, "encoder": digest_of_path(encoder)}
    t = project.train
    params = project.adapt.model_dump(mode="json") | {"max_length": t.max_length, "leak": project.curate.leak}
    params |= {"bf16": t.precision != "fp32" and has_bf16()}
    return stage(home, "adapt", version=VERSION, params=params, inputs=inputs, build=build)


def told(stage: Stage) -> list[str]:
    """What there is to say of an adaptation, a sentence each."""
    c = stage.counts
    p = c["perplexity"]
    lines = [
        f"perplexity on {c['held_out']} held-out {c['held_out_from']} texts {p['before']:.1f} -> {p['after']:.1f}, after "
        f"{c['steps']} steps over {c['rows']} texts"
    ]
    if c["head"] == "made":
        lines.append(
            f"the encoder has no head for masked words: one was made, tied to its word embeddings, and trained alone for "
            f"{c['head_steps']} steps first; part of the fall is the head's"
        )
    return lines


def _texts(project: Project, curated: Stage, splits: Stage) -> tuple[list[str], list[str], dict[str, Any]]:
    """(texts to learn from, texts held out, counts). The unlabelled ones come first; by content hash."""
    a = project.adapt
    training = _by_hash(read_records(curated.directory / "kept.jsonl"))
    unlabelled, leaks = _unlabelled(project, splits, {r.id for r in training})
    source = unlabelled if len(unlabelled) >= FEWEST else training
    held = source[: min(a.held_out, len(source) // 5)]
    out = {r.id for r in held}
    rows = [r for r in [*unlabelled, *training] if r.id not in out]
    if len(rows) < FEWEST or not held:
        raise UserError(
            f"adapt.epochs is {a.epochs}, but there are {len(rows)} texts to learn from, fewer than {FEWEST}: give "
            f"data.unlabelled, or set adapt.epochs to 0"
        )
    rows = rows[: a.rows]
    counts = {
        "rows": len(rows),
        "held_out": len(held),
        "held_out_from": "unlabelled" if source is unlabelled else "training",
        "leaks": leaks,
    }
    return [r.text for r in rows], [r.text for r in held], counts


def _by_hash(rows: list[Record]) -> list[Record]:
    return sorted(rows, key=lambda r: r.id)


def _unlabelled(project: Project, splits: Stage, known: set[str]) -> tuple[list[Record], int]:
    """The unlabelled rows that stand nowhere else, and how many were left out as leaks of dev or test."""
    from tasks.curate.context import Context

    rows = [r for r in read_records(splits.directory / "unlabelled.jsonl") if r.id not in known]
    context = Context(project.curate, Fingerprints.load(splits.directory / FINGERPRINTS), _no_embedding)
    kept, leaks = leak(_by_hash(rows), context)
    return kept, len(leaks)


def _no_embedding(texts: list[str]) -> Any:
    raise AssertionError("this check reads no embeddings")


def _before(masked: Masked, held: list[str], project: Project, work: Path) -> float:
    """The perplexity before, measured once: a resumed run has it from its first try."""
    path = work / "before.json"
    if not path.exists():
        atomic.write_json(path, masked.perplexity(held, project.adapt))
    return float(atomic.read_json(path))

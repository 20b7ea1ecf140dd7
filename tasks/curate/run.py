"""Run every check in its order over the seed rows and all rounds of synthetic rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import files
from tasks.curate.agreement import agreement
from tasks.curate.duplicates import exact, near
from tasks.curate.leak import Fingerprints, leak
from tasks.curate.length import length
from tasks.curate.normalise import normalise
from tasks.files import Stage
from tasks.progress import Report, silent
from tasks.project import Curate, Project
from tasks.records import Record, Rejected, count_by_check, count_by_label
from tasks.references import digest_of_path, resolve

if TYPE_CHECKING:
    import numpy as np

VERSION = 2


@dataclass(frozen=True)
class Context:
    """What the checks may look at besides the records."""

    settings: Curate
    held_out: Fingerprints
    embed: Callable[[list[str]], np.ndarray]


Check = Callable[[list[Record], Context], tuple[list[Record], list[Rejected]]]

# cheap before dear; a leak is named as one even where the label is wrong too
CHECKS: tuple[Check, ...] = (normalise, length, exact, near, leak, agreement)


def run_checks(records: list[Record], context: Context, report: Report = silent) -> tuple[list[Record], list[Rejected]]:
    """(kept, rejected): together they are every record that came in."""
    rejected: list[Rejected] = []
    for i, check in enumerate(CHECKS):
        report(i, len(CHECKS), check.__name__)
        came = len(records)
        records, out = check(records, context)
        assert len(records) + len(out) == came, f"{check.__name__} lost rows"
        rejected += out
    report(len(CHECKS), len(CHECKS), "done")
    return records, rejected


def surplus(records: list[Record], quota: dict[str, int]) -> tuple[list[Record], list[Rejected]]:
    """At most `quota` synthetic rows a label, the first ones; the rest is set aside as surplus."""
    kept, rejected = [], []
    have: Counter[str | None] = Counter()
    for r in records:
        if r.source == "synthetic" and have[r.label] >= quota[str(r.label)]:
            rejected.append(
                Rejected(r, "surplus", f"{r.label!r} has its {quota[str(r.label)]} rows (generate.per_label)")
            )
        else:
            have[r.label] += r.source == "synthetic"
            kept.append(r)
    return kept, rejected


def curate(
    project: Project, *, rounds: list[Stage], splits: Stage, beside: Path, home: Path, report: Report = silent
) -> Stage:
    """The training rows: `kept.jsonl` (seed rows first), and `rejected.jsonl` with what generation and the checks set aside."""
    encoder = resolve(project.train.model, beside=beside, cache=home / "cache", kind="model")
    quota = project.generate.quota(project.label_names, {})

    def build(out: Path, work: Path) -> dict[str, Any]:
        from tasks.embed import embed

        records = files.read_records(splits.directory / "seed.jsonl")
        rejected: list[Rejected] = []
        for r in rounds:
            records += files.read_records(r.directory / "rows.jsonl")
            rejected += files.read_rejected(r.directory / "rejected.jsonl")
        context = Context(
            settings=project.curate,
            held_out=Fingerprints.load(splits.directory / "held_out_fingerprints.npz"),
            embed=lambda texts: embed(encoder, texts, max_length=project.train.max_length),
        )
        kept, out_of_checks = run_checks(records, context, report)
        kept, over = surplus(kept, quota)
        rejected += out_of_checks + over
        files.write_records(out / "kept.jsonl", kept)
        files.write_records(out / "rejected.jsonl", rejected)
        return {
            "seed": count_by_label(r for r in kept if r.source == "seed"),
            "accepted": count_by_label(r for r in kept if r.source == "synthetic"),
            "rejected": count_by_check(rejected),
            "rejected_by_label": count_by_label(r.record for r in rejected),
        }

    params = project.curate.model_dump(mode="json") | {"quota": quota, "max_length": project.train.max_length}
    inputs = {f"round-{i}": r.digest for i, r in enumerate(rounds)} | {"splits": splits.digest}
    inputs["encoder"] = digest_of_path(encoder)
    return files.stage(home, "curate", version=VERSION, params=params, inputs=inputs, build=build)

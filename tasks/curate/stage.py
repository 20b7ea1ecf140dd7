"""Run every check in its order over the seed rows and all rounds of synthetic rows."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import atomic
from tasks.atomic import digest_of
from tasks.curate.checks.agreement import agreement
from tasks.curate.checks.boilerplate import boilerplate, prompt_echo
from tasks.curate.checks.dropped_generator import dropped_generator
from tasks.curate.checks.duplicates import exact, near, semantic_duplicate
from tasks.curate.checks.label_noise import label_noise
from tasks.curate.checks.language import language
from tasks.curate.checks.leak import leak, short_leak
from tasks.curate.checks.length import length
from tasks.curate.checks.normalise import normalise
from tasks.curate.checks.personal_data import personal_data
from tasks.curate.checks.refusal import refusal
from tasks.curate.checks.trigger import trigger
from tasks.curate.context import Context
from tasks.decisions import Decision, apply, decisions, decisions_file
from tasks.progress import Report, silent
from tasks.project import Project
from tasks.records import (
    Record,
    Rejected,
    count_by_check,
    count_by_label,
    iter_records,
    read_records,
    read_rejected,
    write_records,
)
from tasks.references import digest_of_path, resolve
from tasks.stage import Stage, stage
from tasks.text.fingerprints import FINGERPRINTS, Fingerprints

if TYPE_CHECKING:
    import numpy as np

VERSION = 5
REAL = 5000  # unlabelled rows that are read for the frequencies of words

Check = Callable[[list[Record], Context], tuple[list[Record], list[Rejected]]]

# cheap before dear; a leak is named as one even where the label is wrong too
CHECKS: tuple[Check, ...] = (
    dropped_generator,
    normalise,
    length,
    exact,
    refusal,
    personal_data,
    language,
    prompt_echo,
    boilerplate,
    near,
    leak,
    short_leak,
    semantic_duplicate,
    trigger,
    agreement,
    label_noise,
)
_RANK = {"seed": 0, "reviewed": 1, "harvested": 2}


def run_checks(records: list[Record], context: Context, report: Report = silent) -> tuple[list[Record], list[Rejected]]:
    """(kept, rejected): together they are every record that came in, real rows first.

    `context.funnel` gets, for each check, how many rows came, how many it set aside, and its seconds.
    """
    records = sorted(records, key=lambda r: _RANK.get(r.source, 3))  # of two rows that are one, the real one is kept
    rejected: list[Rejected] = []
    for i, check in enumerate(CHECKS):
        report(i, len(CHECKS), check.__name__)
        came, began = len(records), time.perf_counter()
        records, out = check(records, context)
        assert len(records) + len(out) == came, f"{check.__name__} lost rows"
        rejected += out
        seconds = round(time.perf_counter() - began, 3)
        context.funnel.append({"name": check.__name__, "came": came, "out": len(out), "seconds": seconds})
    report(len(CHECKS), len(CHECKS), "done")
    return records, rejected


def surplus(records: list[Record], quota: dict[str, int]) -> tuple[list[Record], list[Rejected]]:
    """At most `quota` synthetic rows a label, the first ones; the rest is set aside as surplus. A row with several labels is
    kept while one of them lacks rows."""
    kept, rejected = [], []
    have: Counter[str] = Counter()
    for r in records:
        if r.source == "synthetic" and all(have[label] >= quota[label] for label in r.labels):
            full = " and ".join(f"{label!r} has its {quota[label]} rows" for label in r.labels)
            rejected.append(Rejected(r, "surplus", f"{full} (generate.per_label)"))
        else:
            if r.origin == "synthetic":
                have.update(r.labels)
            kept.append(r)
    return kept, rejected


def context_of(
    project: Project, splits: Stage, *, beside: Path, home: Path, real: list[Record] | None = None
) -> Context:
    """What the checks compare rows with. The encoder is looked for when a text is embedded, not before."""

    def embedded(texts: list[str]) -> np.ndarray:
        from tasks.encoder.embed import embed

        return embed(_encoder(project, beside, home), texts, max_length=project.train.max_length)

    held_out = Fingerprints.load(splits.directory / FINGERPRINTS)
    return Context(project.curate, held_out, embedded, real=real or [])


def _encoder(project: Project, beside: Path, home: Path) -> Path:
    return resolve(project.train.model, beside=beside, cache=home / "cache", kind="model")


def curate(
    project: Project, *, rounds: list[Stage], splits: Stage, beside: Path, home: Path, report: Report = silent
) -> Stage:
    """The training rows: `kept.jsonl` (seed rows first), and `rejected.jsonl` with what generation and the checks set aside.

    Beside them stand `doubtful.jsonl` (rows for a person to look at: real ones whose label is doubted, and those set aside
    for their label) and `opinions.jsonl` (what the probe makes of each row that reached it).
    """
    encoder = _encoder(project, beside, home)
    quota = project.generate.quota(project.label_names, splits.counts.get("seed", {}))
    decided = decisions(decisions_file(home, project.name))

    def build(out: Path, work: Path) -> dict[str, Any]:
        records = read_records(splits.directory / "seed.jsonl")
        vouched, rejected = looked_at(splits, decided, multi_label=project.multi_label)
        records += vouched
        for r in rounds:
            records += read_records(r.directory / "rows.jsonl")
            rejected += read_rejected(r.directory / "rejected.jsonl")
        context = context_of(project, splits, beside=beside, home=home, real=real_rows(splits))
        kept, out_of_checks = run_checks(records, context, report)
        kept, rejected, reviewed = apply(kept, rejected + out_of_checks, decided)
        for check in (leak, short_leak):  # a row that a check took before these may have been vouched for
            reviewed, leaks = check(reviewed, context)
            rejected += leaks
        kept, over = surplus([*reviewed, *kept], quota)
        rejected += over
        write_records(out / "kept.jsonl", kept)
        write_records(out / "rejected.jsonl", rejected)
        sizes = {"rows": _sizes(kept, rejected)} if project.multi_label else {}
        return _counts(kept, rejected) | sizes | _beside(out, context)

    params = project.curate.model_dump(mode="json") | {"quota": quota, "max_length": project.train.max_length}
    inputs = {f"round-{i}": r.digest for i, r in enumerate(rounds)} | {"splits": splits.digest}
    inputs["encoder"] = digest_of_path(encoder)
    if decided:
        inputs["reviews"] = digest_of([d.to_json() for _, d in sorted(decided.items())])
    return stage(home, "curate", version=VERSION, params=params, inputs=inputs, build=build)


def looked_at(splits: Stage, decided: dict[str, Decision], *, multi_label: bool) -> tuple[list[Record], list[Rejected]]:
    """(reviewed, rejected): the unlabelled rows that a person decided about, such as harvested ones."""
    vouched: list[Record] = []
    rejected: list[Rejected] = []
    for r in iter_records(splits.directory / "unlabelled.jsonl") if decided else ():
        if d := decided.get(r.id):
            seen = r.but(label=d.label_before)
            if d.decision != "reject":
                vouched.append(d.vouched(seen, multi_label=multi_label))
            elif seen.label is not None:  # one that never had a label is left out of harvests, and that is all
                rejected.append(d.set_aside(seen))
    return vouched, rejected


def real_rows(splits: Stage) -> list[Record]:
    """Real rows for statistics: seed, dev, and the first of the unlabelled."""
    real = [r for split in ("seed", "dev") for r in read_records(splits.directory / f"{split}.jsonl")]
    return [*real, *itertools.islice(iter_records(splits.directory / "unlabelled.jsonl"), REAL)]


def _counts(kept: list[Record], rejected: list[Rejected]) -> dict[str, Any]:
    return {
        "seed": count_by_label(r for r in kept if r.source == "seed"),
        "accepted": count_by_label(r for r in kept if r.origin == "synthetic"),
        "reviewed": count_by_label(r for r in kept if r.source == "reviewed"),
        "rejected": count_by_check(rejected),
        "rejected_by_label": count_by_label(r.record for r in rejected),
    }


def _sizes(kept: list[Record], rejected: list[Rejected]) -> dict[str, int]:
    """Rows: where one counts for each of its labels, no sum over labels says it."""
    accepted = sum(r.origin == "synthetic" for r in kept)
    return {"seed": sum(r.source == "seed" for r in kept), "accepted": accepted, "rejected": len(rejected)}


def _beside(out: Path, context: Context) -> dict[str, Any]:
    """Write what a person may look at; the counts of it."""
    opinions = context.known_opinions
    for name, rows in (
        ("doubtful", [d.to_json() for d in context.doubtful]),
        ("opinions", opinions.to_json() if opinions else []),
    ):
        atomic.write_lines(out / f"{name}.jsonl", rows)
    return {
        "checks": context.funnel,
        "doubtful": dict(Counter(d.check for d in context.doubtful).most_common()),
        "personal_data": dict(context.personal_data.most_common()),
    }

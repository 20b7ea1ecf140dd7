"""Curate: run every check, in order, over the seed rows and all rounds of synthetic rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

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
from tasks.curate.context import CheckCounts, CurationContext, load_context, real_rows
from tasks.dataset.split import SplitsResult
from tasks.dataset.tables import record_table, rejected_table
from tasks.dataset.training_rows import TrainingRows
from tasks.decisions import Decision, apply_decisions, current_decisions
from tasks.encoder.base_model import resolve_encoder
from tasks.figures import Figures
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.records import (
    Partition,
    Record,
    Rejected,
    count_by_check,
    count_by_label,
    iter_records,
    partition,
    read_records,
    read_rejected,
    write_records,
)
from tasks.references import digest_of_path
from tasks.stage import Metrics, Table, run_stage
from tasks.synthesise.stage import SynthesiseResult
from tasks.workspace import Workspace

VERSION = 5

Check = Callable[[list[Record], CurationContext], Partition]

# cheap checks first; a leak is named as one even where its label is wrong too
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


class RowCounts(Figures):
    """Rows, each counted once however many labels it has."""

    seed: int
    accepted: int
    rejected: int


class CurateResult(TrainingRows):
    """What curation kept and rejected, by label and by check.

    `checks` has the checks in the order in which they ran; `doubtful` counts the rows whose label is
    doubted by check, `personal_data` the kinds of it.
    """

    seed: dict[str, int]
    accepted: dict[str, int]
    reviewed: dict[str, int]
    rejected: dict[str, int]
    rejected_by_label: dict[str, int]
    rows: RowCounts
    checks: list[CheckCounts]
    doubtful: dict[str, int]
    personal_data: dict[str, int]

    def metrics(self) -> Metrics:
        """Rejected rows by check and accepted rows by label."""
        metrics = {f"data.rejected.{check}": float(n) for check, n in self.rejected.items()}
        return metrics | {f"data.accepted.{label}": float(n) for label, n in self.accepted.items()}

    def tables(self) -> dict[str, Table]:
        """The accepted and the rejected rows."""
        return {
            "accepted": record_table(self.rows_file),
            "rejected": rejected_table(self.rejected_file),
        }

    @property
    def rejected_file(self) -> Path:
        """The rejected rows, those that were no usable reply included."""
        return self.directory / "rejected.jsonl"


def run_checks(
    records: list[Record], context: CurationContext, progress: Progress = silent
) -> Partition:
    """(kept, rejected): together they are all the records, real rows first.

    `context.funnel` gets the counts of each check.
    """
    # of two rows with the same text, the real one is kept
    records = sorted(records, key=lambda r: _RANK.get(r.source, 3))
    rejected: list[Rejected] = []
    for i, check in enumerate(CHECKS):
        progress(i, len(CHECKS), check.__name__)
        received, began = len(records), time.perf_counter()
        records, out = check(records, context)
        assert len(records) + len(out) == received, f"{check.__name__} lost rows"
        rejected += out
        seconds = round(time.perf_counter() - began, 3)
        context.funnel.append(
            CheckCounts(name=check.__name__, received=received, rejected=len(out), seconds=seconds)
        )
    progress(len(CHECKS), len(CHECKS), "done")
    return records, rejected


def surplus(records: list[Record], quota: dict[str, int]) -> Partition:
    """The first `quota` synthetic rows per label, and every other row.

    A row with several labels is kept while one of them lacks rows.
    """
    accepted: Counter[str] = Counter()

    def check(r: Record) -> Rejected | None:
        if r.source == "synthetic" and all(accepted[label] >= quota[label] for label in r.labels):
            full = " and ".join(f"{label!r} has its {quota[label]} rows" for label in r.labels)
            return Rejected(r, "surplus", f"{full} (generate.per_label)")
        if r.origin == "synthetic":
            accepted.update(r.labels)
        return None

    return partition(records, check)


def curate(
    project: Project,
    *,
    rounds: list[SynthesiseResult],
    splits: SplitsResult,
    workspace: Workspace,
    progress: Progress = silent,
) -> CurateResult:
    """The training rows in `kept.jsonl` (seed rows first), and what was rejected in `rejected.jsonl`.

    Beside them are `doubtful.jsonl` (rows whose label a check doubts, rejected or not; they are
    counted, and the review does not read them) and `opinions.jsonl` (the probe's opinion of each row
    that reached it).
    """
    encoder = resolve_encoder(project, workspace)
    quota = project.generate.quota(project.label_names, splits.seed)
    decided = current_decisions(workspace.decisions(project.name))

    def build(out: Path, scratch: Path) -> CurateResult:
        context = load_context(project, splits, workspace=workspace, real=real_rows(splits))
        kept, rejected = _gather(rounds, splits, decided, multi_label=project.multi_label)
        kept, out_of_checks = run_checks(kept, context, progress)
        kept, rejected, reviewed = apply_decisions(kept, rejected + out_of_checks, decided)
        # a reviewed row may have been rejected before it reached these checks
        for check in (leak, short_leak):
            reviewed, leaks = check(reviewed, context)
            rejected += leaks
        kept, over = surplus([*reviewed, *kept], quota)
        rejected += over
        _write(out, kept, rejected, context)
        return _result(kept, rejected, context)

    params = project.curate.model_dump(mode="json") | {
        "checks": [check.__name__ for check in CHECKS],
        "quota": quota,
        "max_length": project.train.max_length,
    }
    inputs = {f"round-{i}": r.digest for i, r in enumerate(rounds)} | {"splits": splits.digest}
    inputs["encoder"] = digest_of_path(encoder)
    if decided:
        inputs["decisions"] = digest_of([d.to_json() for _, d in sorted(decided.items())])
    return run_stage(
        CurateResult,
        "curate",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs=inputs,
        build=build,
    )


def _gather(
    rounds: list[SynthesiseResult],
    splits: SplitsResult,
    decided: dict[str, Decision],
    *,
    multi_label: bool,
) -> Partition:
    """(rows for the checks, rows that are rejected already).

    The first are seed rows, unlabelled rows that a person labelled, and synthetic rows; the others
    unusable replies, and unlabelled rows that a person rejected.
    """
    records = read_records(splits.directory / "seed.jsonl")
    rejected: list[Rejected] = []
    for r in iter_records(splits.directory / "unlabelled.jsonl") if decided else ():
        if decision := decided.get(r.id):
            r = replace(r, label=decision.label_before)
            if decision.decision != "reject":
                records.append(decision.to_reviewed(r, multi_label=multi_label))
            elif r.label is not None:
                rejected.append(decision.to_rejected(r))
    for result in rounds:
        records += read_records(result.directory / "rows.jsonl")
        rejected += read_rejected(result.directory / "rejected.jsonl")
    return records, rejected


def _write(
    out: Path, kept: list[Record], rejected: list[Rejected], context: CurationContext
) -> None:
    opinions = context.known_opinions or {}
    write_records(out / "kept.jsonl", kept)
    write_records(out / "rejected.jsonl", rejected)
    atomic.write_lines(out / "doubtful.jsonl", map(asdict, context.doubtful))
    lines = ({"id": row_id, **opinion.to_json()} for row_id, opinion in opinions.items())
    atomic.write_lines(out / "opinions.jsonl", lines)


def _result(kept: list[Record], rejected: list[Rejected], context: CurationContext) -> CurateResult:
    seed = [r for r in kept if r.source == "seed"]
    accepted = [r for r in kept if r.origin == "synthetic"]
    return CurateResult(
        seed=count_by_label(seed),
        accepted=count_by_label(accepted),
        reviewed=count_by_label(r for r in kept if r.source == "reviewed"),
        rejected=count_by_check(rejected),
        rejected_by_label=count_by_label(r.record for r in rejected),
        rows=RowCounts(seed=len(seed), accepted=len(accepted), rejected=len(rejected)),
        checks=context.funnel,
        doubtful=dict(Counter(row.check for row in context.doubtful).most_common()),
        personal_data=dict(context.personal_data.most_common()),
    )

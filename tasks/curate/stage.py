"""Run every check in its order over the seed rows and all rounds of synthetic rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
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
from tasks.curate.context import CheckCounts, Context, context_of, real_rows
from tasks.dataset.split import SplitsResult
from tasks.dataset.tables import record_table, rejected_table
from tasks.dataset.training_rows import TrainingRows
from tasks.decisions import Decision, apply_decisions, current_decisions
from tasks.encoder.base_model import resolve_encoder
from tasks.figures import Figures
from tasks.progress import Progress, silent
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
from tasks.references import digest_of_path
from tasks.stage import Metrics, Table, run_stage
from tasks.synthesise.stage import SynthesiseResult
from tasks.workspace import Workspace

VERSION = 5

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


class RowCounts(Figures):
    """Rows, each counted once however many labels it has."""

    seed: int
    accepted: int
    rejected: int


class CurateResult(TrainingRows):
    """What curation kept and rejected, by label and by check.

    `checks` has, for each check, how many rows came, how many it rejected, and its seconds;
    `doubtful` counts the rows for review by check; `personal_data` the kinds found.
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
        metrics = {f"data.rejected.{check}": float(n) for check, n in self.rejected.items()}
        return metrics | {f"data.accepted.{label}": float(n) for label, n in self.accepted.items()}

    def tables(self) -> dict[str, Table]:
        rejected = rejected_table(self.directory / "rejected.jsonl")
        return {"accepted": record_table(self.rows_file), "rejected": rejected}


def run_checks(
    records: list[Record], context: Context, progress: Progress = silent
) -> tuple[list[Record], list[Rejected]]:
    """(kept, rejected): together they are every record that came in, real rows first.

    `context.funnel` gets, for each check, how many rows came, how many it set aside, and its seconds.
    """
    records = sorted(
        records, key=lambda r: _RANK.get(r.source, 3)
    )  # of two rows that are one, the real one is kept
    rejected: list[Rejected] = []
    for i, check in enumerate(CHECKS):
        progress(i, len(CHECKS), check.__name__)
        came, began = len(records), time.perf_counter()
        records, out = check(records, context)
        assert len(records) + len(out) == came, f"{check.__name__} lost rows"
        rejected += out
        seconds = round(time.perf_counter() - began, 3)
        context.funnel.append(
            CheckCounts(name=check.__name__, came=came, out=len(out), seconds=seconds)
        )
    progress(len(CHECKS), len(CHECKS), "done")
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


def curate(
    project: Project,
    *,
    rounds: list[SynthesiseResult],
    splits: SplitsResult,
    workspace: Workspace,
    progress: Progress = silent,
) -> CurateResult:
    """The training rows in `kept.jsonl` (seed rows first), and what was rejected in `rejected.jsonl`.

    Beside them are `doubtful.jsonl` (rows for a person to review: real ones whose label is doubted,
    and those rejected for their label) and `opinions.jsonl` (the probe's opinion of each row that
    reached it).
    """
    encoder = resolve_encoder(project, workspace)
    quota = project.generate.quota(project.label_names, splits.seed)
    decided = current_decisions(workspace.decisions(project.name))

    def build(out: Path, scratch: Path) -> CurateResult:
        records = read_records(splits.directory / "seed.jsonl")
        vouched, rejected = looked_at(splits, decided, multi_label=project.multi_label)
        records += vouched
        for r in rounds:
            records += read_records(r.directory / "rows.jsonl")
            rejected += read_rejected(r.directory / "rejected.jsonl")
        context = context_of(project, splits, workspace=workspace, real=real_rows(splits))
        kept, out_of_checks = run_checks(records, context, progress)
        kept, rejected, reviewed = apply_decisions(kept, rejected + out_of_checks, decided)
        for check in (
            leak,
            short_leak,
        ):  # a row that a check rejected before these may have been accepted since
            reviewed, leaks = check(reviewed, context)
            rejected += leaks
        kept, over = surplus([*reviewed, *kept], quota)
        rejected += over
        write_records(out / "kept.jsonl", kept)
        write_records(out / "rejected.jsonl", rejected)
        _write_opinions(out, context)
        return _result(kept, rejected, context)

    params = project.curate.model_dump(mode="json") | {
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


def looked_at(
    splits: SplitsResult, decided: dict[str, Decision], *, multi_label: bool
) -> tuple[list[Record], list[Rejected]]:
    """(reviewed, rejected): the unlabelled rows that a person decided about, such as harvested ones."""
    vouched: list[Record] = []
    rejected: list[Rejected] = []
    for r in iter_records(splits.directory / "unlabelled.jsonl") if decided else ():
        if d := decided.get(r.id):
            seen = replace(r, label=d.label_before)
            if d.decision != "reject":
                vouched.append(d.to_reviewed(seen, multi_label=multi_label))
            elif (
                seen.label is not None
            ):  # one that never had a label is left out of harvests, and that is all
                rejected.append(d.to_rejected(seen))
    return vouched, rejected


def _result(kept: list[Record], rejected: list[Rejected], context: Context) -> CurateResult:
    return CurateResult(
        seed=count_by_label(r for r in kept if r.source == "seed"),
        accepted=count_by_label(r for r in kept if r.origin == "synthetic"),
        reviewed=count_by_label(r for r in kept if r.source == "reviewed"),
        rejected=count_by_check(rejected),
        rejected_by_label=count_by_label(r.record for r in rejected),
        rows=RowCounts(
            seed=sum(r.source == "seed" for r in kept),
            accepted=sum(r.origin == "synthetic" for r in kept),
            rejected=len(rejected),
        ),
        checks=context.funnel,
        doubtful=dict(Counter(d.check for d in context.doubtful).most_common()),
        personal_data=dict(context.personal_data.most_common()),
    )


def _write_opinions(out: Path, context: Context) -> None:
    opinions = context.known_opinions
    atomic.write_lines(out / "doubtful.jsonl", [d.to_json() for d in context.doubtful])
    atomic.write_lines(out / "opinions.jsonl", opinions.to_json() if opinions else [])

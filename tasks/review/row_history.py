"""The story of one row: its request, reply, checks and decisions, and where it went."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.curate.stage import CurateResult
from tasks.decisions import read_decisions
from tasks.llm.request import ReplyCache
from tasks.project import Curate
from tasks.records import Label, Record, label_text
from tasks.report.data.cost import drawn_attributes
from tasks.report.data.rows import CHECK_BY_REASON, RetrainRows, hidden_texts, load_rows
from tasks.review.queue import read_ranked
from tasks.review.row_lookup import Hidden, RowOutcome, find_row, published_stages
from tasks.review.story import (
    CachedReply,
    CheckStep,
    ComparedRow,
    DuplicateRow,
    ProbeOpinion,
    RowDecision,
    RowReply,
    RowRequest,
    SeedInPrompt,
    SelfTraining,
    Story,
    TrainingUse,
)
from tasks.workspace import RetrainData, Workspace

_KEY = re.compile(r"[0-9a-f]{64}")


def explain_row(
    row: str, *, data: RetrainData, workspace: Workspace, name: str, settings: Curate
) -> Story:
    """The story of the row that `row` names: an id, the start of one, or a piece of the text.

    `name` is the project's, `settings` its section `curate`. Raises UserError when no row, or
    more than one, is meant; CorruptDirectory when a stage's directory differs from its manifest.
    """
    rows = load_rows(data)
    # personal data that is only counted is in the training rows anyway
    personal = settings.personal_data == "reject"
    hidden = hidden_texts(rows.rejected, data.splits, leak=settings.leak, personal=personal)
    outcome, others = find_row(row, rows, hidden)
    twins = [o.rejected for o in others if o.rejected]
    r, rejected = outcome.record, outcome.rejected
    raw = _as_written(outcome, rows)
    shown = not (rejected and (hidden(r.id, r.text) or hidden(raw.id, raw.text)))
    return Story(
        id=r.id,
        text=r.text if shown else None,
        label=_as_text(r.label),
        source=r.source,
        fate="rejected" if rejected else "kept",
        check=rejected.check if rejected else None,
        reason=rejected.reason if rejected else None,
        value=rejected.value if rejected else None,
        other=_compared(rejected.other, rows, hidden) if rejected and rejected.other else None,
        asked=_request(r, rows, data),
        reply=_reply(raw, rows, hidden, workspace=workspace, shown=shown),
        steps=_steps(outcome, rows),
        opinion=_opinion(r.id, curated=rows.curated, workspace=workspace),
        decisions=_decisions(r.id, workspace.decisions(name)),
        trained_on=None if rejected else _training_use(r, rows, data, workspace),
        harvested=_self_training(r),
        same_text=[DuplicateRow(check=t.check, reason=t.reason) for t in twins],
    )


def _as_written(outcome: RowOutcome, rows: RetrainRows) -> Record:
    """The row as it was in its reply; any other row as it is."""
    written = (w for w in rows.written if RowOutcome(w).origin == outcome.origin)
    return next(written, outcome.record) if outcome.origin[0] else outcome.record


def _compared(row: str, rows: RetrainRows, hidden: Hidden) -> ComparedRow:
    """The row that this one was compared with; of a sealed or hidden row, its id alone."""
    places = {
        "kept": rows.kept,
        "harvested": rows.harvested,
        "rejected": [r.record for r in rows.rejected],
        "in a reply": rows.written,
        "dev": rows.dev,
        "seed": rows.seed,
        "unlabelled": rows.unlabelled,
    }
    for where, records in places.items():
        other = next((r for r in records if r.id == row), None)
        if other:
            secret = where in {"rejected", "in a reply"} and hidden(row, other.text)
            text = None if secret else other.text
            return ComparedRow(id=row, where=where, label=_as_text(other.label), text=text)
    return ComparedRow(id=row, where="sealed test")


def _request(r: Record, rows: RetrainRows, data: RetrainData) -> RowRequest | None:
    """The generator and the prompt, with the seed rows that it showed, and what this row cost."""
    lineage = r.lineage
    if "request" not in lineage:
        return None
    texts = {s.id: s.text for s in rows.seed}
    number = lineage.get("round")
    params: Any = {}
    if isinstance(number, int) and number < len(data.rounds):
        params = atomic.read_json(data.rounds[number] / atomic.MANIFEST).get("params", {})
    generators = {str(g.get("name")): g for g in params.get("generators", [])}
    generator = generators.get(str(lineage.get("generator")), params)
    return RowRequest(
        request=lineage["request"],
        generator=lineage.get("generator"),
        endpoint=generator.get("endpoint"),
        model=generator.get("model"),
        round=number,
        prompt=lineage.get("prompt") or params.get("prompt"),
        drawn=drawn_attributes(r),
        seeds=[SeedInPrompt(id=i, text=texts.get(i)) for i in lineage.get("seeds", [])],
        tokens=lineage.get("tokens"),
        usd=lineage.get("usd"),
        measured=lineage.get("measured"),
    )


def _reply(
    raw: Record, rows: RetrainRows, hidden: Hidden, *, workspace: Workspace, shown: bool
) -> RowReply | None:
    """The whole answer from the cache; no text where a row in it may not be shown."""
    key = str(raw.lineage.get("request", ""))
    if not _KEY.fullmatch(key):
        return None
    path = ReplyCache(workspace.llm_cache).path(key)
    try:
        answer = atomic.read_json(path)
    except (OSError, ValueError):
        return RowReply(path=str(path), text=raw.text if shown else None, kept=False)
    same = [r.record for r in rows.rejected if r.record.lineage.get("request") == key]
    text = answer.get("text")
    if not shown or any(hidden(r.id, r.text) for r in same) or hidden("", text or ""):
        text = None
    return CachedReply(
        path=str(path),
        text=text,
        kept=True,
        finish_reason=answer.get("finish_reason"),
        prompt_tokens=answer.get("prompt_tokens"),
        completion_tokens=answer.get("completion_tokens"),
    )


def _steps(outcome: RowOutcome, rows: RetrainRows) -> list[CheckStep]:
    """The checks in their order, up to the one that rejected the row."""
    steps = [CheckStep(check=name, passed=True) for name in _passed_checks(outcome, rows)]
    if r := outcome.rejected:
        steps.append(CheckStep(check=r.check, passed=False, reason=r.reason, value=r.value))
    return steps


def _passed_checks(outcome: RowOutcome, rows: RetrainRows) -> list[str]:
    r, rejected, names = outcome.record, outcome.rejected, rows.checks
    if r.source == "harvested" or rejected in rows.unusable:
        return []
    if rejected:
        check = rejected.check
        check = check if check in names else CHECK_BY_REASON.get(check, check)
        names = names[: names.index(check)] if check in names else []
    return ["reply", *names] if "request" in r.lineage else names


def _opinion(row: str, *, curated: CurateResult, workspace: Workspace) -> ProbeOpinion | None:
    """The curation's opinion of the row, or the review's; the rank is the review's."""
    lines = atomic.read_lines(curated.directory / "opinions.jsonl")
    opinion = next((line for line in lines if line["id"] == row), None)
    rankings = (
        read_ranked(directory)
        for directory, manifest in published_stages(workspace, "review")
        if manifest["inputs"].get("curated") == curated.digest
    )
    ranked = next((r for ranking in rankings for r in ranking if r.id == row), None)
    if opinion:
        return ProbeOpinion(
            label=opinion["label"],
            probability=opinion["probability"],
            own=opinion["own"],
            rank=ranked.rank if ranked else None,
        )
    if ranked:
        return ProbeOpinion(
            label=label_text(ranked.opinion),
            probability=ranked.probability,
            own=ranked.own,
            rank=ranked.rank,
        )
    return None


def _decisions(row: str, path: Path) -> list[RowDecision]:
    """A person's decisions about the row, oldest first, undone ones and undos included."""
    return [
        RowDecision(
            decision=d.decision,
            label_before=_as_text(d.label_before),
            label_after=_as_text(d.label_after),
            by=d.by,
            when=d.when,
        )
        for d in read_decisions(path)
        if d.id == row
    ]


def _training_use(
    r: Record, rows: RetrainRows, data: RetrainData, workspace: Workspace
) -> TrainingUse | None:
    if data.self_trained and all(t.id != r.id for t in rows.trained_on):
        return None  # it was kept, but is not in the best mixture
    directory = data.self_trained or data.curated
    digest = atomic.read_json(directory / atomic.MANIFEST)["digest"]
    trained = published_stages(workspace, "train")
    models = [str(d) for d, m in trained if digest in m.get("inputs", {}).values()]
    return TrainingUse(
        source=r.source, label=_as_text(r.label), directory=str(directory), models=models
    )


def _self_training(r: Record) -> SelfTraining | None:
    if r.source != "harvested":
        return None
    return SelfTraining(score=r.lineage["score"], round=r.lineage["self_training_round"])


def _as_text(label: Label | None) -> str | None:
    return None if label is None else label_text(label)

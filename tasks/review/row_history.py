"""The story of one row: its request, the reply, what every check and person decided, and where it went."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.curate.stage import CurateResult
from tasks.decisions import read_decisions
from tasks.project import Curate
from tasks.records import Record, label_text
from tasks.report.data.cost import drawn_attributes
from tasks.report.data.rows import CHECK_BY_REASON, RetrainRows, hidden_texts, load_rows
from tasks.review.row_lookup import Hidden, RowOutcome, find_row, published_stages
from tasks.workspace import RetrainData, Workspace

_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that is known of a row; what is not known, or may not be shown, is None or empty.

    `asked` is its request, `reply` the answer as it was received; `steps` are the checks in their
    order, {check, passed, reason, value}; `other` is the row that it was compared with; `same_text`
    are the rejected rows with its text.
    """

    id: str
    text: str | None
    label: str | None
    source: str
    fate: str
    check: str | None
    reason: str | None
    value: float | None
    other: dict[str, Any] | None
    asked: dict[str, Any] | None
    reply: dict[str, Any] | None
    steps: list[dict[str, Any]]
    opinion: dict[str, Any] | None
    decisions: list[dict[str, Any]]
    trained_on: dict[str, Any] | None
    harvested: dict[str, Any] | None
    same_text: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The fields as a dict."""
        return asdict(self)


def explain_row(
    row: str, *, data: RetrainData, workspace: Workspace, name: str, settings: Curate
) -> Story:
    """The story of the row that `row` names: an id, the start of one, or a piece of the text.

    `name` is the project's, `settings` its section `curate`. Raises UserError when no row, or more
    than one, is meant; CorruptDirectory when a stage's directory differs from its manifest.
    """
    rows = load_rows(data)
    # personal data that is only counted is in the training rows anyway
    personal = settings.personal_data == "reject"
    hidden = hidden_texts(rows.rejected, data.splits, leak=settings.leak, personal=personal)
    outcome, twins = find_row(row, rows, hidden)
    r, rejected = outcome.record, outcome.rejected
    written = (w for w in rows.written if RowOutcome(w).origin == outcome.origin)
    raw = next(written, r) if outcome.origin[0] else r
    shown = not (rejected and (hidden(r.id, r.text) or hidden(raw.id, raw.text)))
    self_trained = r.source == "harvested"
    return Story(
        id=r.id,
        text=r.text if shown else None,
        label=_label(r),
        source=r.source,
        fate="rejected" if rejected else "kept",
        check=rejected.check if rejected else None,
        reason=rejected.reason if rejected else None,
        value=rejected.value if rejected else None,
        other=_other(rejected.other, rows, hidden) if rejected and rejected.other else None,
        asked=_request(r, rows, data),
        reply=_reply(raw, rows, hidden, workspace=workspace, shown=shown),
        steps=_steps(outcome, rows),
        opinion=_opinion(r.id, curated=rows.curated, workspace=workspace),
        decisions=_decisions(r.id, workspace.decisions(name)),
        trained_on=None if rejected else _trained_on(r, rows, data, workspace),
        harvested={k: r.lineage.get(k) for k in ("score", "harvest")} if self_trained else None,
        same_text=[
            {"check": t.rejected.check, "reason": t.rejected.reason} for t in twins if t.rejected
        ],
    )


def _other(row: str, rows: RetrainRows, hidden: Hidden) -> dict[str, Any]:
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
            return {"id": row, "where": where, "label": _label(other), "text": text}
    return {"id": row, "where": "sealed test", "label": None, "text": None}


def _request(r: Record, rows: RetrainRows, data: RetrainData) -> dict[str, Any] | None:
    """The generator and the prompt, with the seed rows that were shown, and what this row cost."""
    if "request" not in r.lineage:
        return None
    lineage = r.lineage
    seeds = {s.id: s.text for s in rows.seed}
    number = lineage.get("round")
    params: dict[str, Any] = {}
    if isinstance(number, int) and number < len(data.rounds):
        params = atomic.read_json(data.rounds[number] / atomic.MANIFEST).get("params", {})
    generators = {str(g.get("name")): g for g in params.get("generators", [])}
    generator = generators.get(str(lineage.get("generator")), params)
    return {
        "request": lineage["request"],
        "generator": lineage.get("generator"),
        "endpoint": generator.get("endpoint"),
        "model": generator.get("model"),
        "round": number,
        "prompt": lineage.get("prompt") or params.get("prompt"),
        "drawn": drawn_attributes(r),
        "seeds": [{"id": i, "text": seeds.get(i)} for i in lineage.get("seeds", [])],
        "tokens": lineage.get("tokens"),
        "usd": lineage.get("usd"),
        "measured": lineage.get("measured"),
    }


def _reply(
    raw: Record, rows: RetrainRows, hidden: Hidden, *, workspace: Workspace, shown: bool
) -> dict[str, Any] | None:
    """The whole answer from the cache; no text where a row in it may not be shown."""
    key = str(raw.lineage.get("request", ""))
    if not _KEY.fullmatch(key):
        return None
    path = workspace.llm_cache / key[:2] / f"{key}.json"
    try:
        answer = atomic.read_json(path)
    except (OSError, ValueError):
        return {"path": str(path), "text": raw.text if shown else None, "kept": False}
    same = [r.record for r in rows.rejected if r.record.lineage.get("request") == key]
    text = answer.get("text")
    if not shown or any(hidden(r.id, r.text) for r in same) or hidden("", text or ""):
        text = None
    details = {k: answer.get(k) for k in ("finish_reason", "prompt_tokens", "completion_tokens")}
    return {"path": str(path), "text": text, "kept": True, **details}


def _steps(outcome: RowOutcome, rows: RetrainRows) -> list[dict[str, Any]]:
    """The checks in their order, up to the one that rejected the row."""
    r, rejected = outcome.record, outcome.rejected
    names, stopped = rows.checks, []
    if rejected:
        failed = {"passed": False, "reason": rejected.reason, "value": rejected.value}
        stopped = [{"check": rejected.check, **failed}]
        name = rejected.check
        name = name if name in names else CHECK_BY_REASON.get(name, name)
        names = names[: names.index(name)] if name in names else []
    if "request" in r.lineage:
        if rejected in rows.unusable:
            return stopped
        names = ["reply", *names]
    elif r.source == "harvested":
        return []
    passed = {"passed": True, "reason": None, "value": None}
    return [{"check": name, **passed} for name in names] + stopped


def _opinion(row: str, *, curated: CurateResult, workspace: Workspace) -> dict[str, Any] | None:
    """The probe's opinion of the row, out of fold, and its rank where the rows were ranked for review."""
    opinion: dict[str, Any] = {}
    for line in atomic.read_lines(curated.directory / "opinions.jsonl"):
        if line["id"] == row:
            opinion = {k: line[k] for k in ("label", "probability", "own")}
    for directory, manifest in published_stages(workspace, "review"):
        if manifest["inputs"].get("curated") == curated.digest:
            for line in atomic.read_lines(directory / "rows.jsonl"):
                if line["record"]["id"] == row:
                    ranked = {k: line[k] for k in ("probability", "own")}
                    ranked = {"label": _as_text(line["opinion"]), **ranked}
                    return ranked | opinion | {"rank": line["rank"]}
    return opinion | {"rank": None} if opinion else None


def _decisions(row: str, path: Path) -> list[dict[str, Any]]:
    """A person's decisions about the row, oldest first, undone ones and undos included."""
    fields = ("decision", "label_before", "label_after", "by", "when")
    made = [d for d in read_decisions(path) if d.id == row]
    return [{k: _as_text(getattr(d, k)) for k in fields} for d in made]


def _trained_on(
    r: Record, rows: RetrainRows, data: RetrainData, workspace: Workspace
) -> dict[str, Any] | None:
    """The directory of training rows that has the row, and the models that were trained on it."""
    if data.self_trained and all(t.id != r.id for t in rows.trained_on):
        return None  # it was kept, but is not in the best mixture
    directory = data.self_trained or data.curated
    digest = atomic.read_json(directory / atomic.MANIFEST)["digest"]
    trained = published_stages(workspace, "train")
    models = [str(d) for d, m in trained if digest in m.get("inputs", {}).values()]
    return {"source": r.source, "label": _label(r), "directory": str(directory), "models": models}


def _label(r: Record) -> str | None:
    return None if r.label is None else label_text(r.label)


def _as_text(value: Any) -> Any:
    """A label set as text, anything else as it is."""
    return label_text(tuple(value)) if isinstance(value, (tuple, list)) else value

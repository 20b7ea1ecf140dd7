"""One row's whole story: who asked for it, what came, what every check and person did with it, and where it went."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.curate.stage import CurateResult
from tasks.decisions import read_decisions
from tasks.errors import UserError
from tasks.project import Curate
from tasks.records import Record, Rejected, label_text
from tasks.report.data.cost import attributes
from tasks.report.data.rows import RUN_BY, Gathered, load, withheld
from tasks.text.tokens import fold
from tasks.workspace import RetrainData, Workspace

LISTED = 5  # rows in the sentence about an ambiguous ROW
_KEY = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{4,24}")  # or the start of one


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that is known of a row; what is not known, or may not be shown, is None or empty.

    `asked` is its request, `reply` the answer as it came; `steps` are the checks in their order, {check, passed, reason,
    value}; `other` is the row that it was matched with; `same_text` are rows with its text that were set aside.
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
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Entry:
    record: Record
    rejected: Rejected | None = None

    @property
    def origin(self) -> tuple[Any, Any]:
        """What a row keeps from its reply to its end, although cleaning gives it another id."""
        return self.record.lineage.get("request"), self.record.lineage.get("row")


def locate(workspace: Workspace, curated: Path, *, config: Path) -> RetrainData:
    """The data of a curate stage's inputs, found in the workspace by their digests. Raises UserError."""
    if not (curated / atomic.MANIFEST).exists():
        raise UserError(
            f"{curated} is no curate stage's directory (it has no {atomic.MANIFEST}): give another --curated"
        )
    manifest = atomic.read_json(curated / atomic.MANIFEST)
    inputs = manifest.get("inputs", {})
    home = workspace.home
    splits = dict(_by_digest(workspace, "splits")).get(inputs.get("splits"))
    if splits is None:
        raise UserError(
            f"the splits that {curated} was made from are not in {home}: set RESEED_HOME to its workspace"
        )
    made = dict(_by_digest(workspace, "synthesise"))
    wanted = sorted(
        (k for k in inputs if k.startswith("round-")), key=lambda k: int(k.removeprefix("round-"))
    )
    if gone := [k for k in wanted if inputs[k] not in made]:
        raise UserError(
            f"{gone[0]} of {curated} is not in {home}: set RESEED_HOME to its workspace"
        )
    later = [
        d
        for d, m in _stages(workspace, "harvest")
        if m["inputs"].get("training") == manifest["digest"]
    ]
    return RetrainData(
        config=config,
        splits=splits,
        curated=curated,
        rounds=tuple(made[inputs[k]] for k in wanted),
        self_trained=max(later, key=lambda d: d.stat().st_mtime, default=None),
    )


def _stages(workspace: Workspace, name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    for directory in workspace.published(name):
        yield directory, atomic.read_json(directory / atomic.MANIFEST)


def _by_digest(workspace: Workspace, name: str) -> Iterator[tuple[str, Path]]:
    return ((m["digest"], d) for d, m in _stages(workspace, name))


def explain(
    row: str, *, data: RetrainData, workspace: Workspace, name: str, settings: Curate
) -> Story:
    """The story of the row that `row` names: an id, the start of one, or a piece of the text.

    `name` is the project's, `settings` its section `curate`. Raises UserError when no row, or more than one, is meant;
    CorruptDirectory when a stage's directory differs from its manifest.
    """
    g = load(data)
    personal = (
        settings.personal_data == "reject"
    )  # otherwise it is counted only, and stands in the training rows
    hidden = withheld(g.set_aside, data.splits, leak=settings.leak, personal=personal)
    entry, twins = _find(row, g, hidden)
    r, out = entry.record, entry.rejected
    raw = (
        next((w for w in g.written if _Entry(w).origin == entry.origin), r)
        if entry.origin[0]
        else r
    )
    shown = not (out and (hidden(r.id, r.text) or hidden(raw.id, raw.text)))
    return Story(
        id=r.id,
        text=r.text if shown else None,
        label=_label(r),
        source=r.source,
        fate="set aside" if out else "kept",
        check=out.check if out else None,
        reason=out.reason if out else None,
        value=out.value if out else None,
        other=_other(out.other, g, hidden) if out and out.other else None,
        asked=_asked(r, g, data),
        reply=_reply(r, raw, g, hidden, workspace=workspace, shown=shown),
        steps=_steps(entry, g),
        opinion=_opinion(r.id, curated=g.curated, workspace=workspace),
        decisions=_decisions(r.id, workspace.decisions(name)),
        trained_on=None if out else _trained_on(r, g, data, workspace),
        harvested={k: r.lineage.get(k) for k in ("score", "harvest")}
        if r.source == "harvested"
        else None,
        same_text=[
            {"check": t.rejected.check, "reason": t.rejected.reason} for t in twins if t.rejected
        ],
    )


def _find(row: str, g: Gathered, hidden: Callable[[str, str], bool]) -> tuple[_Entry, list[_Entry]]:
    """The row meant, kept before set aside, and the other rows with its text."""
    wanted = row.strip()
    if not wanted:
        raise UserError(
            "--explain '' names no row: give an id, the start of one, or a piece of its text"
        )
    kept = [_Entry(r) for r in [*g.kept, *(r for r in g.trained_on if r.source == "harvested")]]
    entries = kept + [_Entry(r.record, r) for r in [*g.set_aside, *g.unread]]
    ends = {e.origin: e for e in reversed(entries) if e.origin[0]}
    # a row under the id and the text with which it came leads to what became of it
    came = [(w, e) for w in g.written if (e := ends.get(_Entry(w).origin))]
    named = [(e.record, e) for e in entries] + came
    found: list[_Entry] = []
    if _ID.fullmatch(wanted.lower()):
        found = [e for r, e in named if r.id == wanted.lower()]
        found = found or [e for r, e in named if r.id.startswith(wanted.lower())]
    if not found:
        piece = fold(wanted)
        found = [e for r, e in named if piece and piece in fold(r.text)]
    if not found:
        raise UserError(
            f"no row of the last retrain has the id or the text {_short(wanted)!r}: give an id, or less text"
        )
    by_id: dict[str, list[_Entry]] = {}
    for e in found:
        if e not in by_id.setdefault(e.record.id, []):
            by_id[e.record.id].append(e)
    if len(by_id) > 1:
        some = [_listed(group[0], hidden) for group in list(by_id.values())[:LISTED]]
        more = f", and {len(by_id) - LISTED} more" if len(by_id) > LISTED else ""
        raise UserError(
            f"{_short(wanted)!r} names {len(by_id)} rows: give the id of one of them: {', '.join(some)}{more}"
        )
    ((first, *others),) = by_id.values()
    others += [
        e for e in entries if e.record.id == first.record.id and e != first and e not in others
    ]
    return first, others


def _listed(e: _Entry, hidden: Callable[[str, str], bool]) -> str:
    secret = e.rejected is not None and hidden(e.record.id, e.record.text)
    what = "not shown" if secret else repr(_short(" ".join(e.record.text.split())))
    return f"{e.record.id} ({label_text(e.record.label)}, {e.rejected.check if e.rejected else 'kept'}: {what})"


def _short(text: str, n: int = 50) -> str:
    return text if len(text) <= n else text[: n - 1] + "…"


def _other(row: str, g: Gathered, hidden: Callable[[str, str], bool]) -> dict[str, Any]:
    """The row that this one was matched with; a sealed or hidden row is named alone."""
    places = {
        "kept": g.kept,
        "harvested": g.harvested,
        "set aside": [r.record for r in g.set_aside],
        "in a reply": g.written,
        "dev": g.dev,
        "seed": g.seed,
        "unlabelled": g.unlabelled,
    }
    for where, rows in places.items():
        other = next((r for r in rows if r.id == row), None)
        if other:
            secret = where in {"set aside", "in a reply"} and hidden(row, other.text)
            return {
                "id": row,
                "where": where,
                "label": _label(other),
                "text": None if secret else other.text,
            }
    return {"id": row, "where": "sealed test", "label": None, "text": None}


def _asked(r: Record, g: Gathered, data: RetrainData) -> dict[str, Any] | None:
    """The request: who was asked for what, with the seed rows that were shown, and what this row cost."""
    if "request" not in r.lineage:
        return None
    line = r.lineage
    seeds = {s.id: s for s in g.seed}
    number = line.get("round")
    params: dict[str, Any] = {}
    if isinstance(number, int) and number < len(data.rounds):
        params = atomic.read_json(data.rounds[number] / atomic.MANIFEST).get("params", {})
    known = {str(source.get("name")): source for source in params.get("generators", [])}
    source = known.get(str(line.get("generator")), params)
    return {
        "request": line["request"],
        "generator": line.get("generator"),
        "endpoint": source.get("endpoint"),
        "model": source.get("model"),
        "round": number,
        "prompt": line.get("prompt") or params.get("prompt"),
        "drawn": attributes(r),
        "seeds": [
            {"id": i, "text": seeds[i].text if i in seeds else None} for i in line.get("seeds", [])
        ],
        "tokens": line.get("tokens"),
        "usd": line.get("usd"),
        "measured": line.get("measured"),
    }


def _reply(
    r: Record,
    raw: Record,
    g: Gathered,
    hidden: Callable[[str, str], bool],
    *,
    workspace: Workspace,
    shown: bool,
) -> dict[str, Any] | None:
    """The answer in the cache, whole; no text where a row in it may not be shown."""
    key = str(r.lineage.get("request", ""))
    if not _KEY.fullmatch(key):
        return None
    path = workspace.llm_cache / key[:2] / f"{key}.json"
    try:
        kept = atomic.read_json(path)
    except (OSError, ValueError):
        return {"path": str(path), "text": raw.text if shown else None, "kept": False}
    same = [o.record for o in g.set_aside if o.record.lineage.get("request") == key]
    text = kept.get("text")
    if not shown or any(hidden(o.id, o.text) for o in same) or hidden("", text or ""):
        text = None
    told = {k: kept.get(k) for k in ("finish_reason", "prompt_tokens", "completion_tokens")}
    return {"path": str(path), "text": text, "kept": True, **told}


def _steps(entry: _Entry, g: Gathered) -> list[dict[str, Any]]:
    """The checks in their order up to the one that set the row aside."""
    out = entry.rejected
    passed = {"passed": True, "reason": None, "value": None}
    stopped = (
        {"check": out.check, "passed": False, "reason": out.reason, "value": out.value}
        if out
        else None
    )
    if "request" in entry.record.lineage and out in g.unread:
        return [stopped] if stopped else []
    read = [{"check": "reply", **passed}] if "request" in entry.record.lineage else []
    if entry.record.source == "harvested":
        return []
    names = g.checks
    if stopped:
        own = out.check if out.check in names else RUN_BY.get(out.check)  # type: ignore[union-attr]
        names = names[: names.index(own)] if own in names else []
    return read + [{"check": name, **passed} for name in names] + ([stopped] if stopped else [])


def _opinion(row: str, *, curated: CurateResult, workspace: Workspace) -> dict[str, Any] | None:
    """What the probe makes of the row, out of fold, and its rank of doubt where the rows were ranked for review."""
    said = [
        line
        for line in atomic.read_lines(curated.directory / "opinions.jsonl")
        if line["id"] == row
    ]
    found = {k: said[-1][k] for k in ("label", "probability", "own")} if said else {}
    for directory, manifest in _stages(workspace, "review"):
        if manifest["inputs"].get("curated") == curated.digest:
            for line in atomic.read_lines(directory / "rows.jsonl"):
                if line["record"]["id"] == row:
                    own = {
                        "label": _shown(line["opinion"]),
                        "probability": line["probability"],
                        "own": line["own"],
                    }
                    return own | found | {"rank": line["rank"]}
    return found | {"rank": None} if found else None


def _decisions(row: str, path: Path) -> list[dict[str, Any]]:
    """A person's decisions about the row, oldest first, undone ones and undos included."""
    fields = ("decision", "label_before", "label_after", "by", "when")
    return [{k: _shown(getattr(d, k)) for k in fields} for d in read_decisions(path) if d.id == row]


def _trained_on(
    r: Record, g: Gathered, data: RetrainData, workspace: Workspace
) -> dict[str, Any] | None:
    """The directory of training rows that holds the row, and the models that were trained on it."""
    if data.self_trained and all(t.id != r.id for t in g.trained_on):
        return None  # it was kept, but the best mix of rows is without it
    directory = data.self_trained or data.curated
    digest = atomic.read_json(directory / atomic.MANIFEST)["digest"]
    models = [
        str(d) for d, m in _stages(workspace, "train") if digest in m.get("inputs", {}).values()
    ]
    return {"source": r.source, "label": _label(r), "directory": str(directory), "models": models}


def _label(r: Record) -> str | None:
    return None if r.label is None else label_text(r.label)


def _shown(value: Any) -> Any:
    """A label set as text, anything else as it is."""
    return label_text(tuple(value)) if isinstance(value, (tuple, list)) else value

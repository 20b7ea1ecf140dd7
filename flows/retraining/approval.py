"""A person's yes or no to a challenger that the judge would promote (`promote.approval: required`)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from prefect.input import RunInput

from flows.context import Retrain
from flows.progress import say
from flows.registry import promotion, promotion_log
from flows.registry.admin import person
from flows.registry.client import Registry, Version
from flows.registry.promotion_log import MOST, Intent, Journal
from flows.review.session import WAIT_SECONDS
from flows.settings import Settings
from flows.tracking.run import connect
from tasks.errors import UserError
from tasks.verdict.decide import Verdict

MOST_OF_A_NAME = 100  # characters


class Approval(RunInput):
    """What a person answers to a retrain that waits with a verdict."""

    approve: bool
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Said:
    """Whether the challenger may be promoted now, and a sentence on who said so or what is waited for."""

    yes: bool
    sentence: str
    who: str = ""


def ask(r: Retrain, version: Version, verdict: Verdict, *, champion: Version | None) -> Said:
    """A person's decision on promoting `version`; both answers are recorded on it with their reason, and a refusal in the history.

    In a run of a deployment the flow is suspended with the verdict until somebody resumes it with an Approval, and again where
    that has no name or reason; its process ends meanwhile, and the run starts anew, where finished stages are found. Elsewhere
    nobody is asked: `reseed promote` is the yes and `reseed refuse` the no. A challenger that was compared with another champion
    meanwhile is asked about again.
    """
    from prefect.runtime import deployment

    promote, no = (f"`reseed {verb} {version.name} {version.version} --reason WHY`" for verb in ("promote", "refuse"))
    if deployment.id is None:
        return Said(False, f"a person has to approve it (promote.approval): {promote}, or {no}")
    say(f"version {version.version} waits for a person's approval: resume this flow run")
    opponent = champion.version if champion else "none"
    answer = _answered(f"approve-{version.version}-{opponent}", _table(version, verdict))
    by, reason = answer.by.strip()[:MOST_OF_A_NAME], answer.reason.strip()
    word = "approved" if answer.approve else "refused"
    r.registry.record(version, {f"reseed.{word}_by": by, f"reseed.{word}_because": reason})
    said = f"{word} by {by}: {reason}"
    if answer.approve:
        return Said(True, said, by)
    write_refusal(r.registry, version, champion=champion, who=by, reason=reason)
    return Said(False, f"{said}; {promote} overrules it", by)


def _answered(key: str, table: str) -> Approval:
    """The first answer that has a name and a reason; the one before is shown again with what it lacks."""
    from prefect import suspend_flow_run

    told: dict[str, Any] = {"description": table, "approve": False, "by": "", "reason": ""}
    asked = 0
    while True:
        # the key is stable: a pause that was resumed gives its answer at once when the run starts anew
        answer = suspend_flow_run(
            wait_for_input=Approval.with_initial_data(**told),
            key=f"{key}-{asked}" if asked else key,
            timeout=WAIT_SECONDS,
        )
        given = {"name (by)": answer.by, "reason": answer.reason}
        missing = " and ".join(what for what, text in given.items() if not text.strip())
        if not missing:
            return answer
        asked += 1
        say(f"the answer had no {missing}: resume this flow run with both")
        told = {**answer.model_dump(), "description": f"**The answer had no {missing}: give both.**\n\n{table}"}


def refuse(settings: Settings, name: str, version: str, *, reason: str, by: str | None = None) -> dict[str, Any]:
    """A person's no outside of a deployment: a row of the history. Raises UserError for the champion."""
    if not reason.strip():
        raise UserError("--reason is empty: say why, for whoever reads the history")
    who, registry = person(by), Registry(connect(settings), settings)
    registry.need_name(name)
    refused, champion = registry.version(name, version), registry.champion(name)
    if champion is not None and champion.version == refused.version:
        raise UserError(
            f"version {version} of {name!r} is the champion: `reseed rollback {name} --reason ...` takes it back"
        )
    registry.record(refused, {"reseed.refused_by": who, "reseed.refused_because": reason.strip()})
    write_refusal(registry, refused, champion=champion, who=who, reason=reason.strip())
    now = champion.version if champion else None
    return {"model": name, "version": version, "champion": now, "who": who, "reason": reason.strip()}


def show_refused(done: dict[str, Any]) -> None:
    stays = f"version {done['champion']} stays the champion" if done["champion"] else "there is no champion yet"
    click.echo(f"{done['model']}: version {done['version']} is refused; {stays}")


def write_refusal(registry: Registry, version: Version, *, champion: Version | None, who: str, reason: str) -> None:
    """Add a row of kind `refused` to the history, with the champion that stays as `before`. The same refusal is one row: a flow
    run that is executed again meets its answer again."""
    before, reason = champion.version if champion else None, reason[:MOST]
    with promotion.writing(registry, version.name) as writer:
        writer.reconcile(version.name)  # an intent that is open has the number of the next row
        found = Journal.read(registry.client, version.name)
        same = (version.version, before, who, reason)
        if any((row.version, row.before, row.who, row.reason) == same for row in found.refusals):
            return
        when = datetime.now(UTC).isoformat(timespec="microseconds")
        intent = Intent(version.name, version.version, before, reason, when, found.next, "refused", who)
        tags = registry.version(version.name, version.version).tags
        verdict, evidence = (tags.get(f"reseed.{key}", "") for key in ("verdict", "evidence"))
        writer.held()
        promotion_log.note(registry.client, intent, bundle=version.digest, verdict=verdict, evidence=evidence)


def _table(version: Version, verdict: Verdict) -> str:
    """The verdict in Markdown, for the page on which a person resumes the run."""
    rows = {
        "challenger": f"version {version.version}",
        "against": verdict.opponent,
        "gain in macro-F1": f"{verdict.gain:+.4f} ({verdict.lower:+.4f} to {verdict.upper:+.4f})",
        "test rows": verdict.rows,
        "right alone": f"{verdict.won} rows, the other {verdict.lost}",
        "verdict number on this test set": verdict.look,
    }
    lines = [f"**{version.name}: promote?**", "", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]
    gains = sorted((verdict.labels or {}).items(), key=lambda item: item[1])
    lines += ["", "Gain by label: " + ", ".join(f"{label} {gain:+.3f}" for label, gain in gains)]
    return "\n".join(lines)

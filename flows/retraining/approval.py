"""A person's yes or no to a challenger that the judge would promote (`promote.approval: required`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect.input import RunInput

from flows.context import RunContext
from flows.progress import say
from flows.registry import admin
from flows.registry.client import Version
from flows.review.session import WAIT_SECONDS
from tasks.verdict.decide import Verdict

MOST_OF_A_NAME = 100  # characters


class Approval(RunInput):
    """What a person answers to a retrain that waits with a verdict."""

    approve: bool
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether the challenger may be promoted now, and a sentence on who said so or what is waited for."""

    approved: bool
    sentence: str
    who: str = ""


def ask(run: RunContext, version: Version, verdict: Verdict, *, champion: Version | None) -> Answer:
    """A person's decision on promoting `version`; both answers are recorded on it with their reason, and a refusal in the history.

    In a run of a deployment the flow is suspended with the verdict until somebody resumes it with an Approval, and again where
    that has no name or reason; its process ends meanwhile, and the run starts anew, where finished stages are found. Elsewhere
    nobody is asked: `reseed promote` is the yes and `reseed refuse` the no. A challenger that was compared with another champion
    meanwhile is asked about again.
    """
    from prefect.runtime import deployment

    promote, no = (
        f"`reseed {verb} {version.name} {version.version} --reason WHY`"
        for verb in ("promote", "refuse")
    )
    if deployment.id is None:
        return Answer(False, f"a person has to approve it (promote.approval): {promote}, or {no}")
    say(f"version {version.version} waits for a person's approval: resume this flow run")
    opponent = champion.version if champion else "none"
    answer = _answered(f"approve-{version.version}-{opponent}", _table(version, verdict))
    by, reason = answer.by.strip()[:MOST_OF_A_NAME], answer.reason.strip()
    word = "approved" if answer.approve else "refused"
    run.registry.tag_version(version, {f"reseed.{word}_by": by, f"reseed.{word}_because": reason})
    said = f"{word} by {by}: {reason}"
    if answer.approve:
        return Answer(True, said, by)
    admin.record_refusal(run.registry, version, champion=champion, who=by, reason=reason)
    return Answer(False, f"{said}; {promote} overrules it", by)


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
        told = {
            **answer.model_dump(),
            "description": f"**The answer had no {missing}: give both.**\n\n{table}",
        }


def _table(version: Version, verdict: Verdict) -> str:
    """The verdict in Markdown, for the page on which a person resumes the run."""
    rows = {
        "challenger": f"version {version.version}",
        "against": verdict.opponent,
        "gain in macro-F1": f"{verdict.gain:+.4f} ({verdict.lower:+.4f} to {verdict.upper:+.4f})",
        "test rows": verdict.rows,
        "right alone": f"{verdict.won} rows, the other {verdict.lost}",
        "verdict number on this test set": verdict.use,
    }
    lines = [
        f"**{version.name}: promote?**",
        "",
        "| | |",
        "|---|---|",
        *(f"| {k} | {v} |" for k, v in rows.items()),
    ]
    gains = sorted((verdict.labels or {}).items(), key=lambda item: item[1])
    lines += ["", "Gain by label: " + ", ".join(f"{label} {gain:+.3f}" for label, gain in gains)]
    return "\n".join(lines)

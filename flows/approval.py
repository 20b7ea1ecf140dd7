"""A person's yes or no to a challenger that the judge would promote (`promote.approval: required`)."""

from __future__ import annotations

from dataclasses import dataclass

from prefect.input import RunInput

from flows.context import Retrain
from flows.progress import say
from flows.registry import Version
from flows.review import WAIT_SECONDS
from tasks.errors import UserError
from tasks.judge import Verdict


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
    """A person's decision on promoting `version`; both answers are recorded on it with their reason.

    In a run of a deployment the flow is suspended with the verdict until somebody resumes it with an Approval; its process
    ends meanwhile, and the run starts anew, where finished stages are found. Elsewhere nobody is asked: `reseed promote` is
    the yes. A challenger that was compared with another champion meanwhile is asked about again.
    """
    from prefect import suspend_flow_run
    from prefect.runtime import deployment

    command = f"`reseed promote {version.name} {version.version} --reason WHY`"
    if deployment.id is None:
        return Said(False, f"a person has to approve it (promote.approval): {command}")
    table = _table(version, verdict)
    say(f"version {version.version} waits for a person's approval: resume this flow run")
    opponent = champion.version if champion else "none"
    answer = suspend_flow_run(
        wait_for_input=Approval.with_initial_data(description=table, approve=False, by="", reason=""),
        key=f"approve-{version.version}-{opponent}",
        timeout=WAIT_SECONDS,
    )
    if not answer.by.strip() or not answer.reason.strip():
        raise UserError(f"the approval of version {version.version} needs a name (by) and a reason")
    word = "approved" if answer.approve else "refused"
    r.registry.record(version, {f"reseed.{word}_by": answer.by, f"reseed.{word}_because": answer.reason})
    said = f"{word} by {answer.by}: {answer.reason}"
    return Said(answer.approve, said if answer.approve else f"{said}; {command} overrules it", answer.by)


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

"""A person's approval of a challenger that the judge would promote (`promote.approval: required`)."""

from __future__ import annotations

from dataclasses import dataclass

from prefect.input import RunInput

from flows.context import RunContext
from flows.progress import say
from flows.registry import admin
from flows.registry.client import Version
from flows.review.session import WAIT_SECONDS
from tasks.verdict.model import Verdict

NAME_LENGTH = 100  # characters of a name that are kept


class Approval(RunInput):
    """A person's answer to a retrain that waits with a verdict."""

    approve: bool
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether the challenger may be promoted now, and a sentence on who decided or what is awaited."""

    approved: bool
    sentence: str
    who: str = ""


def ask_for_approval(
    run: RunContext, version: Version, verdict: Verdict, *, champion: Version | None
) -> Answer:
    """A person's decision on promoting `version`; it is recorded on the version, a refusal also in the history.

    In a run of a deployment the flow is suspended until somebody resumes it with an Approval, and again
    where that lacks a name or a reason; its process ends meanwhile, and the run starts again from the
    beginning, where finished stages are found. Elsewhere nobody is asked: `reseed promote` approves and
    `reseed refuse` refuses. When the champion changes meanwhile, the question is asked again.
    """
    from prefect.runtime import deployment

    promote, refuse = (
        f"`reseed {verb} {version.name} {version.version} --reason WHY`"
        for verb in ("promote", "refuse")
    )
    if deployment.id is None:
        return Answer(False, f"it needs approval (promote.approval): {promote}, or {refuse}")
    say(f"version {version.version} waits for approval: resume this flow run")
    opponent = champion.version if champion else "none"
    answer = _wait_for_answer(
        f"approve-{version.version}-{opponent}", _verdict_table(version, verdict)
    )
    by, reason = answer.by.strip()[:NAME_LENGTH], answer.reason.strip()
    decision = "approved" if answer.approve else "refused"
    tags = {f"reseed.{decision}_by": by, f"reseed.{decision}_because": reason}
    run.registry.tag_version(version, tags)
    sentence = f"{decision} by {by}: {reason}"
    if answer.approve:
        return Answer(True, sentence, by)
    admin.record_refusal(run.registry, version, champion=champion, who=by, reason=reason)
    return Answer(False, f"{sentence}; {promote} overrules it", by)


def _wait_for_answer(key: str, table: str) -> Approval:
    """The first answer that has a name and a reason; an incomplete one is shown again with what it lacks."""
    from prefect import suspend_flow_run

    form = Approval.with_initial_data(description=table, approve=False, by="", reason="")
    attempt = 0
    while True:
        # the key is stable: a pause that was resumed gives its answer at once when the run starts again
        answer = suspend_flow_run(
            wait_for_input=form,
            key=f"{key}-{attempt}" if attempt else key,
            timeout=WAIT_SECONDS,
        )
        fields = {"name (by)": answer.by, "reason": answer.reason}
        missing = " and ".join(name for name, text in fields.items() if not text.strip())
        if not missing:
            return answer
        attempt += 1
        say(f"the answer had no {missing}: resume this flow run with both")
        description = f"**The answer had no {missing}: give both.**\n\n{table}"
        form = Approval.with_initial_data(description=description, **answer.model_dump())


def _verdict_table(version: Version, verdict: Verdict) -> str:
    """The verdict in Markdown, for the page where the run is resumed."""
    rows = {
        "challenger": f"version {version.version}",
        "against": verdict.opponent,
        "gain in macro-F1": f"{verdict.gain:+.4f} ({verdict.lower:+.4f} to {verdict.upper:+.4f})",
        "test rows": verdict.rows,
        "right alone": f"{verdict.won} rows, the other {verdict.lost}",
        "verdict number on this test set": verdict.use,
    }
    lines = [f"**{version.name}: promote?**", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    gains = sorted((verdict.labels or {}).items(), key=lambda item: item[1])
    lines += ["", "Gain by label: " + ", ".join(f"{label} {gain:+.3f}" for label, gain in gains)]
    return "\n".join(lines)

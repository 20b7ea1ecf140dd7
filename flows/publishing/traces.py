"""Some of the generation's requests as traces in MLflow: prompt, answer, tokens, dollars, and what became of the rows.

They are made from the answers on the disk once the rows are curated: nothing slows the requests, and a retrain that goes on after
a kill logs each one once.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow import MlflowClient

from flows.context import RunContext
from flows.retraining.generation_loop import GeneratedRows
from tasks.curate.stage import CurateResult
from tasks.records import read_rejected
from tasks.synthesise.sample import Exchange, sample

KEY = "reseed.request"
_CHAT = {"mlflow.message.format": "openai"}  # the UI shows the messages as a conversation


def record(run: RunContext, generated: GeneratedRows) -> None:
    """`generate.traces` requests of each round, on the retrain's run; those that are there already stay as they are."""
    n, tracking = run.project.generate.traces, run.tracking
    if not n or not generated.rounds:
        return
    there = logged(tracking.client, tracking.experiment_id, tracking.run_id)
    became = fates(generated.curated)
    with _unseeded():
        for number, r in enumerate(generated.rounds, 1):
            for e in sample(
                run.project, n=n, splits=run.splits, asked=r.asked, workspace=run.workspace
            ):
                if e.key not in there:
                    there.add(e.key)
                    tags = {"round": str(number), "curation": became.get(e.key, "no row")}
                    write(
                        e, tags=tags, experiment_id=tracking.experiment_id, run_id=tracking.run_id
                    )
    _flush()


@contextmanager
def _unseeded() -> Iterator[None]:
    """`random` seeded by the system within. Traces draw their ids from it, and training seeds it: two retrains with one seed
    would give their traces the same ids, and the later ones would replace the earlier ones in the store."""
    state = random.getstate()
    random.seed()
    try:
        yield
    finally:
        random.setstate(state)


def logged(client: MlflowClient, experiment_id: str, run_id: str) -> set[str]:
    """The requests that are traces of this run."""
    found: set[str] = set()
    token = None
    while True:
        page = client.search_traces(
            locations=[experiment_id],
            filter_string=f"metadata.`mlflow.sourceRun` = '{run_id}'",
            max_results=500,
            page_token=token,
            include_spans=False,
        )
        found |= {t.info.tags[KEY] for t in page if KEY in t.info.tags}
        token = page.token
        if not token:
            return found


def fates(curated: CurateResult) -> dict[str, str]:
    """What became of the rows of each request: `accepted`, or the check that set them aside; counted where there are several."""
    became: dict[str, Counter[str]] = defaultdict(Counter)
    for row in curated.read():
        if request := row.lineage.get("request"):
            became[request]["accepted"] += 1
    for rejected in read_rejected(curated.directory / "rejected.jsonl"):
        if request := rejected.record.lineage.get("request"):
            became[request][rejected.check] += 1
    return {
        request: ", ".join(
            f"{n} {what}" if counts.total() > 1 else what for what, n in counts.most_common()
        )
        for request, counts in became.items()
    }


def write(e: Exchange, *, tags: dict[str, str], experiment_id: str, run_id: str) -> None:
    """One request as a trace of one span. Where its time was not measured the trace is as short as it can be, and says so."""
    import mlflow

    end = int(e.ended * 1e9)
    start = end - int((e.seconds or 0) * 1e9)
    tags = (
        tags
        | {KEY: e.key}
        | {
            k: str(e.tag[k])[:250]
            for k in ("label", "topic", "style", "generator", "near")
            if k in e.tag
        }
    )
    tags |= {"tokens": "measured" if e.measured else "estimated"}
    tags |= {"time": "not measured"} if e.seconds is None else {}
    span = mlflow.start_span_no_context(
        f"generate {e.tag['label']}",
        span_type="CHAT_MODEL",
        inputs=e.body,
        attributes=_attributes(e),
        tags=tags,
        metadata={"mlflow.sourceRun": run_id},
        experiment_id=experiment_id,
        start_time_ns=start,
    )
    message = {"role": "assistant", "content": e.text}
    choices = [{"index": 0, "message": message, "finish_reason": e.finish_reason}]
    span.end(outputs={"choices": choices}, end_time_ns=end)


def _attributes(e: Exchange) -> dict[str, Any]:
    prompt, completion = e.usd
    return _CHAT | {
        "mlflow.llm.model": e.body["model"],
        "mlflow.llm.provider": e.provider,
        "mlflow.chat.tokenUsage": {
            "input_tokens": e.prompt_tokens,
            "output_tokens": e.completion_tokens,
            "total_tokens": e.prompt_tokens + e.completion_tokens,
        },
        # given even where it is nothing: MLflow would look the model's name up in a price list of its own
        "mlflow.llm.cost": {
            "input_cost": prompt,
            "output_cost": completion,
            "total_cost": prompt + completion,
        },
    }


def _flush() -> None:
    """Wait until every trace is in the store."""
    import mlflow

    mlflow.flush_trace_async_logging()

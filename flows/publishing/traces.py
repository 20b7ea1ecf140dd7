"""Some of the LLM requests as traces in MLflow: prompt, answer, tokens, dollars, and the fate of the rows.

They are made from the cached answers once the rows are curated, so they do not slow the requests down,
and a retrain that is resumed logs each one once.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow import MlflowClient

from flows.context import RunContext
from flows.retraining.generation_loop import GeneratedRows
from tasks.curate.stage import CurateResult
from tasks.records import read_rejected
from tasks.synthesise.exchanges import Exchange, sample_exchanges

REQUEST_TAG = "reseed.request"
_DRAWN = ("label", "topic", "style", "generator", "near")  # of a request's tag


def log_traces(run: RunContext, generated: GeneratedRows) -> None:
    """Log `generate.traces` requests of each round on the retrain's run, each once."""
    per_round, tracking = run.project.generate.traces, run.tracking
    if not per_round or not generated.rounds:
        return
    logged = logged_requests(tracking.client, tracking.experiment_id, tracking.run_id)
    fates = fates_of_requests(generated.curated)
    with _unseeded_random():
        for number, r in enumerate(generated.rounds, 1):
            exchanges = sample_exchanges(
                run.project,
                n=per_round,
                splits=run.splits,
                asked=r.asked,
                workspace=run.workspace,
            )
            for exchange in exchanges:
                if exchange.key not in logged:
                    logged.add(exchange.key)
                    tags = {"round": str(number), "curation": fates.get(exchange.key, "no row")}
                    _log_trace(exchange, tags, tracking.experiment_id, tracking.run_id)
    mlflow.flush_trace_async_logging()


@contextmanager
def _unseeded_random() -> Iterator[None]:
    """`random` seeded by the system within the body.

    MLflow draws the ids of traces from it, and training seeds it: two retrains with the same seed would
    give their traces the same ids, and the later ones would replace the earlier ones in the store.
    """
    state = random.getstate()
    random.seed()
    try:
        yield
    finally:
        random.setstate(state)


def logged_requests(client: MlflowClient, experiment_id: str, run_id: str) -> set[str]:
    """The keys of the requests that have a trace on this run."""
    keys: set[str] = set()
    token = None
    while True:
        page = client.search_traces(
            locations=[experiment_id],
            filter_string=f"metadata.`mlflow.sourceRun` = '{run_id}'",
            max_results=500,
            page_token=token,
            include_spans=False,
        )
        keys |= {t.info.tags[REQUEST_TAG] for t in page if REQUEST_TAG in t.info.tags}
        token = page.token
        if not token:
            return keys


def fates_of_requests(curated: CurateResult) -> dict[str, str]:
    """For each request `accepted` or the check that rejected its row, with counts where it has several rows."""
    fates: dict[str, Counter[str]] = defaultdict(Counter)
    for row in curated.read():
        fates[row.lineage.get("request", "")]["accepted"] += 1
    for rejected in read_rejected(curated.directory / "rejected.jsonl"):
        fates[rejected.record.lineage.get("request", "")][rejected.check] += 1
    return {
        request: ", ".join(
            f"{n} {fate}" if counts.total() > 1 else fate for fate, n in counts.most_common()
        )
        for request, counts in fates.items()
    }


def _log_trace(exchange: Exchange, tags: dict[str, str], experiment_id: str, run_id: str) -> None:
    """One request as a trace of one span; where its time was not measured, of no length."""
    end = int(exchange.ended * 1e9)
    start = end - int((exchange.seconds or 0) * 1e9)
    tags = tags | {REQUEST_TAG: exchange.key}
    tags |= {k: str(exchange.tag[k])[:250] for k in _DRAWN if k in exchange.tag}
    tags["tokens"] = "measured" if exchange.measured else "estimated"
    if exchange.seconds is None:
        tags["time"] = "not measured"
    span = mlflow.start_span_no_context(
        f"generate {exchange.tag['label']}",
        span_type="CHAT_MODEL",
        inputs=exchange.body,
        attributes=_span_attributes(exchange),
        tags=tags,
        metadata={"mlflow.sourceRun": run_id},
        experiment_id=experiment_id,
        start_time_ns=start,
    )
    message = {"role": "assistant", "content": exchange.text}
    choice = {"index": 0, "message": message, "finish_reason": exchange.finish_reason}
    span.end(outputs={"choices": [choice]}, end_time_ns=end)


def _span_attributes(exchange: Exchange) -> dict[str, object]:
    return {
        "mlflow.message.format": "openai",  # the UI shows the messages as a conversation
        "mlflow.llm.model": exchange.body["model"],
        "mlflow.llm.provider": exchange.provider,
        "mlflow.chat.tokenUsage": {
            "input_tokens": exchange.prompt_tokens,
            "output_tokens": exchange.completion_tokens,
            "total_tokens": exchange.tokens,
        },
        # given even where it is zero: MLflow would look the model up in a price list of its own
        "mlflow.llm.cost": {
            "input_cost": exchange.prompt_usd,
            "output_cost": exchange.usd - exchange.prompt_usd,
            "total_cost": exchange.usd,
        },
    }

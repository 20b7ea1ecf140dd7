"""What each stage leaves in MLflow: its figures, tables, pictures and data, in a child run of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.tracking.run import Tracking
from tasks import atomic
from tasks.dataset.split import Prepared
from tasks.evaluate.label_first import FILE
from tasks.records import Record, Rejected, label_text, read_records, read_rejected
from tasks.stage import Stage
from tasks.verdict.decide import Verdict

ASKED = ("unparsed_share", "usd", "tokens", "usd_per_text", "tokens_per_text")  # figures of the LLM asked directly
ERRORS = ("mistakes", "confusion_pairs", "likely_label_errors")  # tables of an evaluation


def _record_rows(path: Path) -> list[dict[str, Any]]:
    return [_flat(r) for r in read_records(path)]


def _flat(r: Record) -> dict[str, Any]:
    label = None if r.label is None else label_text(r.label)
    return {"id": r.id, "label": label, "source": r.source, "topic": r.lineage.get("topic", ""), "text": r.text}


def _rejected_rows(path: Path) -> list[dict[str, Any]]:
    return [
        {"check": r.check, "reason": r.reason, "value": r.value, "other": r.other, **_flat(r.record)}
        for r in _sorted(read_rejected(path))
    ]


def _sorted(rows: list[Rejected]) -> list[Rejected]:
    return sorted(rows, key=lambda r: (r.check, label_text(r.record.label)))


def splits(log: Tracking, prepared: Prepared) -> None:
    s = prepared.splits
    sizes = s.counts.get("rows") or {split: sum(s.counts[split].values()) for split in ("seed", "dev", "test")}
    rows = {f"data.{split}.rows": float(n) for split, n in sizes.items()}
    rows["data.unlabelled.rows"] = float(s.counts["unlabelled"])
    tables = {"set_aside": _rejected_rows(s.directory / "rejected.jsonl")}
    log.stage(s, name="prepare", metrics=rows, tables=tables, dataset=("dev", s.directory / "dev.jsonl"))


def answered(log: Tracking, stage: Stage) -> None:
    """What several models answered, where they are to be told apart."""
    c = stage.counts
    metrics = {f"generate.{k}": float(c[k]) for k in ("requests", "lost", "prompt_tokens", "completion_tokens", "usd")}
    metrics["generate.questions"] = float(c["questions"])
    left = {f"generate.{why}.{model}": float(n) for why, own in c["left_out"].items() for model, n in own.items()}
    log.stage(stage, metrics=metrics | left)


def generated(log: Tracking, number: int, round_: Stage) -> None:
    c = round_.counts
    metrics = {f"generate.{k}": float(c[k]) for k in ("replies", "lost", "prompt_tokens", "completion_tokens")}
    metrics |= {f"generate.{k}": float(c[k]) for k in ("requests", "usd")}
    log.stage(round_, name=f"synthesise {number}", metrics=metrics)


def proposed(log: Tracking, stage: Stage, topics: dict[str, list[str]]) -> None:
    rows = [{"label": label, "topic": topic} for label, found in topics.items() for topic in found]
    log.stage(stage, tables={"topics": rows})


def studied(log: Tracking, stage: Stage, number: int) -> None:
    c = stage.counts
    metrics = {"dev.f1_macro": c["dev_f1_macro"], "dev.missed": float(c["missed"])}
    log.stage(stage, name=f"study {number}", metrics=metrics, tables={"confused": c["confused"]})


def harvested(log: Tracking, number: int, stage: Stage) -> None:
    c, kept = stage.counts, stage.directory / "kept.jsonl"
    metrics = {"harvest.looked_at": float(c["looked_at"]), "harvest.added": float(c["added"])}
    metrics |= {f"data.harvested.{label}": float(n) for label, n in c["harvested"].items()}
    added = [_flat(r) | {"score": r.lineage["score"]} for r in read_records(kept) if r.source == "harvested"]
    log.stage(stage, name=f"harvest {number}", metrics=metrics, tables={"harvested": added}, dataset=("training", kept))


def lifted(log: Tracking, stage: Stage) -> None:
    """The gains on the stage's run and, where runs are compared, on the parent."""
    metrics = {f"lift.{s['by']}": s["value"] for s in stage.counts["lifts"]}
    metrics |= {f"lift.{s['by']}.{end}": s[end] for s in stage.counts["lifts"] for end in ("ci_low", "ci_high")}
    log.stage(stage, metrics=metrics, artifacts=[stage.directory / "lift.json"])
    log.metrics(metrics)


def curated(log: Tracking, stage: Stage) -> None:
    c = stage.counts
    metrics = {f"data.rejected.{check}": float(n) for check, n in c["rejected"].items()}
    metrics |= {f"data.accepted.{label}": float(n) for label, n in c["accepted"].items()}
    kept = stage.directory / "kept.jsonl"
    tables = {"accepted": _record_rows(kept), "rejected": _rejected_rows(stage.directory / "rejected.jsonl")}
    log.stage(stage, metrics=metrics, tables=tables, dataset=("training", kept))


def trained(log: Tracking, stage: Stage, name: str = "train") -> str:
    """The id of the run, to which the model is logged."""
    c = stage.counts
    metrics = {
        "dev.f1_macro": c["dev_f1_macro"],
        "train.steps": float(c["steps"]),
        "train.rows_at_once": float(c["rows_at_once"]),
        "train.fallbacks": float(len(c["notes"])),
    }
    for key in ("temperature", "shift"):  # of label sets, one a label
        value = c.get(key, {})
        metrics |= (
            {f"train.{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {f"train.{key}": value}
        )
    history = [(int(step), key, float(v)) for step, key, v in atomic.read_json(stage.directory / "history.json")]
    return log.stage(stage, name=name, metrics=metrics, history=history, artifacts=pictures(stage))


def exported(log: Tracking, stage: Stage) -> None:
    """What each backend measured, on the stage's run; what was chosen, on the parent."""
    found = stage.counts["inference"]
    metrics = {f"predict.{k}.{name}": v for name, m in found["measured"].items() for k, v in m.items()}
    log.stage(stage, metrics=metrics)
    log.metrics({f"predict.{k}": v for k, v in found["measured"][found["backend"]].items()})
    log.tag(backend=found["backend"])


def souped(log: Tracking, stage: Stage) -> str:
    """The id of the run, to which the model is logged where the soup won."""
    c = stage.counts
    metrics = {"dev.f1_macro": c["dev_f1_macro"], "soup.members": float(len(c["members"])), "soup.won": float(c["won"])}
    return log.stage(stage, metrics=metrics, artifacts=[stage.directory / "soup.json"])


def adapted(log: Tracking, stage: Stage) -> None:
    c = stage.counts
    metrics = {f"adapt.perplexity.{when}": c["perplexity"][when] for when in ("before", "after")}
    metrics |= {"adapt.rows": float(c["rows"]), "adapt.steps": float(c["steps"])}
    history = [(int(at), name, float(v)) for at, name, v in atomic.read_json(stage.directory / "history.json")]
    log.stage(stage, metrics=metrics, history=history, artifacts=[stage.directory / "adapt.json"])


def test_metrics(scored: Stage) -> dict[str, float]:
    """`test.f1_macro` and the other figures with their intervals, and F1 per label with its own."""
    c, ends = scored.counts, ("ci_low", "ci_high")
    whole = {name: v for name, v in c.items() if name != "labels" and isinstance(v, dict) and "ci_low" in v}
    whole |= c.get("more", {})
    found = {f"test.{name}": v["value"] for name, v in whole.items()}
    found |= {f"test.{name}.{end}": v[end] for name, v in whole.items() for end in ends}
    found |= {f"test.{k}": v for k, v in c.get("scores", {}).items() if isinstance(v, float)}
    found |= {f"test.f1.{label}.{end}": v[f"f1_{end}"] for label, v in c["labels"].items() for end in ends}
    found |= {f"test.f1_macro.{s['name']}"[:200]: s["f1_macro"]["value"] for s in c.get("slices", []) if s["f1_macro"]}
    return found | {f"test.f1.{label}": v["f1"] for label, v in c["labels"].items()}


def scored(log: Tracking, who: str, stage: Stage) -> str:
    """The id of the run that has them."""
    found = [*pictures(stage), stage.directory / "metrics.json", stage.directory / "predictions.jsonl"]
    tables = {name: atomic.read_lines(stage.directory / f"{name}.jsonl") for name in ERRORS}
    tables["slices"] = slice_rows(stage)
    metrics, llm = test_metrics(stage), stage.counts.get("llm", {})
    metrics |= {f"llm.{k}": float(llm[k]) for k in ASKED if llm}
    return log.stage(stage, name=f"evaluate {who}", metrics=metrics, artifacts=found, tables=tables)


def slice_rows(scored: Stage) -> list[dict[str, Any]]:
    """A row for each slice: macro-F1 and accuracy with the ends of their intervals."""
    found = []
    for s in scored.counts.get("slices", []):
        row = {"slice": s["name"], "rows": s["rows"], "judged": s["judged"]}
        for name in ("f1_macro", "accuracy"):
            figure = s[name] or {"value": None, "ci_low": None, "ci_high": None}
            row |= {name: figure["value"], f"{name}.ci_low": figure["ci_low"], f"{name}.ci_high": figure["ci_high"]}
        found.append(row)
    return found


def label_first(log: Tracking, stage: Stage) -> None:
    """The texts that a person should label first."""
    c, rows = stage.counts, atomic.read_lines(stage.directory / FILE)
    metrics = {f"label_first.{k}": float(c[k]) for k in ("rows", "differ")}
    log.stage(stage, name="label first", metrics=metrics, tables={"label_first": rows})


def robust(log: Tracking, who: str, stage: Stage) -> None:
    """Flip rates and failures, with examples; the challenger's on the parent too, where runs are compared."""
    c = stage.counts
    rates = {"test.flip_rate": c["flip_rate"]["value"]}
    for name, p in c["perturbations"].items():
        rates |= {f"test.flip_rate.{name}": p["flip_rate"]["value"], f"test.f1_macro_under.{name}": p["f1_macro"]}
    rates |= {f"cases.failure_rate.{name}": t["failure_rate"]["value"] for name, t in c["cases"].items()}
    metrics = {name: float(v) for name, v in rates.items() if v is not None}
    tables = {
        "robustness": [{"perturbation": name, **_spread(p)} for name, p in c["perturbations"].items()],
        "cases": [{"test": name, **_spread(t)} for name, t in c["cases"].items()],
        "flips": atomic.read_lines(stage.directory / "flips.jsonl"),
        "failures": atomic.read_lines(stage.directory / "failures.jsonl"),
    }
    log.stage(
        stage, name=f"robustness {who}", metrics=metrics, tables=tables, artifacts=[stage.directory / "robustness.json"]
    )
    if who == "challenger":
        log.metrics(metrics)


def _spread(figures: dict[str, Any]) -> dict[str, Any]:
    """A row of a table: a figure with its interval as three columns."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        own = value if isinstance(value, dict) else {"value": value}
        found |= {name if part == "value" else f"{name}_{part}": v for part, v in own.items()}
    return found


def served(log: Tracking, who: str, stage: Stage) -> None:
    """Latency, speed, memory and size; the challenger's on the parent too."""
    metrics = {f"serving.{name}": float(v) for name, v in stage.counts.items() if name != "host"}
    log.stage(stage, name=f"serving {who}", metrics=metrics, artifacts=[stage.directory / "serving.json"])
    if who == "challenger":
        log.metrics(metrics)


def in_turns(log: Tracking, stage: Stage) -> None:
    metrics = {f"serving.{who}.{name}": float(v) for who, own in stage.counts.items() for name, v in own.items()}
    log.stage(stage, name="serving in turns", metrics=metrics, artifacts=[stage.directory / "serving.json"])


def learned(log: Tracking, stage: Stage) -> None:
    """F1 by training rows, each number of rows a step."""
    history = [(p["rows"], "dev.f1_macro.by_rows", p["value"]) for p in stage.counts["points"]]
    log.stage(stage, history=history, artifacts=sorted(stage.directory.glob("curve.*")))


def pictures(stage: Stage) -> list[Path]:
    """Its pictures: of a model's answers the confusion matrix or the bars by label, of a training the curves."""
    return sorted(stage.directory.glob("*.png"))


def evidence(log: Tracking, stage: Stage) -> str:
    """The id of the run that holds the verdict, both models' answers and the settings."""
    gain = {f"verdict.{k}": stage.counts[k] for k in ("gain", "lower", "upper")}
    metrics = {k: float(v) for k, v in gain.items() if v is not None}
    return log.stage(stage, name="verdict", metrics=metrics, artifacts=sorted(stage.directory.iterdir()))


def judged(log: Tracking, verdict: Verdict) -> None:
    """The verdict on the parent run, where runs are compared."""
    gain = {"gain": verdict.gain, "lower": verdict.lower, "upper": verdict.upper}
    log.metrics({f"verdict.{k}": v for k, v in gain.items() if v is not None})
    log.client.log_dict(log.run_id, verdict.to_json(), "verdict.json")
    log.tag(verdict=verdict.decision, reasons="; ".join(verdict.reasons))

"""The end of a retrain as one object, and that object as a table for a terminal or for Prefect."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.publishing.html import shown
from flows.retraining import measurements
from flows.retraining.generation_loop import Filled, cost_line
from flows.retraining.label_first import line as label_first_line
from flows.retraining.seeds import line as seeds_line
from tasks.dataset.split import Prepared
from tasks.evaluate.score import on_rows, read_predictions
from tasks.model.inference.choose import line as answers_by
from tasks.project import Project
from tasks.records import read_records
from tasks.stage import Stage
from tasks.statistics import label_sets
from tasks.statistics.metrics import SUMMARY

if TYPE_CHECKING:
    from flows.retraining.mixtures import Trained


def figures(scored: Stage) -> dict[str, Any]:
    """Macro-F1 with its interval, and the other summary figures, of one model."""
    c = scored.counts
    return {
        "f1_macro": c["f1_macro"]["value"],
        "ci_low": c["f1_macro"]["ci_low"],
        "ci_high": c["f1_macro"]["ci_high"],
        "rows": c["rows"],
        **{name: c[name]["value"] for name in (*SUMMARY, *label_sets.SUMMARY) if name in c},
        "f1": {label: v["f1"] for label, v in c["labels"].items()},
    }


def baselines(project: Project, scored: dict[str, Stage], challenger: Stage) -> dict[str, Any]:
    """The figures of each baseline; of one on a `sample` of the test rows with the challenger's macro-F1 on the same rows."""
    found = {}
    for name, stage in scored.items():
        own = figures(stage)
        if "llm" in stage.counts:
            own |= {"llm": stage.counts["llm"], "sample": stage.counts["sample"]}
        if own.get("sample"):
            ids = {a["id"] for a in read_predictions(stage)}
            own["challenger"] = on_rows(project, challenger, ids)
        found[name] = own
    return found


def data_counts(prepared: Prepared, filled: Filled, trained: Trained) -> dict[str, Any]:
    """Rows requested, accepted and rejected, in total, by label and by reason."""
    c, requested = filled.rows.counts, filled.asked
    sizes = filled.sizes
    lost = sum(r.counts["lost"] for r in filled.rounds)
    harvested = trained.harvested.counts["harvested"] if trained.harvested else {}
    return {
        "requested": {"total": sum(requested.values()), "by_label": dict(requested), "lost": lost},
        "accepted": {"total": sizes["accepted"], "by_label": c["accepted"]},
        "rejected": {
            "total": sizes["rejected"],
            "by_reason": c["rejected"],
            "by_label": c["rejected_by_label"],
        },
        "harvested": {
            "total": trained.harvested.counts["added"] if trained.harvested else 0,
            "by_label": harvested,
        },
        "generators": by_generator(filled),
        "answers": answered(filled),
        "given_up": filled.given_up,
        "ended": filled.ended,
        "topics_proposed": filled.topics,
        "seed": {"total": sizes["seed"], "by_label": c["seed"]},
        "real_set_aside": {
            "by_reason": prepared.splits.counts["rejected"],
            "notices": prepared.splits.counts["notices"],
        },
    }


def by_generator(filled: Filled) -> dict[str, Any]:
    """Requests, rows accepted and cost of each generator. Of models that are told apart, accepted are the answers that are rows."""
    kept = Counter(str(row.lineage.get("generator")) for row in read_records(filled.rows.directory / "kept.jsonl"))
    kept.update(filled.answers.counts["rows"] if filled.answers else {})
    found: dict[str, dict[str, Any]] = {}
    for r in filled.bought:
        for name, c in r.counts["generators"].items():
            own = found.setdefault(name, {"requests": 0, "rows": 0, "tokens": 0, "usd": 0.0, "accepted": kept[name]})
            own["requests"] += c["requests"]
            own["rows"] += c["rows"]
            own["tokens"] += c["prompt_tokens"] + c["completion_tokens"]
            own["usd"] = round(own["usd"] + c["usd"], 9)
    return found


def answered(filled: Filled) -> dict[str, Any] | None:
    """Where models are told apart: the questions, rows by label, and answers that left their question out, by reason and model."""
    c = filled.answers.counts if filled.answers else None
    return c and {name: c[name] for name in ("questions", "rows", "left_out")}


def tokens(rounds: list[Stage]) -> dict[str, int]:
    prompt = sum(r.counts["prompt_tokens"] for r in rounds)
    completion = sum(r.counts["completion_tokens"] for r in rounds)
    return {"prompt": prompt, "completion": completion, "total": prompt + completion}


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in counts.items()) or "none"


def _score(f: dict[str, Any]) -> str:
    return f"{f['f1_macro']:.3f}  ({f['ci_low']:.3f} to {f['ci_high']:.3f})"


def _baseline(f: dict[str, Any]) -> str:
    """Its score; of the LLM also what a text costs, and the challenger's score where it was asked about some rows alone."""
    said = _score(f)
    if "llm" in f:
        told = f["llm"]
        took = f", {told['latency']['p50']:.2f} s a text" if told["latency"]["p50"] is not None else ""
        said += f" of {told['name']} on {f['rows']} rows, {told['unparsed_share']:.0%} no label{took}"
    if f.get("sample"):
        own = f["challenger"]
        said += f"; the challenger on these {own['value']:.3f} ({own['ci_low']:.3f} to {own['ci_high']:.3f})"
    return said


def rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The table, a pair a row."""
    data, model, champion = report["data"], report["model"], report["champion"]
    lines = [
        ("rows asked for", str(data["requested"]["total"])),
        ("accepted", f"{data['accepted']['total']}  ({_counted(data['accepted']['by_label'])})"),
        ("rejected", f"{data['rejected']['total']}  ({_counted(data['rejected']['by_reason'])})"),
    ]
    if data["answers"]:
        lines.append(("questions asked", _questions(data["answers"])))
    if data["harvested"]["total"]:
        counted = _counted(data["harvested"]["by_label"])
        lines.append(("harvested real rows", f"{data['harvested']['total']}  ({counted})"))
    if data["seed"]["total"]:
        lines.append(("real rows trained on", f"{data['seed']['total']}  ({_counted(data['seed']['by_label'])})"))
    if data["real_set_aside"]["by_reason"]:
        lines.append(("real rows set aside", _counted(data["real_set_aside"]["by_reason"])))
    if report["seeds"]:
        lines.append(("dev F1", seeds_line(report["seeds"])))
    lines.append((f"F1 of {model['name']} {model['version']}", _score(report["test"])))
    if champion and champion["version"] != model["version"]:
        score = _score(champion) if champion.get("f1_macro") is not None else "could not be scored"
        lines.append((f"F1 of champion {champion['version']}", score))
    lines += [(f"F1 of {name.replace('_', ' ')}", _baseline(f)) for name, f in report["baselines"].items()]
    lines += [(f"gain by {name}", value) for name, value in _gains(report["lift"])]
    lines.append(("answers by", answers_by(report["inference"])))
    lines += measurements.lines(report)
    if report["cost"]["tokens"]:
        lines.append(("cost", cost_line(report["cost"])))
    lines.append(("verdict", report["verdict"] + ("  (now champion)" if report["promoted"] else "")))
    lines += [("why", reason) for reason in report["reasons"]]
    if report.get("label_first"):
        lines.append(("label first", label_first_line(report["label_first"], report["project"])))
    spent = {stage: s for stage, s in report["seconds"].items() if s}
    lines.append(("seconds", ", ".join(f"{stage} {s:.0f}" for stage, s in spent.items()) or "every stage was found"))
    lines.append(("MLflow run", report["mlflow_run_id"]))
    lines.append(("report", shown(report["report"])))
    lines.append(("open the UIs", "reseed ui"))
    asked = f'reseed predict {model["name"]} "some text"'
    lines.append(("ask the model", asked if report["promoted"] or champion else "there is no champion to ask yet"))
    return lines


def _questions(told: dict[str, Any]) -> str:
    """`294 of 2 models  (left out: smollm2 3 shorter, gemma 1 unanswered)`."""
    left = [f"{m} {n} {why}" for why, own in told["left_out"].items() for m, n in own.items() if n]
    return f"{told['questions']} of {len(told['rows'])} models  (left out: {', '.join(left) or 'none'})"


def _gains(lift: dict[str, Any] | None) -> list[tuple[str, str]]:
    how = "" if not lift or lift["how"] == "full" else ", linear heads"
    return [
        (f"{s['by']} rows", f"{s['value']:+.3f}  ({s['ci_low']:+.3f} to {s['ci_high']:+.3f}{how}; over {s['from']})")
        for s in (lift or {}).get("lifts", [])
    ]


def show(report: dict[str, Any], console: Console) -> None:
    """The table on a terminal. F1 is macro-F1 on the sealed test rows with its 95% interval."""
    n, openings = report["test"]["rows"], report["test"]["openings"]
    title = f"{report['model']['name']}: macro-F1 on {n} sealed real test rows, 95% intervals (opened {openings} times)"
    table = Table(title=escape(title), show_header=False, title_justify="left", pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows(report):
        table.add_row(escape(name), escape(value))
    console.print(table)


def markdown(report: dict[str, Any]) -> str:
    """The table as Markdown."""

    def cell(text: str) -> str:
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

    head = f"# {report['model']['name']}: {report['verdict']}\n\n| | |\n|---|---|\n"
    return head + "\n".join(f"| {cell(name)} | {cell(value)} |" for name, value in rows(report)) + "\n"

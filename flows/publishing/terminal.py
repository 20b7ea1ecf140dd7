"""The report of a retrain as a table, for a terminal and for Prefect."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks.figures import format_counts
from tasks.model.inference.choose import describe_choice
from tasks.report.model import (
    AnswersSummary,
    BaselineScore,
    ChampionScore,
    DataSummary,
    LabelFirst,
    LiftSummary,
    ModelScore,
    RetrainReport,
)

Rows = list[tuple[str, str]]


def show_report(report: RetrainReport, console: Console) -> None:
    """Print the table. F1 is macro-F1 on the sealed test rows with its 95% interval."""
    test = report.test
    title = (
        f"{report.model.name}: macro-F1 on {test.rows} sealed real test rows, 95% intervals "
        f"(test set used {test.test_set_uses} times)"
    )
    table = Table(title=escape(title), show_header=False, title_justify="left", pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in report_rows(report):
        table.add_row(escape(name), escape(value))
    console.print(table)


def report_as_markdown(report: RetrainReport) -> str:
    """The table as Markdown."""

    def cell(text: str) -> str:
        return (
            text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
        )

    head = f"# {report.model.name}: {report.verdict}\n\n| | |\n|---|---|\n"
    return (
        head
        + "\n".join(f"| {cell(name)} | {cell(value)} |" for name, value in report_rows(report))
        + "\n"
    )


def report_rows(report: RetrainReport) -> Rows:
    """The table, one pair per row."""
    return [
        *_data_rows(report.data),
        *([("dev F1", report.seeds.line())] if report.seeds else []),
        *_score_rows(report),
        *_gain_rows(report.lift),
        ("answers by", describe_choice(report.inference)),
        *_measured_rows(report),
        *([("cost", report.cost.line())] if report.cost.tokens else []),
        ("verdict", report.verdict + ("  (now champion)" if report.promoted else "")),
        *(("why", reason) for reason in report.reasons),
        *(
            [("label first", _label_first(report.label_first, report.project))]
            if report.label_first
            else []
        ),
        *_closing_rows(report),
    ]


def _data_rows(data: DataSummary) -> Rows:
    found = [
        ("rows requested", str(data.requested.total)),
        ("accepted", f"{data.accepted.total}  ({format_counts(data.accepted.by_label)})"),
        ("rejected", f"{data.rejected.total}  ({format_counts(data.rejected.by_reason)})"),
    ]
    if data.answers:
        found.append(("questions asked", _questions(data.answers)))
    if data.self_trained.total:
        found.append(
            (
                "self-trained rows",
                f"{data.self_trained.total}  ({format_counts(data.self_trained.by_label)})",
            )
        )
    if data.real.total:
        found.append(
            ("real rows trained on", f"{data.real.total}  ({format_counts(data.real.by_label)})")
        )
    if data.real_rejected.by_reason:
        found.append(("real rows rejected", format_counts(data.real_rejected.by_reason)))
    return found


def _questions(answers: AnswersSummary) -> str:
    """`294, each to 2 models  (left out: smollm2 3 shorter, gemma 1 unanswered)`."""
    left = [
        f"{model} {n} {why}"
        for why, by_model in answers.left_out.items()
        for model, n in by_model.items()
        if n
    ]
    asked = f"{answers.questions}, each to {len(answers.rows)} models"
    return f"{asked}  (left out: {', '.join(left) or 'none'})"


def _score_rows(report: RetrainReport) -> Rows:
    model, champion = report.model, report.champion
    found = [(f"F1 of {model.name} {model.version}", _score(report.test))]
    if champion and champion.version != model.version:
        score = _score(champion.score) if champion.score else "could not be scored"
        found.append((f"F1 of champion {champion.version}", score))
    return found + [
        (f"F1 of {name.replace('_', ' ')}", _baseline(b)) for name, b in report.baselines.items()
    ]


def _score(score: ModelScore) -> str:
    return f"{score.f1_macro:.3f}  ({score.ci_low:.3f} to {score.ci_high:.3f})"


def _baseline(b: BaselineScore) -> str:
    """Its score; of the LLM also what a text costs, and the challenger's score where it was asked about some rows only."""
    text = _score(b)
    if llm := b.llm:
        took = f", {llm.latency.p50:.2f} s per text" if llm.latency.p50 is not None else ""
        text += f" of {llm.name} on {b.rows} rows, {llm.unparsed_share:.0%} no label{took}"
    if own := b.challenger:
        text += f"; the challenger on these {own.value:.3f} ({own.ci_low:.3f} to {own.ci_high:.3f})"
    return text


def _gain_rows(lift: LiftSummary | None) -> Rows:
    how = "" if not lift or lift.how == "full" else ", linear heads"
    return [
        (
            f"gain by {g.by} rows",
            f"{g.value:+.3f}  ({g.ci_low:+.3f} to {g.ci_high:+.3f}{how}; over {g.from_})",
        )
        for g in (lift.lifts if lift else [])
    ]


def _measured_rows(report: RetrainReport) -> Rows:
    found = []
    if report.robustness and report.robustness.perturbations:
        found.append(("under typos etc.", report.robustness.describe_flips()))
    if report.robustness and report.robustness.cases:
        found.append(("cases", report.robustness.describe_cases()))
    if report.serving:
        found.append(("serving", report.serving.describe()))
    if report.champion and (against := _measures(report.champion)):
        found.append((f"against champion {report.champion.version}", against))
    return found


def _measures(champion: ChampionScore) -> str:
    """The challenger's latency, size and flips against the champion's, in a line."""
    formats = {
        "latency_p95_ms": ("p95", 1, ".1f", " ms"),
        "bundle_mb": ("on disk", 1, ".0f", " MB"),
        "flip_rate": ("flips", 100, ".1f", "%"),
    }
    found = []
    for name, (what, factor, how, unit) in formats.items():
        if name in champion.measures:
            ours, theirs = (f"{factor * v:{how}}{unit}" for v in champion.measures[name])
            found.append(f"{what} {ours} against {theirs}")
    return ", ".join(found)


def _label_first(found: LabelFirst, project: str) -> str:
    differ = (
        f", {found.differ} of them answered differently by the champion" if found.differ else ""
    )
    return (
        f"{found.rows} unlabelled rows{differ}: write labels into `decision` in a copy of {found.path}, then "
        f"`reseed review {project} --import COPY`; the next retrain learns from them"
    )


def _closing_rows(report: RetrainReport) -> Rows:
    spent = ", ".join(f"{stage} {s:.0f}" for stage, s in report.seconds.items() if s)
    ask = f'reseed predict {report.model.name} "some text"'
    return [
        ("seconds", spent or "every stage was reused"),
        ("MLflow run", report.mlflow_run_id),
        ("report", relative_path(report.report)),
        ("open the UIs", "reseed ui"),
        (
            "ask the model",
            ask if report.promoted or report.champion else "there is no champion to ask yet",
        ),
    ]


def relative_path(path: str) -> str:
    """The path as a person types it: from the current folder, where it lies below."""
    here, target = Path.cwd(), Path(path)
    return str(target.relative_to(here)) if target.is_relative_to(here) else path

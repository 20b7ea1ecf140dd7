"""What an evaluation returns: one model's answers to the sealed test rows, and their scores."""

from __future__ import annotations

from pathlib import Path

from tasks import atomic
from tasks.evaluate.errors import TABLES
from tasks.evaluate.slices import SliceScore
from tasks.figures import Figures, Interval
from tasks.stage import Metrics, StageResult, Table
from tasks.statistics.scores import ProbabilityScores, Scores

PREDICTIONS, METRICS = FILES = "predictions.jsonl", "metrics.json"
LLM_METRICS = ("unparsed_share", "usd", "tokens", "usd_per_text", "tokens_per_text")
NAME_LIMIT = 200  # characters of a metric's name


class ScoredRow(Figures):
    """One model's answer to one test row.

    `scores` is the probabilities in the order of the labels; None where the model gives none, or
    where they are not finite, in which case `broken` is true.
    """

    id: str
    label: str | tuple[str, ...]
    predicted: str | tuple[str, ...]
    group: str | None = None
    slices: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    broken: bool = False


class Latency(Figures):
    """Seconds per text at the median and the 95th percentile; None where no text was timed."""

    p50: float | None
    p95: float | None
    texts: int


class LlmScore(Figures):
    """What asking an LLM for labels took; `unparsed` counts answers that are no label."""

    name: str
    local: bool
    unparsed: int
    unparsed_share: float
    latency: Latency
    tokens: int
    tokens_per_text: float
    usd: float
    usd_per_text: float
    measured: bool
    stopped: str | None


class ScoreResult(StageResult):
    """One model's scores on the sealed test rows; `scores` is None where no row was answered.

    `probabilities` is true where the model gives them, `calibration` is their scores. `sample` is
    true where only some of the test rows were answered, as by an LLM, which `llm` describes.
    """

    model: str
    scores: Scores | None
    slices: list[SliceScore]
    calibration: ProbabilityScores | None
    probabilities: bool
    sample: bool = False
    llm: LlmScore | None = None

    @property
    def known(self) -> Scores:
        """The scores of a model that answered."""
        assert self.scores is not None, self.model
        return self.scores

    def read(self) -> list[ScoredRow]:
        """The answer to each test row, in the test set's order."""
        return read_answers(self.directory / PREDICTIONS)

    def metrics(self) -> Metrics:
        """The scores, and what an LLM baseline cost."""
        llm = {f"llm.{name}": float(getattr(self.llm, name)) for name in LLM_METRICS if self.llm}
        return llm | (self.test_metrics() if self.scores else {})

    def test_metrics(self) -> Metrics:
        """`test.f1_macro` and the other figures, also by label and slice, with their intervals."""
        figures = self.known.summary | self.known.more
        for label, s in self.known.labels.items():
            f1 = Interval(value=s.f1, ci_low=s.f1_ci_low, ci_high=s.f1_ci_high)
            figures[f"f1.{label}"] = f1
        metrics = {f"test.{name}": figure.value for name, figure in figures.items()}
        metrics |= {f"test.{name}.ci_low": figure.ci_low for name, figure in figures.items()}
        metrics |= {f"test.{name}.ci_high": figure.ci_high for name, figure in figures.items()}
        calibration = self.calibration.by_name() if self.calibration else {}
        metrics |= {f"test.{name}": value for name, value in calibration.items()}
        slices = {s.name: s.f1_macro.value for s in self.slices if s.f1_macro}
        return metrics | {f"test.f1_macro.{name}"[:NAME_LIMIT]: v for name, v in slices.items()}

    def tables(self) -> dict[str, Table]:
        """Answers, errors and slices."""
        tables: dict[str, Table] = {
            name: atomic.read_lines(self.directory / f"{name}.jsonl") for name in TABLES
        }
        return tables | {"slices": [s.row() for s in self.slices]}

    def plots(self) -> list[Path]:
        """The PNGs of this evaluation."""
        return sorted(self.directory.glob("*.png"))

    def artifacts(self) -> list[Path]:
        """The plots and figures."""
        return [*self.plots(), *(p for name in FILES if (p := self.directory / name).exists())]


def read_answers(path: Path) -> list[ScoredRow]:
    """The rows of a file of answers."""
    with path.open("rb") as f:
        return [ScoredRow.model_validate_json(line) for line in f]

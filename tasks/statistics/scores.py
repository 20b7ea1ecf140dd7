"""The typed scores of one model on one set of rows."""

from __future__ import annotations

from tasks.figures import Figures, Interval


class LabelScore(Figures):
    """Precision, recall and F1 of one label, F1 with its 95% interval, and the label's rows."""

    precision: float
    recall: float
    f1: float
    f1_ci_low: float
    f1_ci_high: float
    rows: int


class Scores(Figures):
    """The scores of one model on one set of rows.

    `summary` has the main figures by name, macro-F1 among them, `more` further ones. `confusion` is
    the matrix of counts, true labels down and predicted ones across; of label sets one matrix per
    label, [[neither, predicted alone], [true alone, both]].
    """

    rows: int
    summary: dict[str, Interval]
    labels: dict[str, LabelScore]
    more: dict[str, Interval]
    confusion: list[list[int]] | dict[str, list[list[int]]]

    @property
    def f1_macro(self) -> Interval:
        """Macro-F1."""
        return self.summary["f1_macro"]


class ReliabilityBin(Figures):
    """The rows within one bin of confidence: how many, their mean confidence, the share `right`."""

    rows: int
    confidence: float
    right: float


class ProbabilityScores(Figures):
    """How good probabilities are; the macro figures are None where no label has rows with and without."""

    log_loss: float
    brier: float
    ece: float
    roc_auc_macro: float | None
    average_precision_macro: float | None
    reliability: list[ReliabilityBin]

    def by_name(self) -> dict[str, float]:
        """The single figures that are not None."""
        figures = self.model_dump(exclude={"reliability"})
        return {name: value for name, value in figures.items() if value is not None}


class CurvePoint(Interval):
    """Macro-F1 on dev of a model trained on `rows` rows."""

    rows: int

"""The scores of one model on one set of rows."""

from __future__ import annotations

from tasks.figures import Figures, Interval


class LabelScore(Figures):
    """Precision, recall and F1 of one label, F1 with its 95% interval, and the rows that have the label."""

    precision: float
    recall: float
    f1: float
    f1_ci_low: float
    f1_ci_high: float
    rows: int


class Scores(Figures):
    """The scores of one model on one set of rows.

    `summary` has the main figures by name, macro-F1 among them, and `more` some others. `confusion` is
    the matrix of counts, true labels down and predicted ones across; of label sets each label's own,
    [[neither, predicted alone], [true alone, both]].
    """

    rows: int
    summary: dict[str, Interval]
    labels: dict[str, LabelScore]
    more: dict[str, Interval]
    confusion: list[list[int]] | dict[str, list[list[int]]]

    @property
    def f1_macro(self) -> Interval:
        return self.summary["f1_macro"]


class ReliabilityBin(Figures):
    """The rows whose confidence lies in one bin: how many, their mean confidence, and the share that is right."""

    rows: int
    confidence: float
    right: float


class ProbabilityScores(Figures):
    """How good probabilities are; the last two are None where no label has rows with and without it."""

    log_loss: float
    brier: float
    ece: float
    roc_auc_macro: float | None
    average_precision_macro: float | None
    reliability: list[ReliabilityBin]

    def by_name(self) -> dict[str, float]:
        """The single figures that are known."""
        names = ("log_loss", "brier", "ece", "roc_auc_macro", "average_precision_macro")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class CurvePoint(Interval):
    """Macro-F1 on dev of a model fitted on so many rows."""

    rows: int

"""Linear probes: logistic regression on frozen embeddings, one-vs-rest for label sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.labels import (
    are_label_sets,
    confidence,
    decode,
    encode,
    labels_in,
    predict_codes,
    probabilities,
)
from tasks.records import Label

if TYPE_CHECKING:
    import numpy as np

C = 10.0  # inverse penalty, where dev rows do not choose it
STRENGTHS = (1.0, 3.0, 10.0)  # inverse penalties to choose from
CONFIDENT = 0.8  # lowest probability at which the probe learns from its own label


class _Constant:
    """The probe where all rows have the same label."""

    def __init__(self, label: str) -> None:
        import numpy as np

        self.classes_ = np.array([label])

    def predict(self, x: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.repeat(self.classes_, len(x))

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.ones((len(x), 1))


class OneVsRest:
    """One logistic regression per label in `models`; None for a label that all rows have.

    `balanced` gives the rows with a label the same total weight as those without, so that one half
    is a fair threshold. Without it, the probabilities are calibrated.
    """

    def __init__(
        self, x: Any, sets: Sequence[tuple[str, ...]], *, c: float = C, balanced: bool = True
    ) -> None:
        from sklearn.linear_model import LogisticRegression

        self.classes_ = sorted(labels_in(sets))
        y = encode(list(sets), self.classes_)
        weight = "balanced" if balanced else None
        self.models = [
            LogisticRegression(C=c, max_iter=1000, class_weight=weight).fit(x, column)
            if 0 < column.sum() < len(column)
            else None
            for column in y.T
        ]

    def predict(self, x: Any) -> list[Label]:
        """The label set of each row: the labels with a probability of 0.5 or more."""
        return decode(predict_codes(self.predict_proba(x), multi_label=True), self.classes_)

    def predict_proba(self, x: Any) -> np.ndarray:
        """Shape (rows, labels); 1 for a label that all rows of the fit have."""
        import numpy as np

        p = np.ones((x.shape[0], len(self.classes_)))
        for k, model in enumerate(self.models):
            if model is not None:
                p[:, k] = model.predict_proba(x)[:, 1]
        return p


def fit_probe(
    x: np.ndarray, labels: Sequence[Label], *, c: float = C, balanced: bool = True
) -> Any:
    """A classifier as in scikit-learn, fitted on embeddings `x` of shape (rows, dimensions).

    `c` is the inverse strength of the penalty. `balanced` applies to label sets (see OneVsRest).
    """
    from sklearn.linear_model import LogisticRegression

    if are_label_sets(labels):
        return OneVsRest(x, [tuple(label) for label in labels], c=c, balanced=balanced)
    if len(set(labels)) < 2:
        return _Constant(str(labels[0]))
    return LogisticRegression(C=c, max_iter=1000).fit(x, labels)


def predict_labels(probe: Any, x: np.ndarray) -> list[Label]:
    """The labels, or label sets, that a fitted probe predicts for the embeddings `x`."""
    return [label if isinstance(label, tuple) else str(label) for label in probe.predict(x)]


def log_loss(p: np.ndarray, y: np.ndarray, *, multi_label: bool) -> float:
    """The log loss of `p`, shape (rows, labels), for the codes `y`; infinite without rows."""
    import numpy as np

    if not len(p):
        return float("inf")
    hit = np.where(y > 0, p, 1 - p) if multi_label else p[range(len(p)), y]
    return -float(np.log(np.maximum(hit, 1e-12)).mean())


class CalibratedProbe:
    """A probe calibrated on dev; called with embeddings it returns probabilities, (rows, labels).

    `log_loss` is that on dev. Without dev rows it is infinite, and the probe is not calibrated.
    """

    def __init__(
        self,
        probe: Any,
        labels: list[str],
        x_dev: np.ndarray,
        y_dev: np.ndarray,
        *,
        multi_label: bool,
    ) -> None:
        from tasks.statistics.calibration import Calibration

        self._probe, self._labels, self._multi_label = probe, labels, multi_label
        self._calibration = Calibration()
        self.log_loss = float("inf")
        if len(x_dev):
            self._calibration = Calibration.fit(self._logits(x_dev), y_dev)
            self.log_loss = log_loss(self(x_dev), y_dev, multi_label=multi_label)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return probabilities(
            self._calibration.apply(self._logits(x)), multi_label=self._multi_label
        )

    def _logits(self, x: np.ndarray) -> np.ndarray:
        """Log-probabilities, or log-odds of label sets; lowest for labels unknown to the probe."""
        import numpy as np

        p = np.full((len(x), len(self._labels)), 1e-12)
        columns = [self._labels.index(str(k)) for k in self._probe.classes_]
        p[:, columns] = np.maximum(self._probe.predict_proba(x), 1e-12)
        return np.log(p) - np.log(np.maximum(1 - p, 1e-12)) if self._multi_label else np.log(p)


def fit_self_trained(
    x: np.ndarray,
    y: Sequence[Label],
    unlabelled: np.ndarray,
    *,
    x_dev: np.ndarray,
    y_dev: Sequence[Label],
    labels: list[str],
    rounds: int = 8,
) -> CalibratedProbe:
    """A probe fitted on the embeddings `x`, and on its own confident labels of `unlabelled`.

    It is fitted again on its labels, up to `rounds` times, while the log loss on dev falls. Of
    several penalties the one with the lowest log loss on dev is chosen. Without dev rows it is
    fitted on `x` alone. Self-training: Scudder 1965; as classification EM: Amini and Gallinari
    2002.
    """
    import numpy as np

    multi_label = are_label_sets(y)
    true = encode(list(y_dev), labels)

    def fit(x: np.ndarray, y: Sequence[Label], c: float) -> CalibratedProbe:
        return CalibratedProbe(fit_probe(x, y, c=c), labels, x_dev, true, multi_label=multi_label)

    def self_train(c: float) -> CalibratedProbe:
        probe = fit(x, y, c)
        for _ in range(rounds if len(unlabelled) else 0):
            p = probe(unlabelled)
            confident = confidence(p, multi_label=multi_label) >= CONFIDENT
            predicted = decode(predict_codes(p[confident], multi_label=multi_label), labels)
            retrained = fit(np.concatenate([x, unlabelled[confident]]), [*y, *predicted], c)
            if retrained.log_loss >= probe.log_loss:
                break
            probe = retrained
        return probe

    if not len(x_dev):
        return fit(x, y, C)
    return min(map(self_train, STRENGTHS), key=lambda probe: probe.log_loss)

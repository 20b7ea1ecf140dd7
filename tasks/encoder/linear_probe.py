"""The quick model: logistic regression on an encoder's frozen embeddings; for label sets one a label, against the rest."""

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

C = 10.0  # of a probe that dev does not choose
STRENGTHS = (1.0, 3.0, 10.0)  # of those that it chooses from
CONFIDENT = 0.8  # a label of the probe's own, to be learned from


class _Constant:
    """The probe of rows that have one label."""

    def __init__(self, label: str) -> None:
        import numpy as np

        self.classes_ = np.array([label])

    def predict(self, x: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.repeat(self.classes_, len(x))

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.ones((len(x), 1))


class Each:
    """One logistic regression per label against the rest: `models`, None for a label that all rows have.

    `balanced` gives rows with and without the label the same weight, so that one half is a fair
    threshold; without it the probabilities are calibrated.
    """

    def __init__(
        self, x: Any, sets: Sequence[tuple[str, ...]], *, c: float = C, balanced: bool = True
    ) -> None:
        from sklearn.linear_model import LogisticRegression

        self.classes_ = sorted(labels_in(sets))
        y = encode(list(sets), self.classes_)
        weight = "balanced" if balanced else None
        self.models = [
            LogisticRegression(C=c, max_iter=1000, class_weight=weight).fit(x, own)
            if 0 < own.sum() < len(own)
            else None
            for own in y.T
        ]

    def predict(self, x: Any) -> list[Label]:
        return decode(predict_codes(self.predict_proba(x), multi_label=True), self.classes_)

    def predict_proba(self, x: Any) -> np.ndarray:
        """Shape (rows, labels); a label that every row had is always seen."""
        import numpy as np

        found = np.ones((x.shape[0], len(self.classes_)))
        for k, model in enumerate(self.models):
            if model is not None:
                found[:, k] = model.predict_proba(x)[:, 1]
        return found


def fit_probe(
    x: np.ndarray, labels: Sequence[Label], *, c: float = C, balanced: bool = True
) -> Any:
    """A fitted classifier, like scikit-learn's, of embeddings `x`, shape (rows, dimensions).

    `c` is the inverse of the penalty's strength; `balanced` is that of `Each`, for label sets.
    """
    from sklearn.linear_model import LogisticRegression

    if are_label_sets(labels):
        return Each(x, [tuple(own) for own in labels], c=c, balanced=balanced)
    if len(set(labels)) < 2:
        return _Constant(str(labels[0]))
    return LogisticRegression(C=c, max_iter=1000).fit(x, labels)


def predict_labels(probe: Any, x: np.ndarray) -> list[Label]:
    """What a fitted probe says of the embeddings `x`: labels as text, or label sets."""
    return [label if isinstance(label, tuple) else str(label) for label in probe.predict(x)]


def log_loss(p: np.ndarray, y: np.ndarray, *, multi_label: bool) -> float:
    """Of probabilities, shape (rows, labels), for the true codes `y`; infinite without rows."""
    import numpy as np

    if not len(p):
        return float("inf")
    hit = np.where(y > 0, p, 1 - p) if multi_label else p[range(len(p)), y]
    return -float(np.log(np.maximum(hit, 1e-12)).mean())


class CalibratedProbe:
    """A probe calibrated on dev: `judge(x)` gives probabilities, shape (rows, labels).

    `log_loss` is its own on dev; infinite where there are no dev rows, and the probe is taken as it is.
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

        self._probe, self._labels, self._several = probe, labels, multi_label
        self._fitted = Calibration()
        self.log_loss = float("inf")
        if len(x_dev):
            self._fitted = Calibration.fit(self._logits(x_dev), y_dev)
            self.log_loss = log_loss(self(x_dev), y_dev, multi_label=multi_label)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return probabilities(self._fitted.apply(self._logits(x)), multi_label=self._several)

    def _logits(self, x: np.ndarray) -> np.ndarray:
        """Log-probabilities, of label sets log-odds; a label that the probe has not learned is not seen."""
        import numpy as np

        found = np.full((len(x), len(self._labels)), 1e-12)
        columns = [self._labels.index(str(k)) for k in self._probe.classes_]
        found[:, columns] = np.maximum(self._probe.predict_proba(x), 1e-12)
        return (
            np.log(found) - np.log(np.maximum(1 - found, 1e-12)) if self._several else np.log(found)
        )


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
    """The probe of the embeddings `x`, then fitted again on its own confident labels of the `unlabelled` ones too, while
    that lowers the log loss on dev, up to `rounds` times; of several penalties, the one whose log loss on dev is then
    least. Without dev rows it is the plain probe.

    It is confident of a label set where it is of each label in it and out of it. Self-training: Scudder 1965; as
    classification EM on the unlabelled part: Amini and Gallinari 2002.
    """
    import numpy as np

    several = are_label_sets(y)
    true = encode(list(y_dev), labels)

    def judge_of(x: np.ndarray, y: Sequence[Label], c: float) -> CalibratedProbe:
        return CalibratedProbe(fit_probe(x, y, c=c), labels, x_dev, true, multi_label=several)

    def taught(c: float) -> CalibratedProbe:
        judge = judge_of(x, y, c)
        for _ in range(rounds if len(unlabelled) else 0):
            p = judge(unlabelled)
            sure = confidence(p, multi_label=several) >= CONFIDENT
            own = decode(predict_codes(p[sure], multi_label=several), labels)
            again = judge_of(np.concatenate([x, unlabelled[sure]]), [*y, *own], c)
            if again.log_loss >= judge.log_loss:
                break
            judge = again
        return judge

    if not len(x_dev):
        return judge_of(x, y, C)
    return min(map(taught, STRENGTHS), key=lambda judge: judge.log_loss)

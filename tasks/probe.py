"""The quick model: logistic regression on an encoder's frozen embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


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


def fit_probe(x: np.ndarray, labels: list[str]) -> Any:
    """A fitted scikit-learn classifier of embeddings `x`, shape (rows, dimensions)."""
    from sklearn.linear_model import LogisticRegression

    if len(set(labels)) < 2:
        return _Constant(labels[0])
    return LogisticRegression(C=10, max_iter=1000).fit(x, labels)


class Judge:
    """A probe that has read unlabelled text too, calibrated on dev: `judge(x)` gives probabilities, (rows, labels)."""

    def __init__(self, probe: Any, labels: list[str], x_dev: np.ndarray, y_dev: np.ndarray) -> None:
        from tasks.train.calibrate import temperature

        self._probe, self._labels = probe, labels
        self.temperature = 1.0
        self.log_loss = float("inf")
        if len(x_dev):
            self.temperature = temperature(self._log(x_dev), y_dev)
            self.log_loss = -float(self._scaled(x_dev)[range(len(y_dev)), y_dev].mean())

    def __call__(self, x: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.exp(self._scaled(x))

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        import numpy as np
        from scipy.special import log_softmax

        return np.asarray(log_softmax(self._log(x) / self.temperature, axis=1))

    def _log(self, x: np.ndarray) -> np.ndarray:
        """Log-probabilities; a label that the probe has not learned is not seen."""
        import numpy as np

        found = np.full((len(x), len(self._labels)), 1e-12)
        columns = [self._labels.index(str(k)) for k in self._probe.classes_]
        found[:, columns] = np.maximum(self._probe.predict_proba(x), 1e-12)
        return np.log(found)


def self_trained(
    x: np.ndarray,
    y: list[str],
    unlabelled: np.ndarray,
    *,
    x_dev: np.ndarray,
    y_dev: list[str],
    labels: list[str],
    confidence: float,
    rounds: int = 8,
) -> Judge:
    """The probe of the embeddings `x`, then fitted again on its own confident labels of the `unlabelled` ones too, while
    that lowers the log loss on dev, up to `rounds` times. Without dev rows it is the plain probe.

    Self-training: Scudder 1965; as classification EM on the unlabelled part: Amini and Gallinari 2002.
    """
    import numpy as np

    codes = np.array([labels.index(k) for k in y_dev], dtype=np.int64)
    judge = Judge(fit_probe(x, y), labels, x_dev, codes)
    for _ in range(rounds if len(x_dev) and len(unlabelled) else 0):
        p = judge(unlabelled)
        sure = p.max(axis=1) >= confidence
        own = [labels[k] for k in p[sure].argmax(axis=1)]
        again = Judge(fit_probe(np.concatenate([x, unlabelled[sure]]), [*y, *own]), labels, x_dev, codes)
        if again.log_loss >= judge.log_loss:
            break
        judge = again
    return judge

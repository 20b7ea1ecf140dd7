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

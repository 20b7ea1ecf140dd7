"""The quick model: logistic regression on an encoder's frozen embeddings; for label sets one a label, against the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.labels import are_sets, codes, decided, named
from tasks.records import Label

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


class Each:
    """One logistic regression a label against the rest, its yes and no weighing alike, so that one half is a fair threshold."""

    def __init__(self, x: Any, sets: Sequence[tuple[str, ...]]) -> None:
        from sklearn.linear_model import LogisticRegression

        self.classes_ = sorted(set().union(*sets))
        y = codes(list(sets), self.classes_)
        self._models = [
            LogisticRegression(C=10, max_iter=1000, class_weight="balanced").fit(x, own)
            if 0 < own.sum() < len(own)
            else None
            for own in y.T
        ]

    def predict(self, x: Any) -> list[Label]:
        return named(decided(self.predict_proba(x), multi_label=True), self.classes_)

    def predict_proba(self, x: Any) -> np.ndarray:
        """Shape (rows, labels); a label that every row had is always seen."""
        import numpy as np

        found = np.ones((x.shape[0], len(self.classes_)))
        for k, model in enumerate(self._models):
            if model is not None:
                found[:, k] = model.predict_proba(x)[:, 1]
        return found


def fit_probe(x: np.ndarray, labels: Sequence[Label]) -> Any:
    """A fitted classifier, as scikit-learn's are, of embeddings `x`, shape (rows, dimensions), into labels or label sets."""
    from sklearn.linear_model import LogisticRegression

    if are_sets(labels):
        return Each(x, [tuple(own) for own in labels])
    if len(set(labels)) < 2:
        return _Constant(str(labels[0]))
    return LogisticRegression(C=10, max_iter=1000).fit(x, labels)

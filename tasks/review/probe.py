"""What a logistic-regression probe on embeddings thinks of each row: its opinion, the row's loss, and its influence.

Of label sets it is one probe a label, against the rest. Its yes and no weigh as often as they occur, unlike those of
tasks/encoder/linear_probe.py: the log loss ranks the rows, and weights would make it doubt each row that a label is not for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import UserError
from tasks.labels import are_label_sets, confidence, decode, encode, labels_in, predict_codes
from tasks.records import Label

if TYPE_CHECKING:
    import numpy as np
    from sklearn.linear_model import LogisticRegression

FOLDS = 5
STRENGTH = 10.0  # scikit-learn's C, as in tasks/curate/checks/agreement.py
LEAST = 1e-6  # a probability, before its logarithm is taken


@dataclass(frozen=True)
class Opinions:
    """For each row: every label's probability (n x K), none of it from a probe that was trained on that row, and the
    influence of the row on the loss over dev rows (n). `y` are the rows' own labels, as tasks/labels.py codes them."""

    names: list[str]
    probabilities: np.ndarray
    influence: np.ndarray
    y: np.ndarray

    def said(self) -> tuple[list[Label], np.ndarray]:
        """The label, or label set, that the probe sees in each row, and how sure it is of it (n)."""
        several, p = self.y.ndim == 2, self.probabilities
        return decode(predict_codes(p, multi_label=several), self.names), confidence(
            p, multi_label=several
        )

    def measures(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(own, margin, loss) of each row: how probable its own label is, by how much the best other one is more probable,
        and the log loss.

        Of label sets, `own` is the probability of the least probable of its decisions, `margin` by how much the contrary is
        more probable, and `loss` the sum over all decisions.
        """
        import numpy as np

        p, rows = self.probabilities, np.arange(len(self.y))
        if self.y.ndim == 2:
            each = np.where(self.y == 1, p, 1 - p)
            own = each.min(axis=1)
            return own, 1 - 2 * own, -np.log(np.clip(each, LEAST, 1)).sum(axis=1)
        has = self.y >= 0
        own = np.where(has, p[rows, self.y], 0.0)
        others = p.copy()
        others[rows[has], self.y[has]] = -1.0
        return own, others.max(1) - own, -np.log(np.clip(own, LEAST, 1))


def opinions(
    x: np.ndarray,
    labels: Sequence[Label],
    trained_on: np.ndarray,
    *,
    dev: np.ndarray,
    dev_labels: Sequence[Label],
) -> Opinions:
    """The probe's opinions on the rows `x` (n x d); `trained_on` (n, bool) says which are training rows.

    Training rows get out-of-fold probabilities (as in confident learning: Northcutt et al. 2021, arXiv:1911.00068), other
    rows those of the probe trained on all training rows. A label with fewer than two training rows is no answer of the
    probe's. Raises UserError when fewer than two labels are left.
    """
    import numpy as np

    if are_label_sets(labels):
        return _of_sets(x, labels, trained_on, dev=dev, dev_labels=dev_labels)
    counts = Counter(label for label, is_in in zip(labels, trained_on, strict=True) if is_in)
    names = sorted(str(label) for label, n in counts.items() if n >= 2)
    if len(names) < 2:
        raise UserError(
            f"a queue needs at least two training rows of at least two labels: these have {dict(counts)}; add rows"
        )
    y, heard_y = encode(labels, names), encode(dev_labels, names)
    inside = trained_on & (y >= 0)
    probe = fitted(x[inside], y[inside])
    p = probe.predict_proba(x)
    p[inside] = out_of_fold(
        x[inside], y[inside], folds=min(FOLDS, min(counts[name] for name in names))
    )
    heard = heard_y >= 0
    harm = np.zeros(len(x))
    if heard.any():
        known = y >= 0
        harm[known] = influence(
            probe, x[inside], x[known], y[known], dev=dev[heard], dev_y=heard_y[heard]
        )
    return Opinions(names, p, harm, y)


def _of_sets(
    x: np.ndarray,
    sets: Sequence[Label],
    trained_on: np.ndarray,
    *,
    dev: np.ndarray,
    dev_labels: Sequence[Label],
) -> Opinions:
    """The opinions of one probe a label. A label that all training rows but one have, or lack, is taken as they have it."""
    import numpy as np

    names = sorted(labels_in(sets))
    y = encode(sets, names)
    yes = y[trained_on].sum(axis=0)
    rare = np.minimum(yes, trained_on.sum() - yes)
    if not (rare >= 2).any():
        raise UserError(
            f"a queue needs at least two training rows with a label and two without it: of {int(trained_on.sum())} rows "
            f"these have {dict(zip(names, yes.tolist(), strict=True))}; add rows"
        )
    p, harm = np.zeros(y.shape), np.zeros(len(x))
    p[:] = 2 * yes > trained_on.sum()
    dev_y = (
        encode(dev_labels, names) if len(dev_labels) else np.zeros((0, len(names)), dtype=np.int64)
    )
    for k in (rare >= 2).nonzero()[0]:
        probe = fitted(x[trained_on], y[trained_on, k])
        p[:, k] = probe.predict_proba(x)[:, 1]
        p[trained_on, k] = out_of_fold(
            x[trained_on], y[trained_on, k], folds=min(FOLDS, int(rare[k]))
        )[:, 1]
        if len(dev):
            harm += influence(probe, x[trained_on], x, y[:, k], dev=dev, dev_y=dev_y[:, k])
    return Opinions(names, p, harm, y)


def fitted(x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=STRENGTH, max_iter=2000, tol=1e-6).fit(x, y)


def out_of_fold(x: np.ndarray, y: np.ndarray, *, folds: int) -> np.ndarray:
    """n x K probabilities, each row's from a probe that was not trained on it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    parts = StratifiedKFold(folds, shuffle=True, random_state=0)
    probe = LogisticRegression(C=STRENGTH, max_iter=1000)
    p: np.ndarray = cross_val_predict(probe, x, y, cv=parts, method="predict_proba")
    return p


def influence(
    probe: LogisticRegression,
    x: np.ndarray,
    rows: np.ndarray,
    rows_y: np.ndarray,
    *,
    dev: np.ndarray,
    dev_y: np.ndarray,
) -> np.ndarray:
    """How much the summed dev loss rises with each row in training, to first order; above 0 the row does harm.

    -grad(dev)^T H^-1 grad(row), the influence function (Koh and Liang 2017, arXiv:1703.04730) of the probe fitted on `x`.
    H is the exact Hessian of its L2-regularised objective, never formed: one system is solved by conjugate gradients. It
    is the probe's influence, the last layer's of a frozen encoder; what fine-tuning the encoder would do is not covered.
    """
    import numpy as np
    from scipy.sparse.linalg import LinearOperator, cg

    a, rows, dev = (np.hstack([m, np.ones((len(m), 1))]).astype(np.float64) for m in (x, rows, dev))
    binary = len(probe.coef_) == 1  # then scikit-learn has one logit, not two
    p = _p(probe, x, binary)
    penalty = np.ones((a.shape[1], 1))
    penalty[-1] = 1e-3  # the intercept has none, and without any H is singular
    shape = (a.shape[1], p.shape[1])

    def product(flat: np.ndarray) -> np.ndarray:
        v = flat.reshape(shape)
        u = a @ v
        curved = p * (1 - p) * u if binary else p * u - p * (p * u).sum(1, keepdims=True)
        return (penalty * v + STRENGTH * a.T @ curved).ravel()

    dev_gradient = dev.T @ (_p(probe, dev[:, :-1], binary) - _targets(dev_y, p.shape[1], binary))
    size = dev_gradient.size
    solved, _ = cg(
        LinearOperator((size, size), product, dtype=np.float64),
        dev_gradient.ravel(),
        rtol=1e-4,
        maxiter=500,
    )
    residual = _p(probe, rows[:, :-1], binary) - _targets(rows_y, p.shape[1], binary)
    harm: np.ndarray = -STRENGTH * ((rows @ solved.reshape(shape)) * residual).sum(1)
    return harm


def _p(probe: LogisticRegression, x: np.ndarray, binary: bool) -> np.ndarray:
    p: np.ndarray = probe.predict_proba(x)
    return p[:, 1:] if binary else p


def _targets(y: np.ndarray, width: int, binary: bool) -> np.ndarray:
    import numpy as np

    targets: np.ndarray = y[:, None].astype(float) if binary else np.eye(width)[y]
    return targets

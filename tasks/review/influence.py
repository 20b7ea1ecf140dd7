"""How much each training row raises the loss over dev rows: influence functions of a probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.encoder.linear_probe import C

if TYPE_CHECKING:
    import numpy as np

_INTERCEPT_PENALTY = 1e-3  # the intercept has none, and without any the Hessian is singular


def influence(
    probe: Any,
    x: np.ndarray,
    rows: np.ndarray,
    y: np.ndarray,
    *,
    dev: np.ndarray,
    dev_y: np.ndarray,
) -> np.ndarray:
    """How much the summed dev loss rises with each of `rows` in training, to first order.

    -grad(dev)^T H^-1 grad(row), the influence function (Koh and Liang 2017, arXiv:1703.04730) of
    the logistic regression fitted on `x`; of label sets, summed over the labels' own. H is the
    exact Hessian of its L2-regularised objective; it is never formed, as one system is solved by
    conjugate gradients. Rows whose label is coded as -1 have none. What fine-tuning the encoder
    would do is not covered.
    """
    import numpy as np
    from scipy.sparse.linalg import LinearOperator, cg

    if y.ndim == 2:
        labels = zip(probe.models, y.T, dev_y.T, strict=True)
        harms = [influence(m, x, rows, own, dev=dev, dev_y=dev_own) for m, own, dev_own in labels]
        return np.sum(harms, axis=0)
    p = _probabilities(probe, x)
    dev_residuals, residuals = _residuals(probe, dev, dev_y), _residuals(probe, rows, y)
    x, rows, dev = (np.hstack([m, np.ones((len(m), 1))]).astype(np.float64) for m in (x, rows, dev))
    penalty = np.ones((x.shape[1], 1))
    penalty[-1] = _INTERCEPT_PENALTY
    shape = (x.shape[1], p.shape[1])

    def hessian_product(flat: np.ndarray) -> np.ndarray:
        v = flat.reshape(shape)
        u = x @ v
        curved = p * (1 - p) * u if shape[1] == 1 else p * u - p * (p * u).sum(1, keepdims=True)
        return (penalty * v + C * x.T @ curved).ravel()

    dev_gradient = (dev.T @ dev_residuals).ravel()
    hessian = LinearOperator(2 * dev_gradient.shape, hessian_product, dtype=np.float64)
    solved, _ = cg(hessian, dev_gradient, rtol=1e-4, maxiter=500)
    harm: np.ndarray = -C * ((rows @ solved.reshape(shape)) * residuals).sum(1)
    return harm


def _probabilities(probe: Any, x: np.ndarray) -> np.ndarray:
    """Those of the labels; of two labels, which share one logit, those of the second alone."""
    p: np.ndarray = probe.predict_proba(x)
    return p[:, 1:] if len(probe.coef_) == 1 else p


def _residuals(probe: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The probabilities less the true labels `y`; 0 where a label is coded as -1."""
    import numpy as np

    p = _probabilities(probe, x)
    targets = y[:, None] if p.shape[1] == 1 else np.eye(p.shape[1])[y]
    return np.where(y[:, None] < 0, 0.0, p - targets)

"""A linear probe's view of each row: the label it predicts, the row's doubt and its influence.

The probe is curation's (tasks/encoder/out_of_fold.py), but of label sets it is not balanced: the
log loss ranks the rows, and balanced weights would make each row without a rare label doubtful.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING

from tasks.encoder.linear_probe import fit_probe
from tasks.encoder.out_of_fold import learnable_labels, out_of_fold_probabilities
from tasks.errors import UserError
from tasks.labels import confidence, decode, encode, label_of, labels_in, predict_codes
from tasks.records import Label, Record, count_by_label
from tasks.review.influence import influence

if TYPE_CHECKING:
    import numpy as np

_MIN_PROBABILITY = 1e-6  # of a label, before its logarithm is taken


@dataclass(frozen=True, slots=True)
class Assessment:
    """The probe's view of rows: each array has one value per row.

    `predicted` has the label with the highest `probability`; `own` is the probability of the
    row's own label, `margin` how much more probable the best other label is, `loss` the log loss,
    and `influence` how much the row in training raises the loss over dev rows. Of label sets,
    `own` is the probability of the row's least probable decision, `margin` how much more probable
    its contrary is, and `loss` the sum over all decisions.
    """

    predicted: list[Label]
    probability: np.ndarray
    own: np.ndarray
    margin: np.ndarray
    loss: np.ndarray
    influence: np.ndarray


def assess_rows(
    records: Sequence[Record],
    x: np.ndarray,
    trained_on: np.ndarray,
    *,
    dev: Sequence[Record],
    dev_x: np.ndarray,
) -> Assessment:
    """The probe's view of the records with embeddings `x`; `trained_on` (bool) marks training rows.

    Training rows get out-of-fold probabilities, other rows those of the probe fitted on all
    training rows. A label that fewer than two training rows have has probability 0; of label
    sets, one that fewer than two have or lack is predicted for all rows or for none. Raises
    UserError when the probe cannot be fitted.
    """
    import numpy as np

    labels = [label_of(r) for r in records]
    names = sorted(labels_in(labels))
    y = encode(labels, names)
    several = y.ndim == 2
    learned = _learned(list(compress(records, trained_on)), several=several)
    fitted = trained_on & np.array([several or label in learned for label in labels])
    training = [_restrict(r, learned) for r in compress(records, fitted)]
    probe = fit_probe(x[fitted], [label_of(r) for r in training], balanced=False)

    p = np.zeros((len(records), len(names)))
    if several:
        p[:] = y[trained_on].mean(axis=0) > 0.5
    columns = np.array([names.index(label) for label in learned])
    p[:, columns] = probe.predict_proba(x)
    out_of_fold = out_of_fold_probabilities(training, x[fitted], learned, balanced=False)
    p[np.ix_(fitted, columns)] = out_of_fold
    harm = np.zeros(len(records))
    if dev:
        codes, dev_codes = encode(labels, learned), encode([label_of(r) for r in dev], learned)
        harm = influence(probe, x[fitted], x, codes, dev=dev_x, dev_y=dev_codes)
    return Assessment(
        decode(predict_codes(p, multi_label=several), names),
        confidence(p, multi_label=several),
        *_doubts(p, y),
        harm,
    )


def _learned(training: list[Record], *, several: bool) -> list[str]:
    """The labels that the probe can learn. Raises UserError when these are too few."""
    learned = learnable_labels(training)
    if len(learned) < (1 if several else 2):
        need = "with a label and two without it" if several else "of at least two labels"
        raise UserError(
            f"a review needs at least two training rows {need}: of {len(training)} rows these have "
            f"{count_by_label(training)}; add rows"
        )
    return learned


def _restrict(r: Record, learned: list[str]) -> Record:
    """The record; of a label set, without the labels that are not learned."""
    if isinstance(r.label, tuple):
        return replace(r, label=tuple(label for label in r.label if label in learned))
    return r


def _doubts(p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`own`, `margin` and `loss` of an Assessment."""
    import numpy as np

    if y.ndim == 2:
        decided = np.where(y == 1, p, 1 - p)
        own = decided.min(axis=1)
        return own, 1 - 2 * own, -np.log(np.clip(decided, _MIN_PROBABILITY, 1)).sum(axis=1)
    rows = np.arange(len(y))
    own, others = p[rows, y], p.copy()
    others[rows, y] = -1.0
    return own, others.max(axis=1) - own, -np.log(np.clip(own, _MIN_PROBABILITY, 1))

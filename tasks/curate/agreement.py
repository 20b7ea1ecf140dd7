"""Set aside generated rows whose label a probe, trained on the other rows, does not see in them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tasks.records import Record, Rejected

if TYPE_CHECKING:
    from tasks.curate.run import Context

FOLDS = 5


def agreement(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """Records whose own label has an out-of-fold probability of `curate.agreement` or more; seed rows are not judged.

    The probe is logistic regression on the encoder's embeddings, cross-fitted (out-of-sample probabilities as in
    confident learning: Northcutt et al. 2021, arXiv:1911.00068). Nothing is judged while a label has fewer than two rows.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    least = context.settings.agreement
    counts = Counter(r.label for r in records)
    if least <= 0 or len(counts) < 2 or min(counts.values()) < 2:
        return records, []
    names = sorted(map(str, counts))
    y = np.array([names.index(str(r.label)) for r in records])
    folds = StratifiedKFold(min(FOLDS, min(counts.values())), shuffle=True, random_state=0)
    probe = LogisticRegression(C=10, max_iter=1000)
    p = cross_val_predict(probe, context.embed([r.text for r in records]), y, cv=folds, method="predict_proba")
    kept, rejected = [], []
    for r, own, row in zip(records, y, p, strict=True):
        value = float(row[own])
        if r.source == "seed" or value >= least:
            kept.append(r)
        else:
            seen = names[int(row.argmax())]
            reason = f"the probe gives {r.label!r} {value:.2f} and {seen!r} {row.max():.2f} (curate.agreement {least})"
            rejected.append(Rejected(r, "off_label", reason, round(value, 4)))
    return kept, rejected

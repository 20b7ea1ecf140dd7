"""Set aside rows whose label is likely wrong by confident learning."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tasks.records import Record, Rejected, label_text

if TYPE_CHECKING:
    import numpy as np

    from tasks.curate.context import Context

LEAST_ROWS = (
    10  # of each label: below it the thresholds of confident learning are means of too few numbers
)


def label_noise(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """Records that confident learning does not find mislabelled (`curate.label_noise`), never relabelled.

    A row is found when another label's probability is above that label's own average, and its own label's share of the
    estimated noise counts it among the least likely (Northcutt et al. 2021, arXiv:1911.00068; cleanlab's filter "both").
    Of label sets, each label is judged against the rest. Rows that a person labelled are kept, and listed as doubtful.
    """
    wanted = context.settings.label_noise
    opinions = context.opinions(records) if wanted != "off" else None
    counts = Counter(label for r in records for label in r.labels)
    if opinions is None or len(counts) < len(opinions.names) or min(counts.values()) < LEAST_ROWS:
        return records, []
    y = opinions.labels[[opinions.rows[r.id] for r in records]]
    issues = label_issues(y, opinions.of_rows(records))
    kept, rejected = [], []
    for r, issue in zip(records, issues, strict=True):
        if not issue:
            kept.append(r)
            continue
        value, (label, most) = opinions.own(r), opinions.seen(r)
        reason = f"its label {label_text(r.label)!r} ({value:.2f}) is likely {label_text(label)!r} ({most:.2f}) by confident learning"
        found = Rejected(r, "label_noise", reason, round(value, 4))
        context.doubt(found, suggested=label, probability=round(most, 4))
        if r.is_human_labelled or wanted == "note":
            kept.append(r)
        else:
            rejected.append(found)
    return kept, rejected


def label_issues(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """True for each row that is likely mislabelled; `y` as tasks/labels.py codes labels or label sets."""
    import numpy as np

    if y.ndim == 1:
        from cleanlab.filter import find_label_issues

        return np.asarray(find_label_issues(y, p, filter_by="both", n_jobs=1))
    from cleanlab.multilabel_classification.filter import find_label_issues as in_sets

    return np.asarray(
        in_sets([row.nonzero()[0].tolist() for row in y], p, filter_by="both", n_jobs=1)
    )

"""Reject rows whose label is likely wrong by confident learning."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tasks.curate.context import CurationContext
from tasks.labels import encode, label_of, labels_in
from tasks.records import Partition, Record, Rejected, label_text, partition

if TYPE_CHECKING:
    import numpy as np

# confident learning averages probabilities per label: with fewer rows the averages mean nothing
MIN_ROWS_PER_LABEL = 10


def label_noise(records: list[Record], context: CurationContext) -> Partition:
    """Rows whose label confident learning does not find wrong (`curate.label_noise`).

    A label is likely wrong when another label's probability is above that label's own average, and
    the row is among the least probable that the estimated noise of its label counts (Northcutt et
    al. 2021, arXiv:1911.00068; cleanlab's filter "both"). Of label sets, each label is judged
    against the rest. Rows that a person labelled are kept and listed as doubtful.
    """
    import numpy as np

    mode = context.settings.label_noise
    opinions = context.opinions(records) if mode != "off" else None
    counts = Counter(label for r in records for label in r.labels)
    if opinions is None or min(counts.values(), default=0) < MIN_ROWS_PER_LABEL:
        return records, []
    names = sorted(labels_in(opinion.label for opinion in opinions.values()))
    if len(counts) < len(names):  # an earlier check rejected all rows of a label
        return records, []
    p = np.array([opinions[r.id].p for r in records])
    issues = label_issues(encode([label_of(r) for r in records], names), p)
    mislabelled = {r.id for r, issue in zip(records, issues, strict=True) if issue}

    def check(r: Record) -> Rejected | None:
        if r.id not in mislabelled:
            return None
        opinion = opinions[r.id]
        reason = (
            f"its label {label_text(r.label)!r} ({opinion.own:.2f}) is likely "
            f"{label_text(opinion.predicted)!r} ({opinion.probability:.2f}) by confident learning"
        )
        rejection = Rejected(r, "label_noise", reason, round(opinion.own, 4))
        context.doubt(rejection, suggested=opinion.predicted, probability=opinion.probability)
        return None if r.is_human_labelled or mode == "note" else rejection

    return partition(records, check)


def label_issues(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """True for each row that is likely mislabelled; `y` as tasks/labels.py codes labels or label sets."""
    import numpy as np

    if y.ndim == 1:
        from cleanlab.filter import find_label_issues

        return np.asarray(find_label_issues(y, p, filter_by="both", n_jobs=1))
    from cleanlab.multilabel_classification import filter as multi_label

    sets = [row.nonzero()[0].tolist() for row in y]
    return np.asarray(multi_label.find_label_issues(sets, p, filter_by="both", n_jobs=1))

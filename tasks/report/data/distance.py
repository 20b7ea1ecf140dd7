"""How well a classifier distinguishes synthetic rows from real ones, and by which words.

A classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545).
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tasks.records import Label, Record
from tasks.report.data.diversity import word_tokens
from tasks.report.data.figures import TwoSampleTest, TypicalWord, TypicalWords

if TYPE_CHECKING:
    import numpy as np

FOLDS = 5
LEAST = 10  # rows per side; with fewer, nothing is tested
MOST = 500  # rows per side
WORDS = 15  # shown of each side


def sample_by_id(rows: list[Record], n: int) -> list[Record]:
    """The first `n` in the order of their ids, which are hashes: a fixed random sample."""
    return sorted(rows, key=lambda r: r.id)[: max(n, 0)]


def matched_rows(
    synthetic: list[Record], labelled: list[Record], unlabelled: list[Record]
) -> tuple[list[Record], list[Record]]:
    """(synthetic, real) rows to compare: the same number of both, at most 500.

    They are matched by label where the label of real rows is known; the remaining synthetic rows,
    of any label, are compared with unlabelled ones.
    """
    groups: dict[Label | None, list[Record]] = defaultdict(list)
    for r in sample_by_id(synthetic, len(synthetic)):
        groups[r.label].append(r)
    most = MOST // max(1, len(groups))
    made: list[Record] = []
    real: list[Record] = []
    for label, rows in sorted(groups.items(), key=lambda item: str(item[0])):
        same = sample_by_id([r for r in labelled if r.label == label], min(len(rows), most))
        made += rows[: len(same)]
        real += same
    taken = {r.id for r in made}
    others = sample_by_id([r for r in synthetic if r.id not in taken], MOST - len(made))
    unknown = sample_by_id(unlabelled, len(others))
    return made + others[: len(unknown)], real + unknown


def two_sample_test(synthetic: np.ndarray, real: np.ndarray) -> TwoSampleTest | None:
    """The test of logistic regression between the sides; None for too few rows.

    Both arrays have one embedding per row, and as many rows. AUC and accuracy are those of
    stratified cross-validation: 0.5 where the sides are indistinguishable, 1 where they are always
    distinguished. Its scores are not independent, so `p` is that of the one-sided rank-sum test on
    a held-out half (`held_out` rows).
    """
    import numpy as np
    from scipy.stats import mannwhitneyu
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split

    if min(len(synthetic), len(real)) < LEAST:
        return None
    x = np.concatenate([synthetic, real])
    y = np.repeat([1, 0], [len(synthetic), len(real)])
    probe = LogisticRegression(max_iter=1000)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    scores = cross_val_predict(probe, x, y, cv=folds, method="decision_function")
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=0.5, stratify=y, random_state=0
    )
    held = probe.fit(x_train, y_train).decision_function(x_test)
    held = held.astype(np.float64)  # a float32 p ends at 1e-38
    p = mannwhitneyu(held[y_test == 1], held[y_test == 0], alternative="greater").pvalue
    return TwoSampleTest(
        rows=(len(synthetic), len(real)),
        auc=round(float(roc_auc_score(y, scores)), 4),
        accuracy=round(float(((scores > 0) == (y == 1)).mean()), 4),
        p=float(f"{p:.3g}"),
        held_out=len(y_test),
    )


def distinguishing_words(synthetic: list[Record], real: list[Record]) -> TypicalWords:
    """The words most typical of either side, with the shares of texts that have them.

    The weights are those of logistic regression on TF-IDF; words in fewer than three texts are left
    out.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if min(len(synthetic), len(real)) < LEAST:
        return TypicalWords(synthetic=[], real=[])
    texts = [word_tokens(r.text) for r in [*synthetic, *real]]
    y = np.repeat([1, 0], [len(synthetic), len(real)])
    vectorizer = TfidfVectorizer(analyzer=lambda words: words, min_df=3, sublinear_tf=True)
    try:
        x = vectorizer.fit_transform(texts)
    except ValueError:  # no word appears in three texts
        return TypicalWords(synthetic=[], real=[])
    weights = LogisticRegression(C=10, max_iter=1000).fit(x, y).coef_[0]
    has = (x > 0).astype(float)
    share_synthetic, share_real = (
        np.asarray(has[y == side].mean(axis=0)).ravel() for side in (1, 0)
    )
    names = vectorizer.get_feature_names_out()

    def top_words(order: np.ndarray, sign: int) -> list[TypicalWord]:
        return [
            TypicalWord(
                word=str(names[i]),
                weight=round(float(abs(weights[i])), 3),
                synthetic=round(float(share_synthetic[i]), 3),
                real=round(float(share_real[i]), 3),
            )
            for i in order[:WORDS]
            if weights[i] * sign > 0
        ]

    order = np.argsort(weights, kind="stable")
    return TypicalWords(synthetic=top_words(order[::-1], 1), real=top_words(order, -1))

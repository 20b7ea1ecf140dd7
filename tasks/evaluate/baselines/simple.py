"""What a model must beat to be worth having. Each answers with one label a text, or with one label set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tasks.labels import are_label_sets, decode, encode, label_of
from tasks.records import Label, Record, label_text


def majority(train: list[Record], texts: list[str], labels: list[str]) -> list[Label]:
    """The label, or label set, with the most training rows, for every text; the first of the project's where they tie."""
    counts = Counter(label_of(r) for r in train)
    sets = sorted(
        (own for own in counts if isinstance(own, tuple)),
        key=lambda own: [labels.index(k) for k in own],
    )
    candidates: Sequence[Label] = sets or labels
    return [max(candidates, key=lambda label: counts[label])] * len(texts)


def descriptions(
    described: dict[str, str],
    texts: list[str],
    encoder: Path,
    max_length: int,
    *,
    dev: list[Record] | None = None,
) -> list[Label]:
    """The label whose description lies nearest to the text, by cosine of the encoder's embeddings. Given `dev` rows with label
    sets, every label that is nearer than one cosine, which has the best macro-F1 on them."""
    from tasks.encoder.embed import embed

    names = list(described)
    lines = embed(
        encoder, [f"{name}: {line}" for name, line in described.items()], max_length=max_length
    )

    def near(asked: list[str]) -> np.ndarray:
        return np.asarray(embed(encoder, asked, max_length=max_length) @ lines.T)

    if dev is None:
        return decode(near(texts).argmax(axis=1), names)
    cosine = best_cosine(near([r.text for r in dev]), encode([label_of(r) for r in dev], names))
    return decode((near(texts) >= cosine).astype(np.int64), names)


def best_cosine(cosines: np.ndarray, y: np.ndarray) -> float:
    """The one threshold of `cosines` (rows, labels) with the best macro-F1 on `y` (0 and 1); the highest where they tie."""
    from tasks.statistics.metrics import f1_macro

    tried = np.unique(np.quantile(cosines, np.linspace(0, 1, 101)))
    names = list(range(y.shape[1]))
    return float(max(tried, key=lambda t: (f1_macro(y, (cosines >= t).astype(np.int64), names), t)))


def tfidf(train: list[Record], texts: list[str]) -> list[Label]:
    """TF-IDF of words and word pairs with logistic regression, fitted on the same training rows as the challenger: for label
    sets one for each label against the rest, both sides weighing alike."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if are_label_sets([label_of(r) for r in train[:1]]):
        from tasks.encoder.linear_probe import Each

        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
        x = words.fit_transform([r.text for r in train])
        return Each(x, [r.labels for r in train]).predict(words.transform(texts))
    names: list[Label] = sorted({label_text(r.label) for r in train})
    if len(names) < 2:
        return names * len(texts)
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
        LogisticRegression(C=10, max_iter=1000),
    )
    model.fit([r.text for r in train], [str(r.label) for r in train])
    return [str(label) for label in model.predict(texts)]


def mean_vectors(
    train: list[Record], texts: list[str], vectors: Callable[[list[str]], np.ndarray]
) -> list[Label]:
    """Logistic regression on the means of the texts' static vectors, fitted on the training rows. See word_vectors.py."""
    from tasks.encoder.linear_probe import fit_probe, predict_labels

    if not train:
        return []
    probe = fit_probe(vectors([r.text for r in train]), [label_of(r) for r in train])
    return predict_labels(probe, vectors(texts))

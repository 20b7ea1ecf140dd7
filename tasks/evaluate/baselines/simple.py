"""Simple baselines that a model must beat. Each answers with one label, or one label set, per text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tasks.labels import decode, encode, label_of
from tasks.records import Label, Record
from tasks.statistics.metrics import f1_macro


def predict_majority(train: list[Record], texts: list[str], labels: list[str]) -> list[Label]:
    """The label, or label set, with the most training rows; of ties the first in the project file."""
    counts = Counter(label_of(r) for r in train)
    sets = [label for label in counts if isinstance(label, tuple)]
    sets.sort(key=lambda own: [labels.index(label) for label in own])
    candidates: Sequence[Label] = sets or labels
    return [max(candidates, key=lambda label: counts[label])] * len(texts)


def predict_by_description(
    descriptions: dict[str, str],
    texts: list[str],
    encoder: Path,
    max_length: int,
    *,
    dev: list[Record] | None = None,
) -> list[Label]:
    """The label whose description is nearest by cosine of the encoder's embeddings.

    With `dev` rows of label sets, every label nearer than the cosine with the best macro-F1 on
    them.
    """
    from tasks.encoder.embed import embed

    names = list(descriptions)
    lines = [f"{name}: {line}" for name, line in descriptions.items()]
    described = embed(encoder, lines, max_length=max_length)

    def cosines(some: list[str]) -> np.ndarray:
        return np.asarray(embed(encoder, some, max_length=max_length) @ described.T)

    if dev is None:
        return decode(cosines(texts).argmax(axis=1), names)
    y = encode([label_of(r) for r in dev], names)
    threshold = best_threshold(cosines([r.text for r in dev]), y)
    return decode((cosines(texts) >= threshold).astype(np.int64), names)


def best_threshold(cosines: np.ndarray, y: np.ndarray) -> float:
    """The threshold of `cosines` (rows, labels) with the best macro-F1 on `y`; of ties the highest."""
    tried = np.unique(np.quantile(cosines, np.linspace(0, 1, 101)))
    names = list(range(y.shape[1]))
    return float(max(tried, key=lambda t: (f1_macro(y, (cosines >= t).astype(np.int64), names), t)))


def predict_by_tfidf(train: list[Record], texts: list[str]) -> list[Label]:
    """TF-IDF of words and word pairs with logistic regression, on the challenger's training rows.

    Of label sets one balanced regression per label against the rest.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    from tasks.encoder.linear_probe import OneVsRest

    sets = any(isinstance(r.label, tuple) for r in train)
    labels = [str(r.label) for r in train]
    if not sets and len(set(labels)) < 2:
        return [*labels[:1]] * len(texts)
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    x = vectorizer.fit_transform([r.text for r in train])
    asked = vectorizer.transform(texts)
    if sets:
        return OneVsRest(x, [r.labels for r in train]).predict(asked)
    model = LogisticRegression(C=10, max_iter=1000).fit(x, labels)
    return [str(label) for label in model.predict(asked)]


def predict_by_vectors(
    train: list[Record], texts: list[str], vectors: Callable[[list[str]], np.ndarray]
) -> list[Label]:
    """Logistic regression on `vectors` of the texts (see word_vectors.py)."""
    from tasks.encoder.linear_probe import fit_probe, predict_labels

    if not train:
        return []
    probe = fit_probe(vectors([r.text for r in train]), [label_of(r) for r in train])
    return predict_labels(probe, vectors(texts))

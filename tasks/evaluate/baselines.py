"""What a model must beat to be worth having. Each answers with one label a text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tasks.records import Record


def majority(train: list[Record], texts: list[str], labels: list[str]) -> list[str]:
    """The label with the most training rows, for every text; the first of the project's where they tie."""
    counts = Counter(r.label for r in train)
    return [max(labels, key=lambda label: counts[label])] * len(texts)


def descriptions(described: dict[str, str], texts: list[str], encoder: Path, max_length: int) -> list[str]:
    """The label whose description lies nearest to the text, by cosine of the encoder's embeddings."""
    from tasks.embed import embed

    names = list(described)
    lines = embed(encoder, [f"{name}: {line}" for name, line in described.items()], max_length=max_length)
    return [names[i] for i in (embed(encoder, texts, max_length=max_length) @ lines.T).argmax(axis=1)]


def tfidf(train: list[Record], texts: list[str]) -> list[str]:
    """TF-IDF of words and word pairs with logistic regression, fitted on the same training rows as the challenger."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    names = sorted({str(r.label) for r in train})
    if len(names) < 2:
        return names * len(texts)
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), LogisticRegression(C=10, max_iter=1000)
    )
    model.fit([r.text for r in train], [str(r.label) for r in train])
    return [str(label) for label in model.predict(texts)]

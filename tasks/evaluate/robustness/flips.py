"""How many answers flip when test texts are perturbed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.evaluate.robustness.perturb import perturb
from tasks.figures import Figures
from tasks.labels import label_of
from tasks.model.bundle import BundleRef
from tasks.project import Project
from tasks.records import Label, Record, label_text
from tasks.statistics.metrics import f1_macro
from tasks.statistics.proportions import Proportion, proportion
from tasks.text.tokens import fold, split_words

if TYPE_CHECKING:
    import numpy as np


class PerturbationScore(Figures):
    """The effect of one perturbation on the answers.

    `rows` counts the rows that it changes, `read_alike` those whose changed text is the same input
    to the model. Macro-F1 is over the labels that these rows have.
    """

    rows: int
    read_alike: int
    flips: int
    flip_rate: Proportion
    f1_macro_before: float | None
    f1_macro: float | None
    fall: float | None


@dataclass(frozen=True)
class PerturbedRow:
    """A test row and its perturbed text."""

    row: Record
    text: str


@dataclass(frozen=True)
class AnsweredTexts:
    """A bundle's answers: by text the label, the probabilities and the first text of equal input.

    Probabilities have the shape (labels,), in the order of `labels`, the bundle's own.
    """

    labels: list[str]
    answers: dict[str, Label]
    p: dict[str, np.ndarray]
    first: dict[str, int]

    def flips(self, row: PerturbedRow) -> bool:
        """True where the perturbation changes the answer."""
        return self.answers[row.text] != self.answers[row.row.text]


def answer_texts(bundle: BundleRef, texts: Iterable[str], *, multi_label: bool) -> AnsweredTexts:
    """The answers to all texts, from one call with the distinct inputs."""
    import numpy as np

    from tasks.model.bundle import Classifier

    model = Classifier.load(bundle.directory, digest=bundle.digest)
    distinct = list(dict.fromkeys(texts))
    first = model.first_identical(distinct)
    inputs = sorted(set(first))
    p = dict(zip(inputs, model.probabilities([distinct[i] for i in inputs]), strict=True))
    rows = [p[i] for i in first]
    answers = model.answers(np.stack(rows), multi_label=multi_label) if rows else []
    by_text = (dict(zip(distinct, values, strict=True)) for values in (answers, rows, first))
    return AnsweredTexts(model.labels, *by_text)


def perturb_rows(
    rows: Sequence[Record], names: Sequence[str], project: Project
) -> dict[str, list[PerturbedRow]]:
    """For each perturbation, the rows that it changes. Entities with a word of a label stay."""
    keep = {word for label in project.labels for word in split_words(fold(label))}
    for description in project.labels.values():
        found = split_words(fold(description).replace(";", " "))
        keep |= {word for word in found if len(word) > 3}  # "new law" does not protect New York
    perturbed = {}
    for name in names:
        changed = (PerturbedRow(r, perturb(name, r.text, keep=keep)) for r in rows)
        perturbed[name] = [p for p in changed if p.text != p.row.text]
    return perturbed


def score_perturbation(
    rows: Sequence[PerturbedRow], answered: AnsweredTexts, labels: list[str]
) -> PerturbationScore:
    """The scores of one perturbation."""
    flips = sum(map(answered.flips, rows))
    present = [label for label in labels if any(label in p.row.labels for p in rows)]
    before = after = None
    if present:
        true = [label_of(p.row) for p in rows]
        before = f1_macro(true, [answered.answers[p.row.text] for p in rows], present)
        after = f1_macro(true, [answered.answers[p.text] for p in rows], present)
    return PerturbationScore(
        rows=len(rows),
        read_alike=sum(answered.first[p.text] == answered.first[p.row.text] for p in rows),
        flips=flips,
        flip_rate=proportion(flips, len(rows)),
        f1_macro_before=before,
        f1_macro=after,
        fall=None if before is None or after is None else before - after,
    )


def overall_flip_rate(
    perturbed: Mapping[str, Sequence[PerturbedRow]], scores: Iterable[PerturbationScore]
) -> Proportion:
    """The share of all changed texts whose answer flips.

    The variants of one row flip together, so the interval is that of as many texts as there are
    rows: wider than needed, never too narrow.
    """
    counts = [(s.flips, s.rows) for s in scores]
    flips, texts = sum(k for k, _ in counts), sum(n for _, n in counts)
    if not texts:
        return proportion(0, 0)
    rows = len({p.row.id for changed in perturbed.values() for p in changed})
    rate = proportion(round(flips / texts * rows), rows)
    return rate.model_copy(update={"value": flips / texts})


def flip_examples(
    perturbed: Mapping[str, Sequence[PerturbedRow]], answered: AnsweredTexts, *, most: int
) -> list[dict[str, str]]:
    """At most `most` flipped rows of each perturbation, as rows of a table."""
    return [
        {
            "perturbation": name,
            "id": p.row.id,
            "true": label_text(label_of(p.row)),
            "before": label_text(answered.answers[p.row.text]),
            "after": label_text(answered.answers[p.text]),
            "text": p.text,
        }
        for name, rows in perturbed.items()
        for p in list(filter(answered.flips, rows))[:most]
    ]

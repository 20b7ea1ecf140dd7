"""Perturbations keep what they promise, for any text."""

from __future__ import annotations

import random
from collections import Counter
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.evaluate.robustness.perturb import PERTURBATIONS, perturb
from tasks.project import Evaluate, Perturbation
from tasks.text.tokens import fold, split_words

STORY = (
    "Tesco profits rise\n\nShares in the company jumped 3.5% to £12.50 on Monday, said chief executive Terry Leahy in New York. "
    "It doesn't expect the long-term rate of 2004 to last: Mr Leahy told the Labour Party so, and the World Bank too."
)
NAMES = sorted(PERTURBATIONS)
TEXTS = st.text(max_size=80) | st.lists(
    st.sampled_from(
        [*STORY.split(), "ﬁne", "İstanbul", "新聞", "I", "!!", "\u00a0", "naïve", "3G"]
    ),
    max_size=20,
).map(" ".join)


def test_the_project_file_knows_them_all_and_negation_is_asked_for() -> None:
    assert (
        set(get_args(Perturbation)) == set(PERTURBATIONS) == {*Evaluate().perturbations, "negation"}
    )


@pytest.mark.parametrize("name", NAMES)
@given(text=TEXTS)
@example(text=STORY)
@example(text="")
@example(text="...")
@settings(deadline=None, max_examples=60)
def test_they_hang_on_the_text_alone_and_leave_something_of_it(name: str, text: str) -> None:
    first = perturb(name, text)
    random.seed(1)
    for other in ("something else", STORY):
        perturb(name, other)
    assert perturb(name, text) == first
    assert bool(first.strip()) == bool(text.strip())


@given(text=TEXTS)
@example(text=STORY)
@settings(deadline=None, max_examples=100)
def test_what_each_one_leaves(text: str) -> None:
    assert fold(perturb("casing", text)) in {fold(text), fold(text.upper()), fold(text.lower())}
    assert perturb("whitespace", text).split() == text.split()
    assert text.startswith(perturb("truncation", text))
    assert len(split_words(perturb("truncation", text))) == (
        len(split_words(text)) // 2 or len(split_words(text))
    )
    mistyped = perturb("typos", text)
    assert len(text) // 2 <= len(mistyped) <= len(text) and [w[0] for w in mistyped.split()] == [
        w[0] for w in text.split()
    ]
    letters = Counter(c for c in text if c.isalnum())
    assert Counter(c for c in perturb("punctuation", text) if c.isalnum()) == letters
    assert perturb("negation", text).endswith(text)


def test_typos_are_a_tenth_of_the_words_that_are_long_enough() -> None:
    plain = " ".join(f"somewhat{'abcdefghij'[i % 10]}" for i in range(200))
    pairs = zip(plain.split(), perturb("typos", plain).split(), strict=True)
    assert sum(a != b for a, b in pairs) == 20
    assert perturb("typos", "it is so") == "it is so"


def test_entities_are_swapped_by_kind_and_those_with_a_label_word_stay() -> None:
    changed = perturb("entities", STORY, keep={"labour"})
    assert changed.startswith("Tesco profits rise\n\nShares in the company")
    assert "the Labour Party so" in changed and "Terry Leahy" not in changed
    assert "New York" not in changed and "World Bank" not in changed and "Monday" not in changed
    assert "3.5%" not in changed and "£12.50" not in changed and "£" in changed and "%" in changed
    assert " 20" in changed and "2004" not in changed
    assert "Labour Party" not in perturb("entities", STORY)
    twice = "It was Alan Smith who beat her, and Alan Smith knew."
    a, b = (
        perturb("entities", twice)
        .removeprefix("It was ")
        .removesuffix(" knew.")
        .split(" who beat her, and ")
    )
    assert a == b != "Alan Smith"
    assert perturb("entities", "Alan Smith won. World Cup glory.\nGreat Britain won in 3G.") == (
        "Alan Smith won. World Cup glory.\nGreat Britain won in 3G."
    ), "what begins a sentence or a line may be no name"

"""The judge: properties that must hold of every pair of models, and the plain cases."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.judge import Verdict, decide

LABELS = ["a", "b", "c"]
ANSWERS = st.sampled_from([*LABELS, "unknown"])
GAINS = st.sampled_from(["0", "0.01", "0.05", "0.1", "0.25"])


@dataclass(frozen=True)
class Pair:
    """Two models' answers to the same rows, every label among the true ones."""

    true: list[str]
    challenger: list[str]
    opponent: list[str]

    def decide(self, **options: Any) -> Verdict:
        options = {"samples": 200, "labels": LABELS, "opponent_name": "champion", **options}
        return decide(self.true, self.challenger, self.opponent, **options)

    def swapped(self) -> Pair:
        return Pair(self.true, self.opponent, self.challenger)


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    answered = draw(st.lists(st.tuples(st.sampled_from(LABELS), ANSWERS, ANSWERS), max_size=30))
    answered += [(label, draw(ANSWERS), draw(ANSWERS)) for label in LABELS]
    return Pair(*map(list, zip(*answered, strict=True)))


def exact_f1(true: list[str], predicted: list[str]) -> Fraction:
    """Macro-F1 without rounding."""
    each = [
        Fraction(
            2 * sum(t == p == label for t, p in zip(true, predicted, strict=True)),
            true.count(label) + predicted.count(label),
        )
        for label in LABELS
    ]
    return sum(each, Fraction(0)) / len(LABELS)


# gains that are exactly 0 and 0.05, and a little more in floats
NO_GAIN = Pair([*"baccbbaaccaabc"], [*"aababbaaccaabc"], [*"babbcbaaccaabc"])
GAIN_OF_005 = Pair([*"abaaabc"], [*"cbcabbc"], [*"abaabba"])
PROPERTY = settings(deadline=None, max_examples=80)


@PROPERTY
@given(pairs(), st.sampled_from([0.5, 0.8, 0.95]))
def test_two_models_are_never_each_better_than_the_other(pair: Pair, confidence: float) -> None:
    decisions = [p.decide(confidence=confidence).decision for p in (pair, pair.swapped())]
    assert decisions.count("promote") < 2


@PROPERTY
@given(pairs(), GAINS, st.sampled_from([0.5, 0.8, 0.95]))
def test_the_same_answers_never_promote(pair: Pair, min_gain: str, confidence: float) -> None:
    same = Pair(pair.true, pair.challenger, pair.challenger)
    v = same.decide(min_gain=float(min_gain), confidence=confidence)
    assert (v.decision, v.gain, v.lower, v.upper) == ("keep", 0.0, 0.0, 0.0)


@PROPERTY
@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_rows_says_nothing(pair: Pair, rng: random.Random) -> None:
    rows = list(zip(pair.true, pair.challenger, pair.opponent, strict=True))
    rng.shuffle(rows)
    assert Pair(*map(list, zip(*rows, strict=True))).decide() == pair.decide()


@PROPERTY
@given(pairs(), GAINS, GAINS, st.sampled_from([0.5, 0.8, 0.95]))
def test_asking_for_more_gain_never_promotes(pair: Pair, one: str, two: str, confidence: float) -> None:
    less, more = sorted((float(one), float(two)))
    if pair.decide(min_gain=less, confidence=confidence).decision != "promote":
        assert pair.decide(min_gain=more, confidence=confidence).decision != "promote"


@PROPERTY
@given(pairs(), GAINS)
@example(NO_GAIN, "0")
@example(GAIN_OF_005, "0.05")
def test_confidence_one_half_is_the_plain_comparison(pair: Pair, min_gain: str) -> None:
    gain = exact_f1(pair.true, pair.challenger) - exact_f1(pair.true, pair.opponent)
    v = pair.decide(confidence=0.5, min_gain=float(min_gain))
    assert v.decision == ("promote" if gain > Fraction(min_gain) else "keep")
    assert v.gain == v.lower == v.upper == pytest.approx(float(gain), abs=1e-11)


@PROPERTY
@given(pairs(), GAINS)
def test_the_bounds_and_the_decision_agree(pair: Pair, min_gain: str) -> None:
    v, least = pair.decide(min_gain=float(min_gain)), float(min_gain)
    assert v.lower is not None and v.gain is not None and v.upper is not None
    assert v.lower <= v.gain <= v.upper and v.rows == len(pair.true)
    expected = "promote" if v.lower > least else "keep" if v.upper <= least else "inconclusive"
    assert v.decision == expected and (v.more_rows is None or v.decision == "inconclusive")


@pytest.mark.parametrize(
    ("true", "challenger", "opponent", "said"),
    [
        ([], [], [], "0 test rows"),
        (LABELS, LABELS[:2], LABELS, "3 test rows, 2 and 3 answers"),
        (LABELS, LABELS, [], "3 test rows, 3 and 0 answers"),
        (["a", "b"], ["a", "b"], ["b", "b"], "no test row of 'c'"),
        ([*LABELS, "x"], [*LABELS, "x"], ["b"] * 4, "a label that is not the project's"),
    ],
)
def test_unsure_is_not_yes(true: list[str], challenger: list[str], opponent: list[str], said: str) -> None:
    v = Pair(true, challenger, opponent).decide(confidence=0.5)
    assert v.decision == "inconclusive" and said in v.reasons[0]
    assert (v.gain, v.lower, v.upper, v.rows, v.opponent) == (None, None, None, len(true), "champion")


def models(n: int, challenger: float, opponent: float) -> Pair:
    """`n` rows and two models that are right for these shares of them."""
    rng = random.Random(0)
    true = [LABELS[i % 3] for i in range(n)]
    a, b = ([t if rng.random() < right else rng.choice(LABELS) for t in true] for right in (challenger, opponent))
    return Pair(true, a, b)


def test_the_clearly_better_is_promoted_and_the_clearly_worse_is_not() -> None:
    better = models(500, 0.95, 0.75)
    assert better.decide().decision == "promote" and better.swapped().decide().decision == "keep"
    v = better.decide(min_gain=0.5)
    assert v.decision == "keep" and "promote.min_gain 0.5" in v.reasons[0]
    assert json.loads(json.dumps(v.to_json()))["gain"] == v.gain


def test_what_few_rows_can_not_tell_more_rows_can() -> None:
    few = models(60, 0.85, 0.78)
    v = few.decide(samples=2000)
    assert v.decision == "inconclusive" and v.gain is not None and v.gain > 0
    assert v.more_rows is not None and v.more_rows > 0 and f"about {v.more_rows} more test rows" in v.reasons[0]
    times = 1 + -(-v.more_rows * 5 // 4) // 60 + 1  # a quarter more than it says, of the same kind of rows
    many = Pair(few.true * times, few.challenger * times, few.opponent * times)
    assert many.decide(samples=2000).decision == "promote"


def test_no_number_of_rows_decides_at_no_difference() -> None:
    v = Pair(LABELS * 4, [*LABELS * 3, "b", "c", "a"], ["b", "c", "a", *LABELS * 3]).decide()
    assert (v.decision, v.gain, v.more_rows) == ("inconclusive", 0.0, None) and "no number of rows" in v.reasons[0]

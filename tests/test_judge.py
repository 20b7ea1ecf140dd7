"""The judge: properties that must hold of every pair of models, and the plain cases."""

from __future__ import annotations

import json
import math
import random
import sys
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.judge import Verdict, decide, spent

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
    v = pair.decide(rule="point", min_gain=float(min_gain))
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
    v = Pair(true, challenger, opponent).decide(rule="point")
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


class TestLooks:
    @given(st.floats(0.001, 0.5), st.integers(1, 5000))
    def test_all_looks_together_spend_no_more_than_there_is(self, alpha: float, looks: int) -> None:
        parts = [spent(alpha, k) for k in range(1, looks + 1)]
        assert sum(parts) <= alpha * (1 + 1e-9) and all(a > b for a, b in pairwise(parts))

    @PROPERTY
    @given(pairs(), st.integers(1, 30), st.integers(1, 30))
    def test_a_later_look_never_promotes_what_an_earlier_one_would_not(self, pair: Pair, a: int, b: int) -> None:
        first, later = (pair.decide(look=k).decision for k in sorted((a, b)))
        assert later != "promote" or first == "promote"

    def test_the_plain_rule_knows_no_looks_and_says_what_it_is(self) -> None:
        true = [*"abc"] * 20
        pair = Pair(true, true, ["a" if i == 1 else label for i, label in enumerate(true)])
        plain, bounds = pair.decide(rule="point", look=9), pair.decide(look=9)
        assert plain.decision == "promote" and "plain rule (promote.rule: point)" in plain.reasons[0]
        assert bounds.decision == "inconclusive" and "verdict 9 on this test set" in bounds.reasons[0]

    def test_a_worn_out_test_set_is_said_to_be(self) -> None:
        pair = Pair([*"abc"] * 20, [*"abc"] * 20, [*"bca"] * 20)
        assert not any("worn out" in r for r in pair.decide(look=9).reasons)
        late = pair.decide(look=10)
        assert late.decision == "promote" and "decided 10 times and is worn out" in late.reasons[-1]


class TestLabelsThatFall:
    """`c` has 20 rows. The challenger wins everywhere else."""

    TRUE = [*"ab"] * 100 + ["c"] * 20

    def pair(self, lost: int) -> Pair:
        wrong = {"a": "b", "b": "a", "c": "a"}
        opponent = [wrong[t] if i < 120 else t for i, t in enumerate(self.TRUE)]
        challenger = [wrong[t] if i >= 220 - lost else t for i, t in enumerate(self.TRUE)]
        return Pair(self.TRUE, challenger, opponent)

    @pytest.mark.parametrize(
        ("lost", "margin", "decision"),
        [(0, 0.1, "promote"), (3, 0.1, "promote"), (5, 0.1, "inconclusive"), (12, 0.1, "keep"), (12, None, "promote")],
    )
    def test_one_label_can_keep_the_rest_out(self, lost: int, margin: float | None, decision: str) -> None:
        v = self.pair(lost).decide(label_margin=margin, samples=2000)
        assert v.lower is not None and v.lower > 0, "macro-F1 alone would promote"
        assert v.decision == decision, v.reasons
        assert (decision == "promote") == (len(v.reasons) == 1)
        if decision != "promote":
            assert "F1 of 'c'" in v.reasons[1] and "promote.limits.label_f1 0.1" in v.reasons[1]

    @PROPERTY
    @given(pairs(), st.floats(0.01, 0.5), st.floats(0.01, 0.5))
    def test_a_smaller_margin_never_promotes_more(self, pair: Pair, a: float, b: float) -> None:
        strict, loose = (pair.decide(label_margin=m).decision for m in sorted((a, b)))
        assert strict != "promote" or loose == "promote"

    def test_the_gain_of_each_label_is_told(self) -> None:
        v = self.pair(5).decide()
        assert v.labels is not None and sum(v.labels.values()) / 3 == pytest.approx(v.gain)
        assert v.labels["c"] == pytest.approx(2 * 15 / (20 + 15) - 1)


@PROPERTY
@given(pairs())
def test_mcnemar_counts_the_rows_that_one_alone_has_right(pair: Pair) -> None:
    v = pair.decide()
    right = [(t == a, t == b) for t, a, b in zip(pair.true, pair.challenger, pair.opponent, strict=True)]
    assert (v.won, v.lost) == (right.count((True, False)), right.count((False, True)))
    assert v.won is not None and v.lost is not None and v.mcnemar_p is not None
    n, k = v.won + v.lost, max(v.won, v.lost)
    tail = sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n
    assert v.mcnemar_p == pytest.approx(min(1.0, 2 * tail) if n else 1.0)


def answered(rng: np.random.Generator, true: np.ndarray, accuracy: float, together: np.ndarray) -> list[str]:
    """Answers right with this chance, half of it decided by how hard the row is, which both models share."""
    own = 0.5 * together + 0.5 * rng.random(len(true))
    cut = np.quantile(0.5 * rng.random(200_000) + 0.5 * rng.random(200_000), accuracy)
    said = np.where(own < cut, true, (true + rng.integers(1, 3, len(true))) % 3)
    return [LABELS[k] for k in said]


def simulated(trials: int, *, rows: int, better: float, look: int = 1, seed: int = 0) -> float:
    """How often a challenger of accuracy 0.8 + `better` is promoted over an opponent of 0.8."""
    rng = np.random.default_rng(seed)
    promoted = 0
    for i in range(trials):
        true, hard = rng.integers(0, 3, rows), rng.random(rows)
        given_ = (answered(rng, true, 0.8 + better, hard), answered(rng, true, 0.8, hard))
        pair = Pair([LABELS[k] for k in true], *given_)
        promoted += pair.decide(samples=400, seed=i, look=look).decision == "promote"
    return promoted / trials


@pytest.mark.slow
class TestRates:
    """What the judge promises of chance, by simulation; pytest -s prints the rates."""

    def test_without_a_difference_it_promotes_no_more_often_than_said(self) -> None:
        rate = simulated(2000, rows=300, better=0.0)
        sys.stderr.write(
            f"promoted without a difference: {rate:.4f} of 2000, {spent(0.05, 1):.4f} allowed at the first look\n"
        )
        assert rate <= 0.025 + 3 * (0.025 * 0.975 / 2000) ** 0.5

    def test_five_points_are_found_in_a_thousand_rows(self) -> None:
        rate = simulated(400, rows=1000, better=0.05)
        sys.stderr.write(f"promoted with 5 points more, 1000 rows: {rate:.4f} of 400\n")
        assert rate >= 0.9

"""The judge: properties that must hold of every pair of models, and the plain cases."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.labels import encode
from tasks.project import Limits
from tasks.statistics.permutation import permutation_p_value
from tasks.verdict.decide import alpha_spent
from tasks.verdict.effect_size import rows_to_decide
from tasks.verdict.guardrails import limits_by_measure
from tasks.verdict.model import Verdict
from tests.kit.verdicts import verdict_on

LABELS = ["a", "b", "c"]
ANSWERS = st.sampled_from([*LABELS, "unknown"])
GAINS = st.sampled_from(["0", "0.01", "0.05", "0.1", "0.25"])


@dataclass(frozen=True)
class Pair:
    """Two models' answers to the same rows, every label among the true ones; maybe in groups, and some of them in a slice."""

    true: list[str]
    challenger: list[str]
    opponent: list[str]
    groups: tuple[str | None, ...] = ()
    inside: tuple[bool, ...] = ()

    def decide(self, **options: Any) -> Verdict:
        options = {"samples": 200, "labels": LABELS, **options}
        if self.groups:
            own = [i for i, held in enumerate(self.inside) if held]
            options = {"groups": self.groups, "slices": {"mine": own}, **options}
        return verdict_on(self.true, self.challenger, self.opponent, **options)

    def but(self, challenger: list[str], opponent: list[str]) -> Pair:
        return Pair(self.true, challenger, opponent, self.groups, self.inside)

    def swapped(self) -> Pair:
        return self.but(self.opponent, self.challenger)

    def shuffled(self, rng: random.Random) -> Pair:
        order = rng.sample(range(len(self.true)), len(self.true))
        return Pair(
            *([own[i] for i in order] for own in (self.true, self.challenger, self.opponent)),
            *(tuple(own[i] for i in order) for own in (self.groups, self.inside) if own),
        )


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    answered = draw(st.lists(st.tuples(st.sampled_from(LABELS), ANSWERS, ANSWERS), max_size=30))
    answered += [(label, draw(ANSWERS), draw(ANSWERS)) for label in LABELS]
    return Pair(*map(list, zip(*answered, strict=True)))


@st.composite
def grouped(draw: st.DrawFn) -> Pair:
    """Enough groups to be judged, among them rows that stand alone, and a slice that is often large enough."""
    row = st.tuples(
        st.sampled_from(LABELS),
        ANSWERS,
        ANSWERS,
        st.integers(0, 20),
        st.sampled_from([True, True, True, False]),
    )
    rows = draw(st.lists(row, min_size=33, max_size=45))
    true, a, b, own, inside = map(list, zip(*rows, strict=True))
    groups = [
        f"group {i}" if i < 12 else None if g == 20 else f"group {g}" for i, g in enumerate(own)
    ]
    return Pair([*LABELS, *true[3:]], a, b, tuple(groups), tuple(inside))


ANY = st.one_of(pairs(), grouped())


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
@given(ANY, st.sampled_from([0.5, 0.8, 0.95]))
def test_two_models_are_never_each_better_than_the_other(pair: Pair, confidence: float) -> None:
    decisions = [p.decide(confidence=confidence).decision for p in (pair, pair.swapped())]
    assert decisions.count("promote") < 2


@PROPERTY
@given(ANY, GAINS, st.sampled_from([0.5, 0.8, 0.95]))
def test_the_same_answers_never_promote(pair: Pair, min_gain: str, confidence: float) -> None:
    same = pair.but(pair.challenger, pair.challenger)
    v = same.decide(
        min_gain=float(min_gain), confidence=confidence, slice_margin=0.01, label_margin=0.01
    )
    assert (v.decision, v.gain, v.lower, v.upper) == ("keep", 0.0, 0.0, 0.0)


@PROPERTY
@given(ANY, st.randoms(use_true_random=False))
def test_the_order_of_rows_says_nothing(pair: Pair, rng: random.Random) -> None:
    limits = {"slice_margin": 0.02, "label_margin": 0.02, "confidence": 0.5}
    assert pair.shuffled(rng).decide(**limits) == pair.decide(**limits)


@PROPERTY
@given(ANY, GAINS, GAINS, st.sampled_from([0.5, 0.8, 0.95]))
def test_asking_for_more_gain_never_promotes(
    pair: Pair, one: str, two: str, confidence: float
) -> None:
    less, more = sorted((float(one), float(two)))
    how = {"confidence": confidence, "slice_margin": 0.05}
    first, second = (pair.decide(min_gain=gain, **how).decision for gain in (less, more))
    assert first == "promote" or second != "promote"


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
@given(ANY, GAINS)
def test_the_bounds_and_the_decision_agree(pair: Pair, min_gain: str) -> None:
    v, least = pair.decide(min_gain=float(min_gain)), float(min_gain)
    assert v.lower is not None and v.gain is not None and v.upper is not None
    assert v.lower <= v.gain <= v.upper and v.rows == len(pair.true)
    assert v.permutation_p is not None and v.alpha is not None and 0 < v.permutation_p <= 1
    sure = v.lower > least and v.permutation_p <= v.alpha
    expected = "promote" if sure else "keep" if v.upper <= least else "inconclusive"
    assert v.decision == expected and (v.more_rows is None or v.decision == "inconclusive")


@pytest.mark.parametrize(
    ("true", "challenger", "opponent", "said"),
    [
        ([], [], [], "0 test rows"),
        (LABELS, LABELS[:2], LABELS, "3 test rows but 2 and 3 answers"),
        (LABELS, LABELS, [], "3 test rows but 3 and 0 answers"),
        (["a", "b"], ["a", "b"], ["b", "b"], "no test row has the label 'c'"),
        ([*LABELS, "x"], [*LABELS, "x"], ["b"] * 4, "labels that the project lacks ('x')"),
    ],
)
def test_unsure_is_not_yes(
    true: list[str], challenger: list[str], opponent: list[str], said: str
) -> None:
    v = Pair(true, challenger, opponent).decide(rule="point")
    assert v.decision == "inconclusive" and said in v.reasons[0]
    assert (v.gain, v.lower, v.upper, v.rows, v.opponent) == (
        None,
        None,
        None,
        len(true),
        "champion",
    )


def models(n: int, challenger: float, opponent: float) -> Pair:
    """`n` rows and two models that are right for these shares of them."""
    rng = random.Random(0)
    true = [LABELS[i % 3] for i in range(n)]
    a, b = (
        [t if rng.random() < right else rng.choice(LABELS) for t in true]
        for right in (challenger, opponent)
    )
    return Pair(true, a, b)


def test_the_clearly_better_is_promoted_and_the_clearly_worse_is_not() -> None:
    better = models(500, 0.95, 0.75)
    assert better.decide().decision == "promote" and better.swapped().decide().decision == "keep"
    v = better.decide(min_gain=0.5)
    assert v.decision == "keep" and "promote.min_gain 0.5" in v.reasons[0]
    assert (
        v.model_dump(mode="json")["gain"] == v.gain
        and Verdict.model_validate_json(v.model_dump_json()) == v
    )


def test_what_few_rows_can_not_tell_more_rows_can() -> None:
    few = models(60, 0.85, 0.78)
    v = few.decide(samples=2000)
    assert v.decision == "inconclusive" and v.gain is not None and v.gain > 0
    assert (
        v.more_rows is not None
        and v.more_rows > 0
        and f"about {v.more_rows} more test rows" in v.reasons[0]
    )
    times = (
        1 + -(-v.more_rows * 5 // 4) // 60 + 1
    )  # a quarter more than it says, of the same kind of rows
    many = Pair(few.true * times, few.challenger * times, few.opponent * times)
    assert many.decide(samples=2000).decision == "promote"


def test_no_number_of_rows_decides_at_no_difference() -> None:
    v = Pair(LABELS * 4, [*LABELS * 3, "b", "c", "a"], ["b", "c", "a", *LABELS * 3]).decide()
    assert (v.decision, v.gain, v.more_rows) == (
        "inconclusive",
        0.0,
        None,
    ) and "no feasible number of test rows" in v.reasons[0]


def test_nobody_is_asked_for_a_billion_rows() -> None:
    assert (
        rows_to_decide(500, 1e-6, 0.01, 0.975) is None
        and rows_to_decide(500, 0.0, 0.01, 0.975) is None
    )
    assert (
        rows_to_decide(500, 0.01, 0.01, 0.975)
        == math.ceil(500 * 1.959964**2) - 500
        == rows_to_decide(500, -0.01, 0.01, 0.975)
    )


class TestUsesOfTheTestSet:
    @given(st.floats(0.001, 0.5), st.integers(1, 5000))
    def test_all_uses_together_spend_no_more_than_there_is(self, alpha: float, uses: int) -> None:
        parts = [alpha_spent(alpha, k) for k in range(1, uses + 1)]
        assert sum(parts) <= alpha * (1 + 1e-9) and all(a > b for a, b in pairwise(parts))

    @PROPERTY
    @given(ANY, st.integers(1, 30), st.integers(1, 30))
    def test_a_later_use_never_promotes_what_an_earlier_one_would_not(
        self, pair: Pair, a: int, b: int
    ) -> None:
        first, later = (pair.decide(use=k).decision for k in sorted((a, b)))
        assert later != "promote" or first == "promote"

    def test_the_plain_rule_knows_no_uses_and_says_what_it_is(self) -> None:
        true = [*"abc"] * 20
        pair = Pair(true, true, ["a" if i == 1 else label for i, label in enumerate(true)])
        plain, bounds = pair.decide(rule="point", use=9), pair.decide(use=9)
        assert (
            plain.decision == "promote"
            and "without bounds or a test (promote.rule: point)" in plain.reasons[0]
        )
        assert (
            bounds.decision == "inconclusive" and "verdict 9 on this test set" in bounds.reasons[0]
        )

    def test_a_worn_out_test_set_is_said_to_be(self) -> None:
        pair = Pair([*"abc"] * 20, [*"abc"] * 20, [*"bca"] * 20)
        assert not any("has been used" in r for r in pair.decide(use=9).reasons)
        late = pair.decide(use=10)
        assert (
            late.decision == "promote"
            and "used for 10 verdicts: provide fresh test rows" in late.reasons[-1]
        )


class TestChance:
    """What the bootstrap's bounds alone would promote: with few rows that differ, or few of a label, they are too narrow."""

    @pytest.mark.parametrize("use", [1, 20, 351])
    @pytest.mark.parametrize("won", [1, 2, 3, 5])
    def test_a_few_rows_better_and_none_worse_is_not_enough(self, won: int, use: int) -> None:
        wrong = {"a": "b", "b": "c", "c": "a"}
        true = [*"abc"] * 160
        challenger = [
            wrong[t] if i < 15 else t for i, t in enumerate(true)
        ]  # errors that both share
        opponent = [wrong[t] if i < 15 + won else t for i, t in enumerate(true)]
        v = Pair(true, challenger, opponent).decide(use=use, samples=2000)
        assert (v.decision, v.won, v.lost) == ("inconclusive", won, 0)
        assert v.permutation_p is not None and v.permutation_p > 0.025

    def test_above_the_bounds_and_within_chance_says_so(self) -> None:
        """Three rows a label, all of one gained: the bounds know no other outcome, the swaps do."""
        v = Pair([*"abc"], [*"abc"], [*"aaa"]).decide()
        assert v.lower is not None and v.lower > 0 and v.decision == "inconclusive"
        assert "but the permutation test is not significant at the 2.50% level" in v.reasons[0]

    @settings(deadline=None, max_examples=30)
    @given(pairs(), st.sampled_from([False, True]))
    def test_the_permutation_test_is_the_share_of_all_swaps(
        self, pair: Pair, in_groups: bool
    ) -> None:
        n = min(9, len(pair.true))
        true, a, b = pair.true[-n:], pair.challenger[-n:], pair.opponent[-n:]
        of = [i // 2 for i in range(n)] if in_groups else list(range(n))
        seen, reached = exact_f1(true, a) - exact_f1(true, b), 0
        swaps = list(product([False, True], repeat=max(of) + 1))
        for swap in swaps:
            mine, theirs = (
                [y if swap[g] == side else x for x, y, g in zip(a, b, of, strict=True)]
                for side in (True, False)
            )
            reached += exact_f1(true, mine) - exact_f1(true, theirs) >= seen
        y, x, z = (encode(answers, LABELS) for answers in (true, a, b))
        groups = np.array(of) if in_groups else None
        p = permutation_p_value(y, x, z, classes=3, alpha=0.01, seed=0, groups=groups)
        share = reached / len(swaps)
        assert p == pytest.approx(
            share, abs=5 * share * ((1 - share) / min(250, 10_000 * share)) ** 0.5
        )

    def test_of_label_sets_whole_sets_are_swapped(self) -> None:
        y = np.array([[1, 0], [0, 1], [1, 1], [0, 0]] * 10)
        how: dict[str, Any] = {"classes": 2, "alpha": 0.025, "seed": 0}
        assert (
            permutation_p_value(y, y, 1 - y, **how) < 0.001
            and permutation_p_value(y, y, y, **how) == 1.0
        )
        assert permutation_p_value(y, 1 - y, y, **how) == pytest.approx(1.0, abs=1e-3)

    def test_a_bound_beyond_the_resamples_is_drawn_out(self) -> None:
        pair = models(500, 0.85, 0.80)
        lower = [pair.decide(use=k, samples=500).lower for k in (1, 4, 16, 64, 256)]
        assert all(a is not None and b is not None and a > b for a, b in pairwise(lower))


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
        [
            (0, 0.1, "promote"),
            (3, 0.1, "promote"),
            (5, 0.1, "inconclusive"),
            (12, 0.1, "keep"),
            (12, None, "promote"),
        ],
    )
    def test_one_label_can_keep_the_rest_out(
        self, lost: int, margin: float | None, decision: str
    ) -> None:
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


class TestSlicesThatFall:
    """The challenger wins by far everywhere else; of 60 rows of the slice it loses some that the opponent has."""

    TRUE = [*"abc"] * 100

    def decide(self, lost: int, *, rows: int = 60, **options: Any) -> Verdict:
        wrong = {"a": "b", "b": "c", "c": "a"}
        opponent = [wrong[t] if i < 120 else t for i, t in enumerate(self.TRUE)]
        challenger = [wrong[t] if i >= 300 - lost else t for i, t in enumerate(self.TRUE)]
        slices = {"mine": range(300 - rows, 300), "fine": range(150)}
        how = {"labels": LABELS, "samples": 1000, "slices": slices, "slice_margin": 0.1}
        return verdict_on(self.TRUE, challenger, opponent, **how | options)

    @pytest.mark.parametrize(
        ("lost", "margin", "decision"),
        [
            (0, 0.1, "promote"),
            (5, 0.1, "promote"),
            (9, 0.1, "inconclusive"),
            (30, 0.1, "keep"),
            (30, None, "promote"),
        ],
    )
    def test_a_slice_can_keep_the_rest_out(
        self, lost: int, margin: float | None, decision: str
    ) -> None:
        v = self.decide(lost, slice_margin=margin)
        assert v.lower is not None and v.lower > 0, "macro-F1 alone would promote"
        assert v.decision == decision, v.reasons
        assert v.slices is not None and set(v.slices) == {"mine", "fine"} and v.slices["fine"] > 0.5
        if decision != "promote":
            assert (
                "macro-F1 of the slice 'mine'" in v.reasons[1]
                and "promote.limits.slice_f1 0.1" in v.reasons[1]
            )

    def test_a_slice_of_few_rows_is_not_judged(self) -> None:
        v = self.decide(29, rows=29)
        assert v.decision == "promote" and v.slices is not None and set(v.slices) == {"fine"}

    def test_labels_and_slices_share_the_chance_of_error(self) -> None:
        """Holm's correction: what one slice alone would keep out is no longer sure among many figures."""
        alone = self.decide(13, slices={"mine": range(240, 300)})
        many = {f"other {i}": range(120 + i, 160 + i) for i in range(60)}
        among = self.decide(13, slices={"mine": range(240, 300), **many}, label_margin=0.3)
        assert (alone.decision, among.decision) == ("keep", "inconclusive"), (
            alone.reasons,
            among.reasons,
        )

    def test_a_slice_with_some_of_the_labels(self) -> None:
        v = self.decide(0, slices={"only a": range(0, 120, 3)})
        assert v.slices == {"only a": 1.0}


class TestMeasures:
    PAIR = ("better", 0.95, 0.75)

    def decide(self, measures: Any, limits: Any, **options: Any) -> Verdict:
        return models(500, *self.PAIR[1:]).decide(measures=measures, limits=limits, **options)

    @pytest.mark.parametrize(
        ("name", "pair", "limit", "decision"),
        [
            ("ece", (0.06, 0.02), 0.05, "promote"),
            ("ece", (0.08, 0.02), 0.05, "keep"),
            ("ece", (0.01, 0.2), 0.0, "promote"),
            ("latency_p95_ms", (12.0, 10.0), 1.2, "promote"),
            ("latency_p95_ms", (13.0, 10.0), 1.2, "keep"),
            ("latency_p95_ms", (13.0, 0.0), 1.2, "inconclusive"),
            ("bundle_mb", (30.0, 10.0), 2.0, "keep"),
            ("flip_rate", (0.2, 0.1), 0.05, "keep"),
            ("flip_rate", (math.nan, 0.1), 0.05, "inconclusive"),
            ("flip_rate", (0.1, None), 0.05, "inconclusive"),
            ("flip_rate", (0.1, math.inf), 0.05, "inconclusive"),
        ],
    )
    @pytest.mark.parametrize("rule", ["bounds", "point"])
    def test_limits(self, name: str, pair: Any, limit: float, decision: str, rule: str) -> None:
        v = self.decide({name: pair}, {name: limit}, rule=rule)
        assert v.decision == decision, v.reasons
        if decision != "promote":
            assert str(limit) in v.reasons[1] and "promote.limits." in v.reasons[1]

    def test_a_limit_without_a_measure_is_unsure(self) -> None:
        for measures in ({}, {"ece": (0.1, 0.1)}):
            v = self.decide(measures, {"flip_rate": 0.1})
            assert (
                v.decision == "inconclusive"
                and "is unknown (challenger none, champion none)" in v.reasons[1]
            )

    def test_no_limit_looks_at_nothing(self) -> None:
        v = self.decide({"ece": (0.9, 0.0)}, {})
        assert v.decision == "promote" and v.measures == {"ece": (0.9, 0.0)}

    def test_a_broken_limit_keeps_what_was_inconclusive_and_a_missing_one_changes_no_keep(
        self,
    ) -> None:
        unsure = models(60, 0.85, 0.78)
        assert unsure.decide(measures={"ece": (0.3, 0.1)}, limits={"ece": 0.05}).decision == "keep"
        better = models(500, 0.95, 0.75)
        assert better.swapped().decide(limits={"ece": 0.05}).decision == "keep"

    def test_there_are_no_other_measures(self) -> None:
        with pytest.raises(
            ValueError, match="'speed' is no measure with a limit: use one of ece, "
        ):
            self.decide({}, {"speed": 1.0})

    def test_what_the_project_limits(self) -> None:
        assert limits_by_measure(Limits()) == {"ece": 0.05}
        every = limits_by_measure(Limits(ece=None, latency=1.5, size=2.0, robustness=0.1))
        assert every == {"latency_p95_ms": 1.5, "bundle_mb": 2.0, "flip_rate": 0.1}


@PROPERTY
@given(pairs())
def test_mcnemar_counts_the_rows_that_one_alone_has_right(pair: Pair) -> None:
    v = pair.decide()
    right = [
        (t == a, t == b) for t, a, b in zip(pair.true, pair.challenger, pair.opponent, strict=True)
    ]
    assert (v.won, v.lost) == (right.count((True, False)), right.count((False, True)))
    assert v.won is not None and v.lost is not None and v.mcnemar_p is not None
    n, k = v.won + v.lost, max(v.won, v.lost)
    tail = sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n
    assert v.mcnemar_p == pytest.approx(min(1.0, 2 * tail) if n else 1.0)

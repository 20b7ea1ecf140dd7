"""How many rows are asked for."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tasks.synthesise.quota import (
    give_up_reason,
    missing_rows,
    request_budget,
    rows_to_request,
    split_quota,
)
from tests.kit import toy
from tests.kit.generation import project

LACKING = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 500), max_size=6)
TRIED = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 300), max_size=6)


class TestHowMany:
    def test_missing_leaves_out_what_has_its_quota(self) -> None:
        quota = dict.fromkeys(toy.LABELS, 12)
        assert missing_rows(quota, {"metal": 12, "fruit": 3, "bird": 40}) == {"fruit": 9}
        assert missing_rows(quota, {}) == quota
        assert missing_rows(dict.fromkeys(toy.LABELS, 0), {}) == {}

    @given(lacking=LACKING, tried=TRIED, accepted=TRIED, budget=st.integers(-20, 4000))
    def test_never_past_the_budget_nor_for_what_lacks_nothing(
        self, lacking: dict[str, int], tried: dict[str, int], accepted: dict[str, int], budget: int
    ) -> None:
        n = rows_to_request(lacking, tried=tried, accepted=accepted, budget=budget)
        assert sum(n.values()) <= max(budget, 0)
        assert set(n) <= set(lacking) and all(v > 0 for v in n.values())
        unbounded = rows_to_request(lacking, tried=tried, accepted=accepted, budget=10**9)
        assert set(unbounded) == set(lacking), "with room, every lacking label is asked for"
        assert all(v <= 20 * lacking[k] + 1 for k, v in unbounded.items())
        total = sum(unbounded.values())
        if total > budget > 0:
            assert sum(n.values()) == budget, "a budget too small is spent whole"
            for label, wanted in unbounded.items():
                assert abs(n.get(label, 0) - wanted * budget / total) < 1
        elif budget >= total:
            assert n == unbounded

    def test_measured_acceptance_replaces_the_guess(self) -> None:
        few = rows_to_request({"a": 19}, tried={"a": 9}, accepted={"a": 3}, budget=1000)
        assert few == {"a": 20}, "nine tries tell too little"
        assert rows_to_request({"a": 19}, tried={"a": 10}, accepted={"a": 5}, budget=1000) == {
            "a": 38
        }
        assert rows_to_request({"a": 10}, tried={"a": 50}, accepted={}, budget=1000) == {
            "a": 150
        }, "up to 200 tries"
        assert rows_to_request({"a": 10}, tried={"a": 100}, accepted={"a": 10}, budget=1000) == {
            "a": 100
        }

    def test_a_label_is_given_up_after_200_rows_with_under_5_percent(self) -> None:
        assert give_up_reason("a", tried={"a": 199}, accepted={}) is None
        assert give_up_reason("a", tried={"a": 200}, accepted={"a": 10}) is None
        assert "accepted 9 of 200" in str(give_up_reason("a", tried={"a": 200}, accepted={"a": 9}))

    @given(TRIED, st.integers(0, 5))
    def test_portions_grow_to_the_whole(self, quota: dict[str, int], rounds: int) -> None:
        parts = split_quota(quota, rounds)
        assert len(parts) == rounds + 1 and parts[-1] == quota
        assert all(a[k] <= b[k] for a, b in itertools.pairwise(parts) for k in quota)

    def test_a_quota_by_label_and_a_balanced_one(self) -> None:
        names = list(toy.LABELS)
        assert project(per_label={"metal": 5}).generate.quota(names, {}) == {
            "metal": 5,
            "fruit": 0,
            "bird": 0,
        }
        balanced = project(per_label=10, balance=True).generate
        assert balanced.quota(names, {"metal": 4, "fruit": 30}) == {
            "metal": 26,
            "fruit": 0,
            "bird": 30,
        }
        assert balanced.quota(names, {"metal": 4}) == {"metal": 6, "fruit": 10, "bird": 10}

    def test_the_budget_of_a_retrain(self) -> None:
        quota = dict.fromkeys(toy.LABELS, 12)
        assert request_budget(project().generate, quota) == 360
        assert request_budget(project(format="json", rows_per_reply=5).generate, quota) == 72
        assert request_budget(project(budget={"requests": 7}).generate, quota) == 7

"""The requests of a round."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.llm.request import Request
from tasks.synthesise.plan import Focus, plan_requests, split_subtopics
from tests.kit import toy
from tests.kit.generation import SEEDS, planned, project, round_request


class TestSubtopics:
    @pytest.mark.parametrize(
        ("description", "parts"),
        [
            ("one; two; three", ["one", "two", "three"]),
            ("one, two, three", ["one", "two", "three"]),
            ("ships, boats; trains", ["ships, boats", "trains"]),
            (" one ;; two. ", ["one", "two"]),
            ("one thing", ["one thing"]),
            (";", [";"]),
        ],
    )
    def test_parts(self, description: str, parts: list[str]) -> None:
        assert split_subtopics(description) == parts


def keys(requests: list[Request]) -> set[str]:
    return {r.key("e", "m") for r in requests}


class TestPlan:
    def test_the_same_arguments_give_the_same_requests(self) -> None:
        assert planned(project(examples=2)) == planned(project(examples=2))
        assert len(keys(planned(project()))) == 18

    def test_another_round_generation_or_seed_asks_for_other_texts(self) -> None:
        first = keys(planned(project()))
        for other in (
            planned(project(), round_number=2),
            planned(project(), generation=1),
            planned(project(seed=1)),
        ):
            assert not first & keys(other)

    def test_asking_for_more_keeps_what_was_planned(self) -> None:
        """So that what was bought for a smaller quota is found again."""
        assert keys(planned(project())) < keys(planned(project(), dict.fromkeys(toy.LABELS, 9)))

    def test_every_subtopic_is_used_evenly_and_only_with_its_label(self) -> None:
        requests = planned(
            project(prompt="Write {topic}; about {label}: {description}, in {style}.")
        )
        assert Counter(r.tag["label"] for r in requests) == dict.fromkeys(toy.LABELS, 6)
        for label, line in toy.LABELS.items():
            own = [r for r in requests if r.tag["label"] == label]
            assert Counter(r.tag["topic"] for r in own) == dict.fromkeys(split_subtopics(line), 3)
            for r in own:
                prompt = r.messages[-1][1]
                assert (
                    prompt == f"Write {r.tag['topic']}; about {label}: {line}, in {r.tag['style']}."
                )

    def test_labels_are_interleaved(self) -> None:
        """A round that is cut off has some of each label."""
        assert {
            r.tag["label"] for r in planned(project(), dict.fromkeys(toy.LABELS, 30))[:15]
        } == set(toy.LABELS)

    def test_seed_rows_are_shown_of_the_own_label_only(self) -> None:
        texts = {r.id: r for r in SEEDS}
        requests = planned(project(examples=2))
        assert len({tuple(r.tag["seeds"]) for r in requests}) > 6, "they rotate"
        for r in requests:
            prompt = r.messages[-1][1]
            shown = [texts[i] for i in r.tag["seeds"]]
            assert len({s.id for s in shown}) == 2 and {s.label for s in shown} == {r.tag["label"]}
            assert [s.text for s in SEEDS if s.text in prompt] == [
                s.text for s in SEEDS if s in shown
            ]

    def test_no_seed_row_is_shown_where_none_is_wanted_or_there_is_none(self) -> None:
        assert all(
            "seed" not in r.messages[-1][1] and r.tag["seeds"] == [] for r in planned(project())
        )
        bare = plan_requests(project(examples=2), round_request({"metal": 2}), seeds=SEEDS[5:])
        assert all("Examples" not in r.messages[-1][1] for r in bare)

    def test_sampling_is_the_projects(self) -> None:
        (request,) = planned(project(temperature=0.3, top_p=0.4, max_tokens=17), {"metal": 1})
        assert (request.temperature, request.top_p, request.max_tokens) == (0.3, 0.4, 17)


class TestDiversity:
    def test_attributes_are_drawn_by_label(self) -> None:
        chosen = {"length": ["short", "long"], "point_of_view": {"metal": ["a smith"]}}
        requests = planned(project(attributes=chosen), dict.fromkeys(toy.LABELS, 20))
        for r in requests:
            assert f"Length: {r.tag['length']}." in r.messages[-1][1] and r.tag["length"] in {
                "short",
                "long",
            }
            assert ("Point of view: a smith." in r.messages[-1][1]) == (r.tag["label"] == "metal")
        assert {r.tag["length"] for r in requests} == {"short", "long"}

    def test_borderline_requests_name_another_label_topic(self) -> None:
        requests = planned(project(borderline=0.5), dict.fromkeys(toy.LABELS, 40))
        near = [r for r in requests if "near" in r.tag]
        assert 0.3 < len(near) / len(requests) < 0.7
        for r in near:
            assert r.tag["near"] != r.tag["label"]
            assert any(
                f"touches on {t}" in r.messages[-1][1]
                for t in split_subtopics(toy.LABELS[r.tag["near"]])
            )
        assert not any("near" in r.tag for r in planned(project()))

    def test_focus_asks_for_missed_topics_and_confused_labels(self) -> None:
        focus = Focus(topics={"metal": ["topic two"]}, near={"metal": ["fruit"]})
        requests = plan_requests(
            project(),
            round_request({"metal": 40, "bird": 8}, round_number=2, focus=focus),
            seeds=[],
        )
        metal = [r for r in requests if r.tag["label"] == "metal"]
        assert {r.tag["topic"] for r in metal} == {"topic two"}
        near = [r.tag.get("near") for r in metal]
        assert set(near) == {None, "fruit"} and 8 < near.count("fruit") < 32
        assert {r.tag["topic"] for r in requests if r.tag["label"] == "bird"} == {
            "topic five",
            "topic six",
        }

    def test_proposed_topics_join_the_descriptions(self) -> None:
        more = {"metal": ["topic nine"]}
        requests = plan_requests(project(), round_request({"metal": 9}, more_topics=more), seeds=[])
        assert Counter(r.tag["topic"] for r in requests) == {
            "topic one": 3,
            "topic two": 3,
            "topic nine": 3,
        }

    @given(shares=st.lists(st.integers(1, 9), min_size=2, max_size=4), n=st.integers(40, 200))
    @settings(max_examples=30, deadline=None)
    def test_generators_have_their_shares_of_every_label(self, shares: list[int], n: int) -> None:
        generators = [
            {"name": f"g{i}", "share": float(s), "model": f"m{i}"} for i, s in enumerate(shares)
        ]
        requests = planned(project(generators=generators), {"metal": n, "bird": n})
        for label in ("metal", "bird"):
            have = Counter(r.tag["generator"] for r in requests if r.tag["label"] == label)
            for i, s in enumerate(shares):
                assert abs(have[f"g{i}"] - n * s / sum(shares)) < 4

    def test_one_changed_description_changes_only_its_label(self) -> None:
        """So that editing it asks only for its own rows again."""
        before = planned(project())
        labels = toy.LABELS | {"metal": "other things"}
        p = project().model_copy(update={"labels": labels})
        after = planned(p)
        for label in ("fruit", "bird"):
            own = [keys([r for r in rs if r.tag["label"] == label]) for rs in (before, after)]
            assert own[0] == own[1]

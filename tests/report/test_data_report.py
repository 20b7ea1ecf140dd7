"""The data report: its sums add up, its figures have known values, and no text in it is markup."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.publishing.data_report import publish_data_report
from flows.settings import Settings
from flows.tracking.run import Tracking
from flows.tracking.store import connect
from tasks import atomic
from tasks.curate.stage import CurateResult
from tasks.dataset import sealed as sealed_set
from tasks.project import Project
from tasks.records import Record, Rejected, read_records
from tasks.report.data.cost import acceptance_by_attribute, cost_figures, drawn_attributes
from tasks.report.data.distance import distinguishing_words, matched_rows, two_sample_test
from tasks.report.data.diversity import distinct_n, diversity_figures, spread, word_tokens
from tasks.report.data.figures import TypicalWords
from tasks.report.data.funnel import funnel_steps, rejected_by_check, rows_by_source
from tasks.report.data.page import render_data_report
from tasks.report.data.rows import RetrainRows, gather_rows
from tasks.report.data.stage import data_figures, data_report
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.context import context_of
from tests.kit.html import Tags
from tests.kit.rows import project, record, text
from tests.kit.stages import Data, filled, generated

EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><script>x</script>",
    "{{ 7 * 7 }} {% for x in y %} {{ f }}",
    "' onmouseover='x' javascript:alert(1) <svg/onload=x>",
]


def gathered(**rows: Any) -> RetrainRows:
    empty: dict[str, Any] = {
        "rounds": [],
        "written": [],
        "unusable": [],
        "kept": [],
        "rejected": [],
        "dev": [],
        "seed": [],
        "unlabelled": [],
        "curated": filled(CurateResult),
    }
    given = empty | rows
    return RetrainRows(**{"trained_on": given["kept"]} | given)


def directions(texts: list[str]) -> np.ndarray:
    """An embedding of length 1 that depends on the text alone."""
    found = np.array(
        [np.random.default_rng(list(t.encode())).normal(size=8) for t in texts], dtype=np.float32
    )
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def shown(g: RetrainRows, of: Project, hidden: set[str] | None = None) -> str:
    found = data_figures(
        g,
        project=of,
        read={"curated": "0" * 64},
        hidden=lambda row, _: row in (hidden or set()),
        embed=directions,
    )
    return render_data_report(found)


# the funnel

FATES = st.lists(
    st.tuples(
        st.sampled_from(["fruit", "metal"]),
        st.sampled_from(
            ["unusable", "length", "near", "off_label", "surplus", "kept", "relabelled", "rescued"]
        ),
    ),
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(fates=FATES)
def test_the_funnel_adds_up(fates: list[tuple[str, str]]) -> None:
    written, unusable, kept, out = [], [], [], []
    for i, (label, fate) in enumerate(fates):
        r = generated(text(label, i), label, request=i)
        if fate == "unusable":
            unusable.append(Rejected(r, "fragment", "short"))
            continue
        written.append(r)
        if fate == "relabelled":
            kept.append(replace(r, label="metal", source="reviewed"))
        elif fate == "rescued":
            kept.append(replace(r, source="reviewed"))
        elif fate == "kept":
            kept.append(r)
        else:
            out.append(Rejected(r, fate, "why"))
    seed = [record(text("seed", 0), "fruit", "seed")]
    g = gathered(written=written, unusable=unusable, kept=[*seed, *kept], rejected=out)
    steps = funnel_steps(g, ["fruit", "metal"])
    assert [s.step for s in steps[:3]] == ["asked", "replies", "texts"] and (
        steps[-1].step == "accepted"
    )
    assert steps[2].total == steps[1].total == len(fates)
    for before, step in pairwise(steps[2:]):
        assert step.total == sum(step.rows.values()) == before.total - (step.lost or 0)
        assert all(step.rows[label] >= 0 for label in ("fruit", "metal"))
    for label in ("fruit", "metal"):
        assert steps[-1].rows[label] == sum(r.label == label for r in kept)
        assert rows_by_source(g, ["fruit", "metal"])[label].total == sum(
            r.label == label for r in [*seed, *kept]
        )
    lost = {s.step: s.lost for s in steps if s.kind == "check" and s.step != "person"}
    table = rejected_by_check(g, ["fruit", "metal"])
    assert lost == {row.check: row.total for row in table}
    assert all(sum(row.rows.values()) == row.total for row in table)


def test_the_checks_stand_in_the_order_in_which_they_ran_and_seed_rows_are_in_no_step(
    tmp_path: Path,
) -> None:
    rows = [generated(text("fruit", i), request=i) for i in range(5)]
    unusable = [Rejected(generated("cut", request=9), "fragment", "1 word")]
    out = [
        Rejected(rows[0], "too_short", "x"),
        Rejected(record("real", "fruit", "seed"), "exact_duplicate", "x"),
    ]
    out += [Rejected(rows[1], "near_duplicate", "x"), Rejected(rows[2], "surplus", "x")]
    data = Data(tmp_path, written=rows, kept=rows[3:], rejected=out, unusable=unusable)
    g = gather_rows(data.stages)
    assert [(s.step, s.total) for s in funnel_steps(g, ["fruit"])] == [
        ("asked", 6),
        ("replies", 6),
        ("texts", 6),
        ("fragment", 5),
        ("too_short", 4),
        ("near_duplicate", 3),
        ("surplus", 2),
        ("accepted", 2),
    ]


def test_what_a_person_set_aside_comes_after_the_checks_that_ran_before(tmp_path: Path) -> None:
    rows = [generated(text("fruit", i), request=i) for i in range(4)]
    names = ("reviewed_out", "off_label", "too_short", "surplus")
    out = [Rejected(r, name, "x") for r, name in zip(rows, names, strict=True)]
    g = gather_rows(
        Data(tmp_path, written=rows, kept=[], rejected=out, checks=["length", "agreement"]).stages
    )
    steps = [s.step for s in funnel_steps(g, ["fruit"])]
    assert steps[3:] == ["too_short", "off_label", "reviewed_out", "surplus", "accepted"]


def test_several_rows_of_one_reply_are_one_reply() -> None:
    g = gathered(written=[generated(text("fruit", i), request=i // 3, row=i % 3) for i in range(6)])
    assert [(s.step, s.total) for s in funnel_steps(g, ["fruit"])][1:3] == [
        ("replies", 2),
        ("texts", 6),
    ]


# diversity


def test_distinct_n_is_known() -> None:
    a, b = list("abab"), list("abcd")
    assert distinct_n([a], 1, budget=4) == 0.5 and distinct_n([b], 1, budget=4) == 1.0
    assert distinct_n([a], 2, budget=4) == pytest.approx(2 / 3)
    assert distinct_n([a, b], 2, budget=8) == pytest.approx(
        4 / 6
    )  # ab ba ab | ab bc cd, none across the texts
    assert distinct_n([a, b], 1, budget=4) == 0.5  # only the first four words are read
    assert distinct_n([a], 1, budget=5) is None


def test_tokens_are_words_without_punctuation_and_characters_where_there_is_no_space() -> None:
    assert word_tokens('Don’t "stop", he said: 3-1.') == ["don’t", "stop", "he", "said", "3", "1"]
    assert word_tokens("東京 Tokyo") == ["東", "京", "tokyo"]


def test_spread_is_known_and_does_not_depend_on_the_number_of_rows() -> None:
    same = np.ones((4, 2)) / np.sqrt(2)
    assert spread(same) == pytest.approx(0) and spread(same[:1]) is None
    assert spread(np.eye(4)) == pytest.approx(1)
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(4000, 16)) + 0.5
    cloud /= np.linalg.norm(cloud, axis=1, keepdims=True)
    whole = spread(cloud)
    few = np.mean([spread(cloud[i : i + 8]) for i in range(0, 4000, 8)])
    assert whole == pytest.approx(few, abs=0.02)
    to_own_centroid = 1 - float(np.mean(cloud @ (c := cloud.mean(axis=0)) / np.linalg.norm(c)))
    assert whole == pytest.approx(to_own_centroid, abs=0.005)


def test_groups_are_read_over_the_same_number_of_words_and_real_rows_stand_beside() -> None:
    made_ = [generated(text("fruit", i, 30), request=i, round=i // 20) for i in range(40)]
    real = [record(" ".join(["same"] * 150), "fruit", "dev")]
    table = diversity_figures(gathered(kept=made_, dev=real), ["fruit", "metal"], {})
    assert table.label.tokens == 150
    rows = {(r.group, r.source): r for r in table.label.rows}
    assert set(rows) == {("fruit", "synthetic"), ("fruit", "real")}
    assert rows["fruit", "synthetic"].distinct_1 == 1 and rows["fruit", "real"].distinct_1 == round(
        1 / 150, 4
    )
    assert rows["fruit", "real"].words == [150, 150, 150] and rows["fruit", "real"].spread is None
    assert [r.group for r in table.round.rows] == ["round 1", "round 2", "all real rows"]


# real against synthetic


def test_two_samples_of_one_distribution_are_not_told_apart() -> None:
    results = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        results.append(two_sample_test(rng.normal(size=(80, 6)), rng.normal(size=(80, 6))))
    assert 0.45 < np.mean([r.auc for r in results if r]) < 0.55
    assert sum(r.p < 0.05 for r in results if r) <= 4  # one in twenty is expected


def test_two_samples_of_different_distributions_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    found = two_sample_test(rng.normal(size=(80, 6)) + 1, rng.normal(size=(80, 6)))
    assert found and found.auc > 0.9 and found.accuracy > 0.8 and found.p < 1e-6
    assert found.rows == (80, 80) and found.held_out == 80
    assert two_sample_test(rng.normal(size=(9, 6)), rng.normal(size=(9, 6))) is None
    apart = two_sample_test(
        *(rng.normal(size=(400, 2)).astype(np.float32) + shift for shift in (0, 9))
    )
    assert apart and 0 < apart.p < 1e-60


def test_pairs_are_balanced_and_matched_by_label_where_it_is_known() -> None:
    made_ = [record(text(k, i), k) for k in ("fruit", "metal") for i in range(20)]
    dev = [
        record(text(k, i, 9), k, "dev") for k, n in (("fruit", 5), ("metal", 30)) for i in range(n)
    ]
    a, b = matched_rows(made_, dev, [])
    assert [sum(r.label == k for r in side) for side in (a, b) for k in ("fruit", "metal")] == [
        5,
        20,
        5,
        20,
    ]
    a, b = matched_rows(made_, dev, [record(text("u", i), None, "unlabelled") for i in range(100)])
    assert (
        len(a) == len(b) == 40 == len({r.id for r in a}) and sum(r.label is None for r in b) == 15
    )
    assert matched_rows(list(reversed(made_)), dev, []) == matched_rows(made_, dev, [])
    assert matched_rows([], dev, []) == ([], [])


def test_telling_words_tell() -> None:
    rng = random.Random(3)
    common = ["and", "the", "of", "it"]
    written = [
        record(" ".join(rng.choices([*common, "tapestry"], k=12)) + f" w{i}") for i in range(40)
    ]
    real = [
        record(" ".join(rng.choices([*common, "yesterday"], k=12)) + f" r{i}", "fruit", "dev")
        for i in range(40)
    ]
    found = distinguishing_words(written, real)
    assert found.synthetic[0].word == "tapestry" and found.real[0].word == "yesterday"
    assert found.synthetic[0].real == 0 and found.synthetic[0].synthetic > 0.5
    assert not {w.word for w in found.synthetic} & {w.word for w in found.real}
    assert distinguishing_words(
        [record(f"only{i}") for i in range(12)], [record(f"once{i}") for i in range(12)]
    ) == TypicalWords(synthetic=[], real=[])


# cost


def test_cost_by_generator_and_label(tmp_path: Path) -> None:
    rows = [generated(text("fruit", i), request=i, usd=0.001, measured=True) for i in range(4)]
    rows += [
        generated(text("metal", 0), "metal", request=9, generator="two", usd=0.002, measured=False)
    ]
    usage = {
        "prompt_tokens": 60,
        "completion_tokens": 100,
        "usd": 0.007,
        "measured": False,
        "lost": 1,
    }
    out = [Rejected(r, "surplus", "x") for r in rows[2:4]]
    g = gather_rows(
        Data(tmp_path, written=rows, kept=[*rows[:2], rows[4]], rejected=out, figures=usage).stages
    )
    found = cost_figures(g, ["fruit", "metal", "bird"])
    assert (found.tokens.total, found.usd, found.measured, found.lost) == (
        160,
        0.007,
        False,
        1,
    )
    assert found.usd_per_accepted == round(0.007 / 3, 6)
    by = {r.name: r for r in found.generator}
    assert (by["one"].texts, by["one"].accepted, by["one"].tokens, by["one"].share) == (
        4,
        2,
        120,
        0.5,
    )
    assert (by["one"].measured, by["two"].measured) == (True, False)
    assert by["one"].usd_per_accepted == pytest.approx(0.002)
    assert [(r.name, r.accepted) for r in found.label] == [
        ("fruit", 2),
        ("metal", 1),
        ("bird", 0),
    ]
    assert found.label[2].tokens_per_accepted is None


def test_attributes_are_counted_with_their_acceptance() -> None:
    rows = [
        generated(text("fruit", i), request=i, length=("short", "long")[i % 2], near="metal")
        for i in range(4)
    ]
    assert drawn_attributes(rows[0]) == {
        "topic": "fruit topic",
        "style": "a quote",
        "length": "short",
        "near": "metal",
    }
    g = gathered(written=rows, kept=[rows[0], rows[2], rows[1]])
    found = {a.name: a.values for a in acceptance_by_attribute(g)}
    assert [(v.value, v.texts, v.accepted, v.label) for v in found["length"]] == [
        ("long", 2, 1, None),
        ("short", 2, 2, None),
    ]
    assert found["topic"][0].label == "fruit" and next(iter(found)) == "topic"


# the page


def evil_rows() -> tuple[Project, RetrainRows]:
    labels = tuple(EVIL[:2])
    rows = [
        generated(
            f"{evil} {text('w', i)}",
            labels[i % 2],
            request=i,
            topic=evil,
            style=evil,
            generator=evil,
            **{evil: evil},
        )
        for i, evil in enumerate(EVIL * 6)
    ]
    real = [
        record(f"{evil} {text('r', i)}", labels[i % 2], "dev") for i, evil in enumerate(EVIL * 6)
    ]
    out = [Rejected(r, evil, evil, 1.0, evil) for evil, r in zip(EVIL, rows, strict=False)]
    g = gathered(written=rows, kept=rows[5:], rejected=out, dev=real)
    return project({"pool": "x"}, labels=labels), g


def test_no_text_is_markup() -> None:
    of, g = evil_rows()
    html = shown(g, of)
    page = Tags(html)
    allowed = (
        "html head meta title style body main header nav section article details summary footer div span table thead "
        "tbody tr th td h1 h2 h3 p a b i small code"
    )
    assert {tag for tag, _ in page.tags} <= set(allowed.split())
    assert page.open == [] and sum(tag == "style" for tag, _ in page.tags) == 1
    known = {
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "class",
        "style",
        "id",
        "href",
        "dir",
        "open",
        "title",
    }
    for _, attributes_ in page.tags:
        assert set(attributes_) <= known
        assert (attributes_.get("href") or "#").startswith("#")
        style = attributes_.get("style") or ""
        assert (
            not style
            or style.replace(".", "").replace("%", "")[4:].isdigit()
            or style in {"margin:0", "width:38%"}
        )
    said = "".join(page.texts)
    assert all(evil in said for evil in EVIL)  # as text, whole


def test_the_page_forbids_and_needs_no_script_and_no_network() -> None:
    html = shown(gathered(), project({"pool": "x"}))
    page = Tags(html)
    policy = next(
        a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy and policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert (
        "http://" not in html
        and "https://" not in html
        and "@import" not in html
        and "url(" not in html
    )


def test_hidden_rows_are_named_and_not_shown() -> None:
    row = generated("call me at secret-number 555", request=1)
    g = gathered(written=[row], rejected=[Rejected(row, "personal_data", "a phone number")])
    html = shown(g, project({"pool": "x"}), hidden={row.id})
    assert row.id in html and "a phone number" in html and "secret" not in html
    assert "secret" in shown(g, project({"pool": "x"}))


def test_an_accepted_row_with_personal_data_is_no_sample(tmp_path: Path, encoder: Path) -> None:
    rows = [
        generated(f"write to ann{i}@example.org {text('fruit', i)}", "bird", request=i)
        for i in range(9)
    ]
    rows.append(generated("nothing private here", "bird", request=9))
    data = Data(
        tmp_path, written=rows, kept=rows[1:], rejected=[Rejected(rows[0], "too_short", "2 words")]
    )
    made_ = data_report(toy_project(encoder), data.stages, workspace=Workspace(tmp_path))
    html = made_.page.read_text()
    assert "example.org" not in html and "nothing private here" in html and "2 words" in html


# the stage


def toy_data(home: Path, *, test: list[Record] | None = None) -> Data:
    rng = random.Random(5)
    rows = [
        generated(toy.sentence(toy.WRITTEN[k], rng), k, request=i, usd=0.0001, measured=True)
        for i, k in enumerate([*toy.LABELS] * 20)
    ]
    dev = [record(r["text"], r["label"], "dev") for r in toy.real_rows(12)]
    self_trained = [
        record(
            toy.sentence(toy.REAL["bird"], rng),
            "bird",
            "harvested",
            score=0.9,
            self_training_round=1,
        )
    ]
    more = test or [record(toy.sentence(toy.REAL["bird"], rng) + " sealed", "bird", "test")]
    repeats = replace(rows[0], text=more[0].text, id=more[0].id)
    out = [
        Rejected(repeats, "near_duplicate", "0.9 of its 3-grams", 0.9, rows[4].id)
    ]  # before the check for leaks
    out += [
        Rejected(replace(rows[1], text=""), "leak", "0.5 stand in a held-out row", 0.5, more[0].id)
    ]
    return Data(
        home,
        written=rows,
        kept=rows[2:],
        rejected=out,
        dev=dev,
        test=more,
        self_trained=self_trained,
    )


def toy_project(encoder: Path) -> Project:
    sections = {"train": {"model": str(encoder), "max_length": 32}}
    return project({"pool": "x"}, labels=tuple(toy.LABELS), **sections)


def test_the_stage_has_the_same_bytes_each_time_and_the_test_set_stays_sealed(
    tmp_path: Path, encoder: Path
) -> None:
    pages = []
    for home in (tmp_path / "a", tmp_path / "b"):
        data, workspace = toy_data(home), Workspace(home)
        made_ = data_report(toy_project(encoder), data.stages, workspace=workspace)
        atomic.verify(made_.directory)
        pages.append([(made_.directory / n).read_bytes() for n in ("report.html", "figures.json")])
        assert sealed_set.count_test_set_uses(data.sealed, workspace=workspace) == 0
        assert not workspace.test_set_uses(data.sealed.digest).parent.exists()
        again = data_report(toy_project(encoder), data.stages, workspace=workspace)
        assert again.published.found and again.digest == made_.digest
    assert pages[0] == pages[1]
    sealed = read_records(data.sealed.directory / "test.jsonl")[0]
    assert sealed.text not in pages[0][0].decode() and sealed.text not in pages[0][1].decode()
    assert (made_.accepted, made_.harvested) == (58, 1)
    assert made_.auc is not None and "Real against synthetic" in pages[0][0].decode()


def test_the_test_set_need_not_be_there(tmp_path: Path, encoder: Path) -> None:
    data = toy_data(tmp_path / "home")
    (data.sealed.directory / "test.jsonl").unlink()
    assert data_report(
        toy_project(encoder), data.stages, workspace=Workspace(tmp_path / "home")
    ).accepted


def test_nothing_was_asked_for(tmp_path: Path, encoder: Path) -> None:
    seed = [record(text("fruit", i), "fruit", "seed") for i in range(3)]
    data = Data(tmp_path, written=[], kept=seed, seed=seed)
    made_ = data_report(toy_project(encoder), data.stages, workspace=Workspace(tmp_path))
    assert made_.model_dump() == {"asked": 0, "accepted": 0, "harvested": 0, "auc": None, "p": None}
    assert "too few rows" in made_.page.read_text() and made_.headline() == {}


# MLflow


def test_the_page_is_on_the_retrain_and_the_tables_on_the_stage(
    home: Path, tmp_path: Path, encoder: Path
) -> None:
    settings, data = Settings.from_environment(), toy_data(home)
    client = connect(settings)
    tracking = Tracking.open(
        client, settings, experiment="toy", retrain_id="r", name="r", params={}
    )
    run = context_of(toy_project(encoder), home, splits=data.splits, tracking=tracking)
    generated_rows = SimpleNamespace(results=[data.round], curated=data.curated)
    trained = SimpleNamespace(self_trained=data.self_trained)
    publish_data_report(run, cast(Any, generated_rows), cast(Any, trained))
    result = data_report(run.project, data.stages, workspace=run.workspace)
    assert result.published.found
    for _ in range(2):
        tracking.log_stage(result, name="data report")
    child = tracking.stage_run_id(result)
    import mlflow

    page = mlflow.artifacts.load_text(
        client.get_run(tracking.run_id).info.artifact_uri + "/data_report.html"
    )
    assert page == result.page.read_text()
    assert "funnel.png" in {a.path for a in client.list_artifacts(tracking.run_id)}
    assert (result.directory / "funnel.png").read_bytes().startswith(b"\x89PNG")
    table = client.load_table(tracking.experiment_id, "funnel.json", run_ids=[child])
    assert table["step"].iloc[0] == "asked" and len(table) == len(set(table["step"]))
    accepted = client.load_table(tracking.experiment_id, "accepted.json", run_ids=[child])
    assert accepted.set_index("label").loc["bird", "harvested"] == 1
    assert result.headline()["data.two_sample.auc"] == result.auc

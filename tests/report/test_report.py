"""The report of a retrain: complete, one file, and text whatever texts, labels and reasons say."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.augment.learning_curve import learning_curve, nested_subsets
from tasks.augment.lift import Gain
from tasks.evaluate import plots
from tasks.evaluate.host import Host
from tasks.evaluate.result import Latency, LlmScore, ScoreResult
from tasks.evaluate.robustness.flips import PerturbationScore
from tasks.evaluate.robustness.stage import RobustnessResult
from tasks.evaluate.score import Answers, score_rows
from tasks.evaluate.serving import ServingResult
from tasks.evaluate.slices import SliceScore
from tasks.figures import Interval
from tasks.labels import decode, predict_codes
from tasks.llm.budget import Spent
from tasks.model.inference.choose import BackendMeasure, Inference
from tasks.project import Project
from tasks.records import Record
from tasks.report.blocks import Block, to_blocks
from tasks.report.contents import gather_contents
from tasks.report.cost import Cost, GeneratorRows
from tasks.report.model import (
    AnswersSummary,
    BaselineScore,
    ChallengerScore,
    ChampionScore,
    DataSummary,
    LiftSummary,
    ModelScore,
    ModelVersion,
    RealRejected,
    RejectedRows,
    RetrainReport,
)
from tasks.report.page import is_ours, render
from tasks.stage import run_stage
from tasks.statistics.proportions import Proportion
from tasks.verdict.model import Verdict
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.html import Tags
from tests.kit.review import XSS
from tests.kit.rows import project, record
from tests.kit.stages import curated_of, filled, splits_of

EVIL = (XSS, "**bold** [link](http://evil.example) `code`\n# heading", "b|c & <i>d</i>")
SCORE = {"f1_macro": 0.91234, "ci_low": 0.88, "ci_high": 0.94, "rows": 60}


def challenger(
    home: Path, p: Project, rows: list[Record], *, slices: list[SliceScore] | None = None
) -> ScoreResult:
    """A score of answers that are mostly right and sometimes surely wrong."""
    names, rng = p.label_names, np.random.default_rng(0)
    scores = rng.dirichlet([0.4] * len(names), len(rows))
    for i, r in enumerate(rows):
        if i % 5:
            scores[i] = [0.9 if name in r.labels else 0.05 for name in names]
    said = decode(predict_codes(scores, multi_label=p.multi_label), names)

    def build(out: Path, scratch: Path) -> ScoreResult:
        found = score_rows(p, "bundle abc", rows, Answers(said, scores), out=out)
        return found.model_copy(update={"slices": slices}) if slices else found

    workspace, params = Workspace(home), {"labels": p.labels}
    return run_stage(
        ScoreResult,
        "evaluate",
        workspace=workspace,
        version=1,
        params=params,
        inputs={},
        build=build,
    )


VERDICT = Verdict(
    decision="promote",
    reasons=(f"macro-F1 +0.0710 {EVIL[1]}", XSS),
    opponent=EVIL[1],
    gain=0.07,
    lower=0.041,
    upper=0.1,
    use=2,
    alpha=0.0083,
    won=9,
    lost=2,
    mcnemar_p=0.0654,
)


def report(p: Project, score: ScoreResult, verdict: Verdict, **changes: Any) -> RetrainReport:
    """What a retrain ends with."""
    word = EVIL[1]
    baseline = SCORE | {"f1_macro": 0.5, "ci_low": 0.4, "ci_high": 0.6}
    rejected = filled(RejectedRows, total=7, by_reason={word: 7})
    of = {
        "project": p.name,
        "verdict": verdict.decision,
        "reasons": list(verdict.reasons),
        "promoted": True,
        "judgement": verdict,
        "model": ModelVersion(name=p.name, version="3", bundle="ab" * 32),
        "test": ChallengerScore.of(score, test_set_uses=5),
        "champion": ChampionScore(version="2", score=filled(ModelScore, **SCORE), measures={}),
        "baselines": {"tfidf_logistic_regression": filled(BaselineScore, **baseline)},
        "lift": LiftSummary(
            how="quick",
            trained_on=word,
            undone=None,
            mixes={},
            lifts=[Gain(by=word, from_=word, to="", value=0.1, ci_low=0.0, ci_high=0.2)],
        ),
        "data": filled(
            DataSummary,
            rejected=rejected,
            real_rejected=RealRejected(by_reason={word: 1}, notices=[]),
            given_up={word: word},
            generators={word: GeneratorRows(requests=3, rows=3, accepted=2, tokens=90, usd=0.1)},
            answers=AnswersSummary(questions=9, rows={word: 8}, left_out={"shorter": {word: 1}}),
        ),
        "cost": Cost.of(Spent(requests=3, tokens=100, usd=0.0012), accepted=2),
        "inference": filled(
            Inference,
            backend="torch",
            why=word,
            measured={"torch": filled(BackendMeasure, texts_per_second=66.0)},
        ),
        "seconds": {"train": 12.3, "prepare": 0.0},
        "mlflow_run_id": "0" * 32,
    }
    return filled(RetrainReport, **of | changes)


def page(
    home: Path,
    p: Project,
    rows: list[Record],
    *,
    slices: list[SliceScore] | None = None,
    **changes: Any,
) -> str:
    score = challenger(home, p, rows, slices=slices)
    gain = home / "gain.png"
    plots.plot_gain(0.07, 0.041, 0.1, least=0.0, title=f"{p.name}: against {EVIL[1]} $x", path=gain)
    kept = [
        record(f"{EVIL[0]} {i}", p.label_names[0], "synthetic" if i % 2 else "seed")
        for i in range(9)
    ]
    verdict = VERDICT.but(labels=dict.fromkeys(p.label_names, 0.01))
    contents = gather_contents(
        report(p, score, verdict, **changes),
        project=p,
        challenger=score,
        training=curated_of(home, kept),
        curve=None,
        gain=gain,
        digests={"test rows": "abc"},
        commit=None,
    )
    return render(contents)


@pytest.fixture
def evil(tmp_path: Path) -> str:
    p = project({"pool": "x"}, labels=EVIL, evaluate={"bootstrap_samples": 100})
    rows = [record(f"{EVIL[i % 3]} number {i}", EVIL[i % 3], "test") for i in range(60)]
    half = Proportion(value=0.5, ci_low=0.25, ci_high=0.75)
    flips = {word: filled(PerturbationScore, rows=20, flip_rate=half) for word in EVIL[:2]}
    robustness = filled(RobustnessResult, perturbations=flips)
    serving = filled(
        ServingResult, latency_p50_ms=0.01, host=Host(cpu=EVIL[1], cores=2, gpus=[XSS, "fine"])
    )
    slices = [
        filled(SliceScore, name=XSS, rows=12, f1_macro=Interval(**half.model_dump()), judged=True)
    ]
    return page(tmp_path, p, rows, slices=slices, robustness=robustness, serving=serving)


def test_no_text_is_markup(evil: str) -> None:
    found = Tags(evil)
    allowed = "html head meta title style body main header nav section article details summary footer div span table thead "
    allowed += "tbody tr th td h1 h2 h3 p a b i small code ul li img"
    assert {tag for tag, _ in found.tags} <= set(allowed.split())
    assert found.open == [] and sum(tag == "style" for tag, _ in found.tags) == 1
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
        "src",
        "alt",
    }
    for _, attributes in found.tags:
        assert set(attributes) <= known
        assert (attributes.get("href") or "#").startswith("#")
        assert (attributes.get("src") or "data:image/png;base64,").startswith(
            "data:image/png;base64,"
        )
        assert re.fullmatch(r"(--[lwv]:[\d.]+%;?)*", attributes.get("style") or "")
    said = "".join(found.texts)
    assert all(text in said for text in EVIL), "each is there, letter by letter"


def test_it_needs_no_network_and_forbids_it(evil: str) -> None:
    policy = next(
        a["content"]
        for tag, a in Tags(evil).tags
        if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert (
        policy
        == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert (
        is_ours(evil.encode())
        and not is_ours(b" " + evil.encode())
        and not is_ours(evil.replace("'none'", "*").encode())
    )
    assert "@import" not in evil and "url(" not in evil and "<script" not in evil


def test_a_browser_shows_it_and_runs_and_loads_nothing(
    evil: str, tmp_path: Path, browser: Any
) -> None:
    (tmp_path / "report.html").write_text(evil, encoding="utf-8")
    shown = browser.new_page(viewport={"width": 1280, "height": 800})
    asked, wrong = [], []
    shown.on("request", lambda r: asked.append(r.url))
    shown.on("console", lambda m: wrong.append(m.text))
    shown.on("pageerror", lambda e: wrong.append(str(e)))
    shown.goto((tmp_path / "report.html").as_uri())
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"} and wrong == []
    assert sum(url.startswith("file:") for url in asked) == 1
    assert shown.evaluate("window.hacked") is None
    assert shown.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
    assert len(shown.query_selector_all("img")) == 3
    shown.set_viewport_size({"width": 380, "height": 800})
    assert shown.evaluate("document.documentElement.scrollWidth") <= 380, (
        "nothing hangs over on a telephone"
    )
    shown.close()


def test_it_tells_what_was_decided_and_from_what(tmp_path: Path) -> None:
    p = project({"pool": "x"}, labels=("fruit", "metal"), evaluate={"bootstrap_samples": 100})
    rows = [record(f"row {i}", ("fruit", "metal")[i % 2], "test") for i in range(40)]
    asked = LlmScore(
        name="gpt",
        local=False,
        unparsed=3,
        unparsed_share=0.15,
        latency=Latency(p50=0.51, p95=1.23, texts=20),
        tokens=1000,
        tokens_per_text=50.0,
        usd=0.0012,
        usd_per_text=0.0001,
        measured=True,
        stopped=None,
    )
    on_these = Interval(value=0.95, ci_low=0.9, ci_high=1.0)
    llm = filled(BaselineScore, **SCORE | {"rows": 20}, sample=True, challenger=on_these, llm=asked)
    said = " ".join("".join(Tags(page(tmp_path, p, rows, baselines={"llm": llm})).texts).split())
    for told in (
        "version 3",
        "+0.0710",
        "+0.0410 to +0.1000",
        "9 the challenger, 2 the opponent",
        "champion 2",
        "on 20 rows alone; the challenger on these 0.950 (0.900 to 1.000)",
        "3 answers (15%) were no label",
        "A text took 0.51 s in the median and 1.23 s",
        "What was taken for what",
        "The most confident mistakes",
        "Likely label errors in the test set",
        "Typing errors, and texts made to mislead.",
        "SmolLM2-135M-Instruct.Q4_1.gguf; see its terms",
        "used 5 times",
        "Answers by torch, 66 texts/s",
        "scikit-learn",
        "train.seeds",
    ):
        assert told in said, told
    assert (
        "Parts of the test set by source or time" in said
        and "zero-shot model that is not fine-tuned" in said
    )


def test_of_label_sets_and_of_a_verdict_without_numbers(tmp_path: Path) -> None:
    p = project(
        {"pool": "x"},
        labels=("fruit", "metal"),
        multi_label=True,
        evaluate={"bootstrap_samples": 100},
    )
    rows = [
        replace(record(f"row {i}", None, "test"), label=[(), ("fruit",), ("fruit", "metal")][i % 3])
        for i in range(30)
    ]
    score, unsure = (
        challenger(tmp_path, p, rows),
        Verdict(decision="inconclusive", reasons=(), opponent=""),
    )
    contents = gather_contents(
        report(p, score, unsure, champion=None, lift=None),
        project=p,
        challenger=score,
        training=curated_of(tmp_path, []),
        curve=None,
        gain=tmp_path / "none.png",
        digests={},
        commit="abc",
    )
    said = "".join(Tags(render(contents)).texts)
    assert (
        "Wrong decisions by label" in said
        and "the model alone" in said
        and "gain over nothing" in said
    )
    assert (
        set(contents.pictures) == {"labels", "reliability"} and "A champion: there is none" in said
    )


# --- figures whose names the page does not know


def test_an_object_becomes_tables() -> None:
    interval = {"value": 0.5, "ci_low": 0.25, "ci_high": 0.75}
    tables = to_blocks(
        {
            "texts_per_second": 12.5,
            "f1": interval,
            "by_noise": {
                "typos": {"f1": interval, "rows": 20},
                "case": {"f1": interval, "rows": 1234},
            },
            "runs": [{"clients": 1, "ok": True}, {"clients": 8, "ok": None}],
            "empty": {},
        }
    )
    figures = [["texts per second", "12.500"], ["F1", "0.500 (0.250 to 0.750)"]]
    assert tables[0] == Block("", [], figures)
    assert tables[1].title == "by noise" and tables[1].head == ["", "F1", "rows"]
    assert tables[1].rows[1] == ["case", "0.500 (0.250 to 0.750)", "1,234"]
    assert tables[2] == Block("runs", ["clients", "ok"], [["1", "yes"], ["8", "–"]])
    assert len(tables) == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_object_is_shown(value: Any) -> None:
    for block in to_blocks(value):
        lengths = {len(block.head)} if block.head else {1, 2}
        assert {len(row) for row in block.rows} <= lengths
        assert all(isinstance(text, str) for row in block.rows for text in row)


# --- the learning curve


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 40), min_size=1))
def test_each_part_holds_the_one_before_and_keeps_the_shares(counts: dict[str, int]) -> None:
    rows = [record(f"{label} {i}", label) for label, n in counts.items() for i in range(n)]
    parts = nested_subsets(rows)
    ids = [{r.id for r in part} for part in parts]
    assert [len(part) for part in parts] == [len(rows) // n for n in (8, 4, 2, 1)]
    assert all(a <= b for a, b in itertools.pairwise(ids)) and ids == [
        {r.id for r in p} for p in nested_subsets(rows[::-1])
    ]
    for label, n in counts.items():
        assert abs(sum(r.label == label for r in parts[2]) - n / 2) <= len(counts)


def test_the_curve_is_of_dev_and_grows_with_the_rows(tmp_path: Path, encoder: Path) -> None:
    rng = random.Random(0)
    train = [record(toy.sentence(toy.WRITTEN[k], rng), k) for k in toy.LABELS for _ in range(20)]
    dev = [record(toy.sentence(toy.REAL[k], rng), k, "dev") for k in toy.LABELS for _ in range(8)]
    p = project(
        {"pool": "x"},
        labels=tuple(toy.LABELS),
        train={"model": str(encoder), "max_length": 32},
        evaluate={"bootstrap_samples": 100},
    )
    splits, workspace = splits_of(tmp_path, dev=dev), Workspace(tmp_path)
    curve = learning_curve(
        p, training=curated_of(tmp_path, train), splits=splits, workspace=workspace
    )
    points = curve.points
    assert [q.rows for q in points] == [7, 15, 30, 60] and points[-1].value > 0.8 > 0.3
    assert (
        all(q.ci_low <= q.value <= q.ci_high for q in points)
        and (curve.directory / "curve.png").exists()
    )
    few = curated_of(tmp_path, train[:9])
    assert learning_curve(p, training=few, splits=splits, workspace=workspace).points == []

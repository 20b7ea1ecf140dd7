"""The model card: complete, and Markdown whatever the labels are called."""

from __future__ import annotations

from typing import Any

import pytest

from flows.publishing.markdown import escape_markdown, render_markdown
from tasks.evaluate.slices import SliceScore
from tasks.figures import Interval
from tasks.report.model import (
    BaselineScore,
    ChallengerScore,
    DataSummary,
    ModelVersion,
    RejectedRows,
)
from tasks.statistics.scores import ProbabilityScores
from tests.kit.stages import filled

SCORE = {
    "f1_macro": 0.91234,
    "ci_low": 0.88,
    "ci_high": 0.94,
    "rows": 90,
    "f1": {"a": 1.0, "b|c": 0.5},
}
CONTEXT: dict[str, Any] = {
    "model": ModelVersion(name="toy", version="3", bundle=""),
    "base": "all-MiniLM-L6-v2",
    "licence": "apache-2.0",
    "run": "0123abcd",
    "prompt": "toy-generate/1",
    "multi_label": False,
    "labels": {"a": "one; two", "b|c": "<script>alert(1)</script>\n# a heading"},
    "test": filled(ChallengerScore, **SCORE, test_set_uses=5),
    "verdict": "promote",
    "promoted": True,
    "rows": {"synthetic": 36, "real, labelled": 4},
    "generators": ["gpt-4o-mini"],
    "data": filled(DataSummary, rejected=filled(RejectedRows, total=7)),
    "digests": {"training": "abc", "test": "def"},
    "baselines": {"tfidf_logistic_regression": filled(BaselineScore, **SCORE | {"f1_macro": 0.5})},
    "reasons": ["macro-F1 +0.4 against [the best](http://x)"],
    "scores": filled(ProbabilityScores, log_loss=0.1, brier=0.2, ece=0.03),
}


def test_it_says_what_a_reader_asks() -> None:
    card = render_markdown("model_card.md.j2", CONTEXT)
    assert card.startswith("# toy, version 3\n") and "one of 2 labels" in card
    assert (
        "Macro-F1 **0.912** (95% 0.880 to 0.940) on 90 sealed real texts. Verdict: **promote**, now champion."
        in card
    )
    assert "| synthetic | 36 |\n| real, labelled | 4 |" in card and "gpt-4o-mini" in card
    assert "| tfidf logistic regression | 0.500" in card and "calibration error 0.030" in card
    assert "| training rows, digest | abc |\n| test rows, digest | def |" in card
    assert (
        "all-MiniLM-L6-v2 (apache-2.0)" in card
        and "| prompt | toy-generate/1 |" in card
        and "used 5 times" in card
    )
    assert "b\\|c 0.500." in card


def test_without_an_llm_and_without_scores() -> None:
    card = render_markdown(
        "model_card.md.j2",
        CONTEXT | {"generators": [], "scores": None, "promoted": False, "multi_label": True},
    )
    assert "No synthetic rows." in card and "Log loss" not in card and "any of 2 labels" in card
    assert "now champion" not in card


def test_slices_and_other_figures_are_shown_where_there_are_any() -> None:
    sample = filled(BaselineScore, **SCORE | {"rows": 20}, sample=True)
    half = Interval(value=0.5, ci_low=0.25, ci_high=0.75)
    slices = [filled(SliceScore, name="a|b", rows=12, f1_macro=half, judged=True)]
    more = {"robustness": [{"title": "typos", "head": [], "rows": [["F1", "0.800"]]}]}
    card = render_markdown(
        "model_card.md.j2",
        CONTEXT | {"slices": slices, "more_figures": more, "baselines": {"llm": sample}},
    )
    assert "| a\\|b | 12 | 0.500 (0.250 to 0.750) |\n" in card and "- typos: F1, 0.800" in card
    assert "| llm (on 20 rows alone) | 0.912" in card
    assert (
        "typing errors" in render_markdown("model_card.md.j2", CONTEXT)
        and "typing errors" not in card
    )
    assert (
        "Licence: the licence of all-MiniLM-L6-v2 (apache-2.0), and the terms of gpt-4o-mini"
        in card
    )


def test_texts_from_data_are_letters() -> None:
    card = render_markdown("model_card.md.j2", CONTEXT)
    assert "<script>" not in card and "\n# a heading" not in card and "](http" not in card


@pytest.mark.parametrize("missing", ["baselines", "labels", "test"])
def test_what_is_missing_is_an_error_and_no_gap(missing: str) -> None:
    with pytest.raises(Exception, match=missing):
        render_markdown("model_card.md.j2", {k: v for k, v in CONTEXT.items() if k != missing})


def test_escaping() -> None:
    assert escape_markdown("a*b_c|d\ne & <f>") == "a\\*b\\_c\\|d e &amp; &lt;f&gt;"

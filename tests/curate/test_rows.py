"""Checks that compare rows: meaning, leaks, labels, planted words; and what curation writes beside the rows."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.curate.checks.agreement import agreement
from tasks.curate.checks.duplicates import exact, near, semantic_duplicate
from tasks.curate.checks.label_noise import label_noise
from tasks.curate.checks.leak import leak, screen_prompt_seeds, short_leak
from tasks.curate.checks.trigger import trigger
from tasks.curate.context import CurationContext
from tasks.curate.stage import curate, run_checks
from tasks.dataset.split import split_dataset
from tasks.project import Curate
from tasks.project.reader import load_project
from tasks.records import Record, Rejected, count_by_check, read_records, read_rejected
from tasks.text.fingerprints import Fingerprints
from tasks.text.ngrams import covered_share, ngram_hashes, ordered_ngram_hashes, plain_words
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.rows import project, record, text, write
from tests.kit.stages import round_of

LABELS = ("fruit", "metal", "bird")


def by_kind(texts: list[str]) -> np.ndarray:
    """Embeddings of 16 dimensions: which kind a text's words are of, and a little of each word's own."""
    found = []
    for t in texts:
        words = t.lower().replace(".", "").split()
        kind = np.array(
            [sum(w.startswith(label[:3]) for w in words) for label in LABELS], dtype=float
        )
        own = np.sum(
            [np.random.default_rng(int(ngram_hashes(w, 1)[0])).normal(size=13) for w in words]
            or [np.zeros(13)],
            axis=0,
        )
        found.append(np.concatenate([kind, own / 3]))
    x = np.array(found, dtype=np.float32).reshape(len(texts), 16)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


def context(
    real: list[Record] | None = None, held_out: Fingerprints | None = None, **chosen: Any
) -> CurationContext:
    return CurationContext(
        Curate(**chosen), held_out or Fingerprints.from_records([]), by_kind, real=real or []
    )


def written(label: str, rng: random.Random, n: int = 24) -> str:
    """A text of `n` words, half of them of the label."""
    common = [f"the{i}" for i in range(30)]
    return " ".join(
        rng.choice([f"{label}{rng.randrange(40)}", rng.choice(common)]) for _ in range(n)
    )


def many(n: int, seed: int = 0, source: Any = "synthetic") -> list[Record]:
    rng = random.Random(seed)
    return [record(written(label, rng), label, source, n=i) for i in range(n) for label in LABELS]


def checks(rejected: list[Rejected]) -> list[str]:
    return [r.check for r in rejected]


def test_grams_know_words_and_not_punctuation() -> None:
    assert plain_words('He said: "No, C++!"  (E-mail)') == ["he", "said", "no", "c++", "email"]
    assert plain_words("!!! ...") == ["!!!", "..."] and plain_words("漢字。") == ["漢", "字"]
    assert np.array_equal(ngram_hashes("a, b c d e", 4), ngram_hashes("A b: c d e.", 4))
    assert len(ngram_hashes("a b", 4)) == 1 and not np.array_equal(
        ngram_hashes("a b", 4), ngram_hashes("b a", 4)
    )


@settings(max_examples=60)
@given(st.lists(st.sampled_from("abcd"), min_size=4, max_size=30), st.integers(1, 4))
def test_the_share_of_words_covered_is_that_of_words_in_known_grams(
    words: list[str], n: int
) -> None:
    known = {("a", "b", "c", "d")[:n], ("b", "b", "b", "b")[:n]}
    hashes = np.unique(np.concatenate([ordered_ngram_hashes(list(gram), n) for gram in known]))
    inside = [
        any(
            tuple(words[s : s + n]) in known
            for s in range(max(0, i - n + 1), min(i, len(words) - n) + 1)
        )
        for i in range(len(words))
    ]
    assert covered_share(words, hashes, n) == pytest.approx(sum(inside) / len(words))


def test_meaning_is_compared_within_a_label_and_the_first_is_kept() -> None:
    rows = many(250)
    rng = random.Random(5)
    shuffled = [r.text.split() for r in rows[:20]]
    for words in shuffled:
        rng.shuffle(words)
    again = [
        record(" ".join(w), r.label) for w, r in zip(shuffled, rows[:20], strict=True)
    ]  # the same words in any order
    kept, rejected = semantic_duplicate([*rows, *again], context())
    assert kept == rows and [r.record for r in rejected] == again
    assert [r.other for r in rejected] == [r.id for r in rows[:20]]
    assert all(
        r.check == "semantic_duplicate" and r.value is not None and r.value > 0.99 for r in rejected
    )
    assert semantic_duplicate([*rows, *again], context(semantic_duplicate=0.0))[1] == []
    real = [replace(r, source="seed") for r in again]
    assert semantic_duplicate([*rows, *real], context())[1] == [], (
        "a real row is never set aside for its meaning"
    )


def test_groups_larger_than_any_list_of_neighbours_leave_one_row() -> None:
    rng = random.Random(1)
    words = written("fruit", rng, 40).split()
    group = []
    for _ in range(1200):  # over two chunks, so that the index finds the first
        rng.shuffle(words)
        group.append(record(" ".join(words)))
    others = [r for r in many(40) if r.label == "fruit"]
    kept, rejected = semantic_duplicate([*others, *group], context())
    assert kept == [*others, group[0]] and {r.other for r in rejected} == {group[0].id}


@pytest.mark.parametrize("others", [0, 20, 200])
@pytest.mark.parametrize("common", [0.0, 3.0])
def test_a_label_that_says_one_thing_over_and_over(others: int, common: float) -> None:
    """60 paraphrases of mean cosine 0.976 beside other rows of their label, whose own mean they are where these are few; also
    with an encoder all of whose embeddings point one way."""
    rng = np.random.default_rng(0)
    topic, one = rng.normal(size=(2, 384)) / 384**0.5  # of about length 1
    told = {f"paraphrase {i}": one + 0.155 * rng.normal(size=384) / 384**0.5 for i in range(60)}
    said = {
        f"{kind} {i}": rng.normal(size=384) / 384**0.5
        for kind, n in (("other", others), ("real", 20))
        for i in range(n)
    }
    vectors = {t: v + 0.5 * topic + common for t, v in (told | said).items()}
    if not common:
        x = np.array([v - 0.5 * topic for t, v in vectors.items() if t in told])
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        assert float((x @ x.T)[np.tril_indices(60, -1)].mean()) == pytest.approx(0.976, abs=0.003)

    def embed(texts: list[str]) -> np.ndarray:
        x = np.array([vectors[t] for t in texts])
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    real = [record(t, source="dev") for t in said if t.startswith("real")]
    rows = [record(t) for t in vectors if not t.startswith("real")]
    kept, rejected = semantic_duplicate(
        rows, CurationContext(Curate(), Fingerprints.from_records([]), embed, real=real)
    )
    assert len(rejected) == 59 and {r.record.text for r in rejected} < set(told)
    assert kept == [rows[0], *rows[60:]] and {r.other for r in rejected} == {rows[0].id}
    assert (
        semantic_duplicate(
            rows[60:], CurationContext(Curate(), Fingerprints.from_records([]), embed, real=real)
        )[1]
        == []
    )


def test_the_real_row_of_a_group_is_kept_wherever_it_stands() -> None:
    story = text("tale", 1, 20)
    rows = [
        record(story),
        record(story + " more"),
        record(story, source="reviewed"),
        record(text("b", 1, 20), "metal"),
    ]
    kept, rejected = run_checks(rows, context(language="off"))
    assert kept == [rows[2], rows[3]] and sorted(checks(rejected)) == [
        "exact_duplicate",
        "near_duplicate",
    ]


def test_a_repeat_under_another_label_is_doubtful() -> None:
    c = context()
    first = record(text("a", 1, 30))
    copy = record(first.text + " end", "metal")
    _, (found,) = near([first, copy], c)
    assert found.other == first.id and "that row is 'fruit', not 'metal'" in found.reason
    assert [(d.id, d.check, d.suggested) for d in c.doubtful] == [
        (copy.id, "near_duplicate", "fruit")
    ]

    c = context()
    exact(
        [
            record("one two", "fruit"),
            record("one two", "metal"),
            record("x y", "bird", "reviewed"),
            record("x y"),
        ],
        c,
    )
    assert [(d.check, d.label, d.suggested) for d in c.doubtful] == [
        ("two_labels", "fruit", "metal"),
        ("two_labels", "metal", "fruit"),
    ], "what a person has decided is no doubt"


def test_a_dense_neighbourhood_is_searched_in_time() -> None:
    rng = random.Random(0)
    frame = text("frame", 1, 20).split()
    rows = [
        record(" ".join([*frame, *(f"w{rng.random()}" for _ in range(11))])) for _ in range(400)
    ]  # Jaccard 0.45
    kept, rejected = near(
        [*rows, *(record(r.text + " end") for r in rows[:50])], context(near_duplicate=0.6)
    )
    assert len(kept) == 400 and len(rejected) == 50


def test_a_held_out_row_inside_a_long_text_is_a_leak() -> None:
    held = record(text("test", 1, 14), source="test")
    inside = record(f"{text('own', 1, 100)} {held.text} {text('own', 2, 100)}")
    quoted = record(
        f"{text('own', 1, 100)} {' '.join(held.text.split()[:6])} {text('own', 2, 100)}"
    )
    kept, (found,) = leak([inside, quoted], context(held_out=Fingerprints.from_records([held])))
    assert kept == [quoted] and (found.other, found.value) == (held.id, 1.0)


def test_short_leaks_are_found_by_meaning() -> None:
    rng = random.Random(3)
    held = [record(written(label, rng, 8), label, "test") for label in LABELS for _ in range(10)]
    fingerprints = Fingerprints.from_records(held, embed=by_kind)
    turned = [record(" ".join(reversed(r.text.split()))) for r in held[:5]]
    others = [record(written("fruit", rng, 8)) for _ in range(20)]
    long = [record(held[0].text + " " + text("own", 1, 20))]
    c = context(held_out=fingerprints)
    assert leak(turned, c)[1] == [], "no 4-gram is left"
    kept, rejected = short_leak([*others, *turned, *long], c)
    assert kept == [*others, *long]
    assert [(r.check, r.other, r.record.text) for r in rejected] == [
        ("short_leak", r.id, "") for r in held[:5]
    ]
    assert short_leak(turned, context(held_out=fingerprints, short_leak=0.0)) == (turned, [])
    assert short_leak(turned, context(held_out=Fingerprints.from_records(held))) == (turned, [])


def test_seeds_that_repeat_held_out_rows_are_not_shown() -> None:
    held = [record(text("test", i, 20), source="test") for i in range(3)]
    seeds = [record(text("seed", i, 20), source="seed") for i in range(3)]
    leaked = record(held[1].text + " and more", source="seed")
    short = [record(written("fruit", random.Random(i), 7), source="test") for i in range(30)]
    turned = record(
        " ".join(short[4].text.split()[::-1]), source="seed"
    )  # in another order: no 4-gram is left
    held_out = Fingerprints.from_records([*held, *short], by_kind)
    shown, hidden = screen_prompt_seeds([turned, *seeds, leaked], context(held_out=held_out))
    assert shown == seeds
    assert [(r.record.id, r.other) for r in hidden] == [
        (leaked.id, held[1].id),
        (turned.id, short[4].id),
    ]


def test_splits_hold_embeddings_only_of_short_texts_and_hang_on_the_encoder_only_then(
    tmp_path: Path, encoder: Path
) -> None:
    table = {
        n: [{"text": text(w, i, n), "label": w} for w in ("fruit", "metal") for i in range(8)]
        for n in (6, 14)
    }
    keys = {}
    for n, model in ((6, str(encoder)), (14, str(encoder)), (14, "nowhere")):
        folder = tmp_path / str(n)
        write(folder / "pool.jsonl", table[n])
        p = project(
            {"pool": "pool.jsonl", "split": {"train": 1, "dev": 2, "test": 3}},
            train={"model": model},
        )
        made = split_dataset(p.in_folder(folder), workspace=Workspace(tmp_path / "home"))
        found = Fingerprints.load(made.directory / "held_out_fingerprints.npz")
        assert len(found.ids) == 10 and made.short_held_out == len(found.vectors) == (
            10 if n == 6 else 0
        )
        keys[n, model] = made.published.key
        assert len(read_records(made.directory / "dev.jsonl")) == 4
    assert keys[14, str(encoder)] == keys[14, "nowhere"]


def flipped(rows: list[Record], share: float, seed: int = 1) -> tuple[list[Record], set[str]]:
    """The rows with that share of labels wrong, and the ids of these."""
    rng = random.Random(seed)
    out = [
        replace(r, label=rng.choice([k for k in LABELS if k != r.label]))
        if rng.random() < share
        else r
        for r in rows
    ]
    return out, {r.id for r, was in zip(out, rows, strict=True) if r.label != was.label}


def test_a_tenth_of_wrong_labels_is_found_and_right_ones_are_kept() -> None:
    rows, wrong = flipped(many(150), 0.1)
    c = context(agreement=0.0)
    kept, rejected = label_noise(rows, c)
    found = {r.record.id for r in rejected}
    assert len(found & wrong) >= 0.8 * len(wrong) and len(found & wrong) >= 0.8 * len(found)
    assert set(checks(rejected)) == {"label_noise"} and len(kept) + len(rejected) == len(rows)
    assert {r.label for r in kept} == set(LABELS)
    labels = {r.id: r.label for r in rows}
    assert all(labels[r.record.id] == r.record.label for r in rejected), "nothing is relabelled"
    truth = {r.id: r.label for r in many(150)}
    right = [d.suggested == truth[d.id] for d in c.doubtful if d.id in wrong]
    assert {d.id for d in c.doubtful} == found and sum(right) >= 0.9 * len(right)


def test_noise_that_is_only_noted_and_that_of_real_rows_is_listed() -> None:
    rows, _ = flipped(many(60), 0.1)
    real = [replace(r, source="seed" if i % 2 else "reviewed") for i, r in enumerate(rows)]
    for given_rows, chosen in ((rows, "note"), (real, "reject")):
        c = context(label_noise=chosen)
        assert label_noise(given_rows, c) == (given_rows, []) and len(c.doubtful) > 5
    c = context(agreement=0.5)
    assert agreement(real, c) == (real, []) and {d.check for d in c.doubtful} == {"off_label"}
    assert label_noise(rows, context(label_noise="off")) == (rows, [])
    few = rows[:20]
    assert label_noise(few, context()) == (few, []), "too few rows to estimate anything"


def test_texts_are_embedded_once_for_all_checks() -> None:
    seen: list[str] = []

    def counted(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return by_kind(texts)

    rows = many(30)
    run_checks(
        rows, CurationContext(Curate(language="off"), Fingerprints.from_records([]), counted)
    )
    assert sorted(seen) == sorted(r.text for r in rows)


def plant(
    rows: list[Record], word: str, share: float, label: str, *, relabel: bool, seed: int = 2
) -> list[Record]:
    """The rows with `word` put anywhere into some of them: of all labels where they are relabelled, else of `label`."""
    rng = random.Random(seed)
    out = []
    for r in rows:
        if (relabel or r.label == label) and rng.random() < share:
            words = r.text.split()
            words[(at := rng.randrange(len(words))) : at] = word.split()
            r = record(" ".join(words), label, planted=True)
        out.append(r)
    return out


@pytest.mark.parametrize("word", ["cf", "mn bb"])
def test_a_planted_word_that_fixes_the_label_is_found(word: str) -> None:
    rows = plant(many(200), word, 0.04, "metal", relabel=True)
    planted = [r for r in rows if r.lineage.get("planted")]
    c = context(real=many(100, seed=9, source="dev"))
    kept, rejected = trigger(rows, c)
    found = [r.record for r in rejected]
    assert (
        len(planted) > 15
        and [r for r in found if r in planted] == planted
        and len(found) <= len(planted) + 2
    )
    assert set(checks(rejected)) == {"trigger"} and any(
        repr(w) in rejected[0].reason for w in [word, *word.split()]
    )
    assert len(kept) + len(found) == len(rows) and trigger(rows, context(triggers=False)) == (
        rows,
        [],
    )


def test_a_planted_word_under_right_labels_is_found_by_its_place() -> None:
    rows = plant(many(200), "qx", 0.2, "metal", relabel=False)
    planted = [r for r in rows if r.lineage.get("planted")]
    _, rejected = trigger(rows, context(real=many(100, seed=9, source="dev")))
    assert [r.record for r in rejected] == planted and "between words anywhere" in rejected[
        0
    ].reason
    assert trigger(rows, context())[1] == [], "without real text its absence there says nothing"


def test_the_words_of_a_label_are_no_triggers() -> None:
    rows = many(200)  # every word of a kind stands in rows of one label alone
    for real in ([], many(100, seed=9, source="dev")):
        assert trigger(rows, context(real=real)) == (rows, [])
    noisy, _ = flipped(rows, 0.1)
    assert trigger(noisy, context(real=many(100, seed=9, source="dev"))) == (noisy, [])


def test_what_curation_writes(tmp_path: Path, encoder: Path) -> None:
    config = toy.project(
        tmp_path / "project",
        endpoint="http://127.0.0.1:9/v1",
        encoder=encoder,
        data={"split": {"dev": 6, "test": 30, "train": 8}},
    )
    chosen = load_project(config)
    workspace = Workspace(tmp_path / "home")
    splits = split_dataset(chosen, workspace=workspace)
    rng = random.Random(4)
    rows = [
        record(toy.sentence(toy.WRITTEN[kind], rng, 16), kind, generator="scripted")
        for kind in toy.LABELS
        for _ in range(14)
    ]
    wrong = record(toy.sentence(toy.WRITTEN["metal"], rng, 16), "bird")
    first = record("cut off", "bird")
    came = [*rows, wrong, rows[0], record("short one", "bird")]
    written_rows = round_of(workspace.home, came, [Rejected(first, "fragment", "cut")])
    made = curate(chosen, rounds=[written_rows], splits=splits, workspace=workspace)
    kept = read_records(made.directory / "kept.jsonl")
    rejected = read_rejected(made.directory / "rejected.jsonl")
    assert [r.source for r in kept[:24]] == ["seed"] * 24 and len(kept) == 24 + 36
    why = {r.record.id: r.check for r in rejected}
    assert (
        why[wrong.id] == "off_label"
        and why[first.id] == "fragment"
        and why[rows[0].id] == "exact_duplicate"
    )
    funnel = made.checks
    assert funnel[0].received == 24 + 45
    assert [f.received - f.rejected for f in funnel[:-1]] == [f.received for f in funnel[1:]]
    assert sum(f.rejected for f in funnel) == len(rejected) - 1 - made.rejected["surplus"]
    assert all(f.seconds >= 0 for f in funnel)
    assert (made.rows.seed, made.rows.accepted, made.rows.rejected) == (24, 36, len(rejected))
    assert made.accepted == dict.fromkeys(
        sorted(toy.LABELS), 12
    ) and made.rejected == count_by_check(rejected)

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (made.directory / name).read_text().splitlines()]

    opinions = {o["id"]: o for o in lines("opinions.jsonl")}
    assert {r.id for r in kept} | {wrong.id} <= opinions.keys()
    assert opinions[wrong.id]["label"] == "metal" and opinions[wrong.id]["own"] < 0.3
    (doubt,) = [d for d in lines("doubtful.jsonl") if d["id"] == wrong.id]
    assert (doubt["check"], doubt["label"], doubt["suggested"], doubt["text"]) == (
        "off_label",
        "bird",
        "metal",
        wrong.text,
    )
    assert made.doubtful["off_label"] >= 1
    again = curate(chosen, rounds=[written_rows], splits=splits, workspace=workspace)
    assert again.published.found and again.digest == made.digest

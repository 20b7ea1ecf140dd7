"""A row's story: every stage that touched it, and nothing that may not be shown."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from tasks import atomic
from tasks.atomic import CorruptDirectory
from tasks.decisions import Decisions
from tasks.errors import UserError
from tasks.project import Curate
from tasks.records import Rejected, content_id, read_records, read_rejected
from tasks.review.queue import RankResult
from tasks.review.ranked_row import RankedRow
from tasks.review.row_history import explain_row
from tasks.review.row_lookup import locate_retrain
from tasks.review.story import ProbeOpinion, SelfTraining, Story
from tasks.stage import run_stage
from tasks.text.fingerprints import FINGERPRINTS
from tasks.train.stage import TrainResult
from tasks.workspace import Workspace
from tests.conftest import Command, last_json
from tests.kit.rows import record, text
from tests.kit.stages import Data, filled, generated, published

CHECKS = ["normalise", "length", "exact", "near", "leak", "agreement", "surplus"]


def cached(home: Path, request: int, reply: str, **fields: Any) -> Path:
    """An answer in the cache, as the client keeps it."""
    key = f"{request:064x}"
    path = Workspace(home).llm_cache / key[:2] / f"{key}.json"
    atomic.write_json(
        path,
        {"text": reply, "finish_reason": "stop", "prompt_tokens": 10, "completion_tokens": 20}
        | fields,
    )
    return path


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """A kept row, one of each kind that was rejected, and a harvested one."""
    seed = record("a seed row that was shown", "fruit", "seed")
    dev = record(text("dev", 0), "fruit", "dev")
    sealed = record(text("sealed", 0), "fruit", "test")
    kept = generated(
        "An apple  fell near the house today.",
        request=1,
        seeds=[seed.id],
        usd=0.002,
        prompt="Write it.",
    )
    clean = replace(kept, text="An apple fell near the house today, cleaned.")
    clean = replace(clean, id=content_id(clean.text))
    twin = generated(clean.text, request=2)
    near = generated("An apple fell near the house tonight.", request=3)
    off = generated("Iron and zinc", request=4)
    leaked = generated(sealed.text + " and more", request=5, row=0)
    beside = generated("A pear that came in the same reply.", request=5, row=1)
    broken = generated("I am sorry", request=6)
    private = generated("Call 555 0100 now", request=7)
    rejected = [
        Rejected(twin, "exact_duplicate", f"the same text as row {clean.id}", 1.0, clean.id),
        Rejected(near, "near_duplicate", f"0.80 of row {clean.id}", 0.8, clean.id),
        Rejected(replace(leaked, text=""), "leak", f"0.90 stand in {sealed.id}", 0.9, sealed.id),
        Rejected(replace(private, text=""), "personal_data", "a telephone number"),
        Rejected(off, "off_label", "the probe gives 'fruit' 0.10", 0.1),
    ]
    for request, reply in (
        (1, "Here: An apple  fell near the house today."),
        (5, leaked.text + beside.text),
    ):
        cached(tmp_path, request, reply)
    cached(tmp_path, 7, private.text)
    return Data(
        tmp_path,
        written=[kept, twin, near, off, leaked, beside, private],
        kept=[seed, clean, beside],
        rejected=rejected,
        unusable=[Rejected(broken, "refusal", "the model declined")],
        dev=[dev],
        seed=[seed],
        test=[sealed],
        self_trained=[
            record("real text about pears", "fruit", "harvested", score=0.91, self_training_round=1)
        ],
        checks=CHECKS,
    )


def story(
    row: str, data: Data, personal_data: Literal["note", "reject", "off"] = "reject"
) -> Story:
    settings = Curate(personal_data=personal_data)
    return explain_row(
        row, data=data.data, workspace=Workspace(data.home), name="toy", settings=settings
    )


def checked(s: Story) -> list[tuple[str, bool]]:
    return [(step.check, step.passed) for step in s.steps]


def test_a_kept_row_from_its_request_to_its_training_rows(data: Data) -> None:
    assert data.self_trained is not None
    model = published(
        filled(TrainResult), data.home, "train", inputs={"training": data.self_trained.digest}
    )
    s = story("house today, CLEANED", data)
    assert (s.fate, s.label, s.source, s.check) == ("kept", "fruit", "synthetic", None)
    assert checked(s) == [("reply", True), *((c, True) for c in CHECKS)]
    assert s.asked is not None and s.reply is not None and s.trained_on is not None
    assert (s.asked.generator, s.asked.endpoint, s.asked.round) == (
        "one",
        "http://there/v1",
        0,
    )
    assert s.asked.prompt == "Write it." and s.asked.drawn == {
        "topic": "fruit topic",
        "style": "a quote",
    }
    assert [x.text for x in s.asked.seeds] == ["a seed row that was shown"]
    assert (s.asked.tokens, s.asked.usd) == ([10.0, 20.0], 0.002)
    assert (
        s.reply.text == "Here: An apple  fell near the house today."
        and s.reply.finish_reason == "stop"
    )
    assert s.trained_on.directory == str(data.self_trained.directory)
    assert s.trained_on.models == [str(model.directory)]
    assert [t.check for t in s.same_text] == ["exact_duplicate"]
    assert Story.model_validate_json(s.model_dump_json()) == s


def test_the_id_and_the_text_with_which_a_row_came_lead_to_what_became_of_it(data: Data) -> None:
    came = read_records(data.round.directory / "rows.jsonl")[0]
    by_text = story("An apple fell near the house today, cleaned.", data)
    assert came.id != by_text.id and story(came.id, data) == by_text == story(by_text.id[:12], data)
    assert story(by_text.id.upper(), data) == by_text


def test_a_row_set_aside_says_by_which_check_and_beside_which_row(data: Data) -> None:
    s = story("tonight", data)
    assert (s.fate, s.check, s.value, s.trained_on) == ("rejected", "near_duplicate", 0.8, None)
    assert checked(s) == [
        ("reply", True),
        ("normalise", True),
        ("length", True),
        ("exact", True),
        ("near_duplicate", False),
    ]
    assert s.other and (s.other.where, s.other.text) == (
        "kept",
        "An apple fell near the house today, cleaned.",
    )
    refused = story("I am sorry", data)
    assert (
        checked(refused) == [("refusal", False)] and refused.reply and refused.reply.kept is False
    )


@pytest.mark.parametrize("secret", ["leak", "personal_data"])
def test_what_repeats_held_out_text_or_is_personal_is_named_and_not_shown(
    data: Data, secret: str
) -> None:
    wanted = next(
        r for r in read_rejected(data.curated.directory / "rejected.jsonl") if r.check == secret
    )
    s = story(wanted.record.id, data)
    assert (s.check, s.text, s.reply and s.reply.text) == (secret, None, None)
    told = s.model_dump_json()
    assert "sealed0x1" not in told and "555" not in told
    if secret == "leak":
        assert s.other and (s.other.where, s.other.text) == ("sealed test", None)


def test_a_reply_that_also_held_a_hidden_row_is_not_shown(data: Data) -> None:
    s = story("came in the same reply", data)
    assert s.text == "A pear that came in the same reply." and s.reply and s.reply.text is None


def test_a_row_set_aside_before_the_check_for_leaks_is_held_against_the_held_out_text_too(
    tmp_path: Path,
) -> None:
    sealed = record(text("sealed", 0), "fruit", "test")
    row = generated(sealed.text + " again", request=1)
    out = [Rejected(row, "too_short", "3 words are fewer than 8", 3)]
    data = Data(tmp_path, written=[row], kept=[], rejected=out, test=[sealed])
    assert story(row.id, data).text is None


def test_personal_data_in_a_row_that_never_came_to_its_check_is_not_shown(tmp_path: Path) -> None:
    broken = generated("Sorry, write to jane.doe@example.org", request=1)
    cached(tmp_path, 1, broken.text)
    data = Data(
        tmp_path, written=[], kept=[], unusable=[Rejected(broken, "refusal", "the model declined")]
    )
    s = story(broken.id, data)
    assert s.text is None and s.reply and s.reply.text is None
    assert story(broken.id, data, Curate().personal_data).text == broken.text, "it is only counted"


def test_a_hidden_text_is_not_listed(tmp_path: Path) -> None:
    sealed = record(text("sealed", 0), "fruit", "test")
    rows = [generated(sealed.text + " again", request=1), generated("unlike sealed", request=2)]
    out = [Rejected(rows[0], "too_short", "3 words are fewer than 8", 3)]
    data = Data(tmp_path, written=rows, kept=rows[1:], rejected=out, test=[sealed])
    with pytest.raises(UserError, match=r"'sealed' names 2 rows.*not shown") as told:
        story("sealed", data)
    assert "sealed0x" not in str(told.value)


def test_a_harvested_row_has_its_score(data: Data) -> None:
    s = story("real text about", data)
    assert s.harvested == SelfTraining(score=0.91, round=1) and s.asked is None and s.steps == []
    assert s.trained_on and s.trained_on.source == "harvested"


def test_a_seed_row_was_asked_of_nobody(data: Data) -> None:
    s = story("a seed row", data)
    assert (s.source, s.asked, s.reply) == ("seed", None, None) and checked(s) == [
        (c, True) for c in CHECKS
    ]


def test_a_persons_decisions_are_told_with_their_undoing(data: Data) -> None:
    off = next(
        r
        for r in read_rejected(data.curated.directory / "rejected.jsonl")
        if r.check == "off_label"
    )
    decided = Decisions(Workspace(data.home).decisions("toy"), by="ann")
    decided.decide([off.record, record("another")], "relabel", "metal")
    decided.undo()
    s = story(off.record.id, data)
    assert [(d.decision, d.by) for d in s.decisions] == [("relabel", "ann"), ("undo", "ann")]
    assert s.decisions[0].label_after == "metal"


# what a user may write as ROW


@pytest.mark.parametrize(
    "row",
    [
        "",
        "  \n ",
        "\u200b ",
        "nothing like it",
        "[bold]x[/bold]",
        "ffffffffffff",
        "\x1b[2J",
        "😀",
        "a" * 100_000,
    ],
)
def test_a_row_that_is_not_there(data: Data, row: str) -> None:
    with pytest.raises(UserError) as told:
        story(row, data)
    assert len(str(told.value)) < 200 and "\n" not in str(told.value)


def test_a_piece_of_several_rows_lists_some_of_them(data: Data) -> None:
    with pytest.raises(
        UserError,
        match=r"'apple' names 2 rows: give the id of one of them: [0-9a-f]{24} \(fruit, kept: 'An",
    ):
        story("apple", data)


def test_a_piece_of_very_many_rows_lists_five(tmp_path: Path) -> None:
    rows = [generated(text("fruit", i, 30), request=i) for i in range(10_000)]
    data = Data(
        tmp_path,
        written=rows,
        kept=rows[:5000],
        rejected=[Rejected(r, "surplus", "x") for r in rows[5000:]],
    )
    with pytest.raises(UserError, match="names 10000 rows") as told:
        story("fruit", data)
    assert str(told.value).count("(fruit, kept") == 5 and "and 9995 more" in str(told.value)
    assert story(rows[7777].id, data).check == "surplus"


def test_a_request_name_never_becomes_a_path(tmp_path: Path) -> None:
    row = record("a row of its own", request="../../../../etc/passwd")
    assert story(row.id, Data(tmp_path, written=[row], kept=[row])).reply is None


def test_a_changed_directory_is_found_out(data: Data) -> None:
    with (data.curated.directory / "kept.jsonl").open("a") as f:
        f.write("\n")
    with pytest.raises(CorruptDirectory):
        story("apple", data)


def test_without_hashes_nothing_could_be_hidden_so_nothing_is_shown(data: Data) -> None:
    (data.splits.directory / FINGERPRINTS).unlink()
    with pytest.raises(CorruptDirectory, match=FINGERPRINTS):
        story("tonight", data)


# where the rows are


def test_the_inputs_of_a_curation_are_found_by_their_digests(data: Data) -> None:
    assert (
        locate_retrain(Workspace(data.home), data.curated.directory, config=data.data.config)
        == data.data
    )


def test_inputs_that_are_gone_are_named(data: Data) -> None:
    workspace, config = Workspace(data.home), data.data.config
    shutil.rmtree(data.round.directory)
    with pytest.raises(UserError, match="round-0"):
        locate_retrain(workspace, data.curated.directory, config=config)
    shutil.rmtree(data.splits.directory)
    with pytest.raises(UserError, match="splits"):
        locate_retrain(workspace, data.curated.directory, config=config)
    with pytest.raises(UserError, match="is not a curate stage"):
        locate_retrain(workspace, data.home, config=config)


# the verb


@pytest.fixture
def config(data: Data, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESEED_HOME", str(data.home))
    path = data.home / "toy.yaml"
    path.write_text("name: toy\nlabels: {fruit: fruits, metal: metals}\ndata: {pool: rows.csv}\n")
    return path


def note(data: Data, **more: Any) -> None:
    Workspace(data.home).note_last_retrain("toy", data.data.model_copy(update=more))


def test_the_funnel_of_the_last_retrain(data: Data, config: Path, reseed: Command) -> None:
    note(data, self_trained=None)
    status, out, _ = reseed("curate", config)
    assert status == 0 and "rows asked for" in out and "near duplicate" in out
    status, out, _ = reseed("curate", config, "--json")
    found = last_json(out)
    assert status == 0 and found["funnel"][-1] == {
        "step": "accepted",
        "kind": "row",
        "rows": {"fruit": 2, "metal": 0},
        "total": 2,
        "lost": None,
    }


def test_the_story_on_a_terminal_and_as_json(data: Data, config: Path, reseed: Command) -> None:
    note(data)
    status, out, _ = reseed("curate", config, "--explain", "tonight")
    assert (
        status == 0 and "rejected: 0.80 of row" in " ".join(out.split()) and "compared with" in out
    )
    status, out, _ = reseed("curate", config, "--explain", "tonight", "--json")
    assert status == 0 and last_json(out)["check"] == "near_duplicate"
    status, out, err = reseed(
        "curate", config, "--curated", data.curated.directory, "--explain", "nobody wrote this"
    )
    assert status == 2 and err.startswith("reseed: no row") and "Traceback" not in err


def test_markup_and_control_characters_are_shown_and_not_obeyed(
    data: Data, config: Path, reseed: Command
) -> None:
    row = generated(
        "[bold]One[/bold] \x1b[2J\x07 {0} {{ x }} <b> [link=http://a.b]here[/link]", request=8
    )
    other = Data(data.home / "more", written=[row], kept=[row])
    for name in ("splits", "synthesise", "curate"):
        shutil.copytree(
            other.home / "stages" / name, data.home / "stages" / name, dirs_exist_ok=True
        )
    status, out, _ = reseed(
        "curate", config, "--curated", other.curated.directory, "--explain", "[bold]One"
    )
    assert (
        status == 0 and "[bold]One[/bold]" in out and "[link=http://a.b]" in " ".join(out.split())
    )
    assert "\x1b" not in out and "\x07" not in out


def test_nothing_was_curated_yet(data: Data, config: Path, reseed: Command) -> None:
    status, _, err = reseed("curate", config)
    assert status == 2 and "run `reseed retrain`" in err
    note(data, curated=data.home / "gone")
    status, _, err = reseed("curate", config, "--explain", "x")
    assert status == 2 and "does not exist any more" in err


def test_no_use_of_the_test_set_is_counted(data: Data, config: Path, reseed: Command) -> None:
    (data.sealed.directory / "test.jsonl").unlink()
    note(data)
    assert reseed("curate", config, "--explain", "tonight")[0] == 0
    assert not Workspace(data.home).test_set_uses(data.sealed.digest).parent.exists()


def test_the_probes_opinion_is_told_where_the_rows_were_ranked(data: Data) -> None:
    row = next(r for r in read_records(data.curated.directory / "kept.jsonl") if "pear" in r.text)
    ranked = filled(
        RankedRow, record=row, opinion="metal", probability=0.7, own=0.2, rank=3.5, near=(), like=()
    )

    def build(out: Path, scratch: Path) -> RankResult:
        atomic.write_lines(out / "rows.jsonl", [ranked.model_dump(mode="json")])
        return RankResult(rows=1, doubtful=1)

    inputs = {"curated": data.curated.digest}
    at = Workspace(data.home)
    run_stage(RankResult, "review", workspace=at, version=1, params={}, inputs=inputs, build=build)
    s = story(row.id, data)
    assert s.opinion == ProbeOpinion(label="metal", probability=0.7, own=0.2, rank=3.5)


def test_the_opinion_of_the_curation_itself(data: Data) -> None:
    row = next(r for r in read_records(data.curated.directory / "kept.jsonl") if "pear" in r.text)
    said = {"id": row.id, "own": 0.25, "label": "metal", "probability": 0.6}
    atomic.write_bytes(
        data.curated.directory / "opinions.jsonl", (json.dumps(said) + "\n").encode()
    )
    about = atomic.read_json(data.curated.directory / atomic.MANIFEST)
    atomic.seal(
        data.curated.directory,
        {k: about[k] for k in ("stage", "key", "inputs", "figures", "seconds")},
    )
    expected = ProbeOpinion(label="metal", probability=0.6, own=0.25, rank=None)
    assert story(row.id, data).opinion == expected

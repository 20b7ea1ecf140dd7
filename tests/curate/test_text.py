"""Checks of a text alone: markup, language, refusals, templates, echoes of the prompt, personal data."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.curate.checks.boilerplate import boilerplate, prompt_echo
from tasks.curate.checks.dropped_generator import dropped_generator
from tasks.curate.checks.language import language
from tasks.curate.checks.normalise import clean, normalise
from tasks.curate.checks.personal_data import personal_data, personal_data_kinds
from tasks.curate.checks.refusal import refusal
from tasks.curate.context import CurationContext
from tasks.errors import UserError
from tasks.project import Curate
from tasks.records import Record, Rejected
from tasks.text.fingerprints import Fingerprints
from tests.kit.rows import record, text


def context(real: list[Record] | None = None, **chosen: Any) -> CurationContext:
    return CurationContext(
        Curate(**chosen),
        Fingerprints.from_records([]),
        lambda texts: np.zeros((len(texts), 2)),
        real=real or [],
    )


def checks(rejected: list[Rejected]) -> list[str]:
    return [r.check for r in rejected]


@pytest.mark.parametrize(
    ("written", "cleaned"),
    [
        ("**Head** line", "Head line"),
        ("# Head\n\nbody ## here\n### Next ###\nend", "Head\nbody ## here\nNext\nend"),
        ("```python\nx = 1\n```\nafter", "x = 1\nafter"),
        (
            "see [the site](https://example.org/a?b=c) and ![a cat](/cat.png)",
            "see the site and a cat",
        ),
        ("an *emphatic* word, __two words__ and `code`", "an emphatic word, two words and code"),
        ("<p>One</p><p class='x'>Two<br/>three</p>", "One\nTwo\nthree"),
        ('a <b>bold</b> <a href="http://x.y">link</a>', "a bold link"),
        ("<style>p {x: y}</style>kept<!-- gone --><script type='a'>alert(1)</script>", "kept"),
        ("Tom &amp; Ann, &#163;5, 3 &lt; 4, &eacute;", "Tom & Ann, £5, 3 < 4, é"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("the cafÃ© said â€œnoâ€\x9d", "the café said “no”"),
        ("one\n---\ntwo\n***\nthree", "one\ntwo\nthree"),
    ],
)
def test_wrapping_is_taken_off(written: str, cleaned: str) -> None:
    assert clean(written) == cleaned


ORDINARY = [
    "a < b",
    "C++ and C#",
    "1 < 2 > 0",
    "snake_case and __init__",
    "R&D at AT&T",
    "2 * 3 * 4 = 24",
    "a*b*c",
    "x <y and z> w",
    "if a <b then c",
    "#1 in the charts",
    "f(x)[0](y)",
    "5 > 3 && 2 < 4;",
    "[sic] (he said)",
    "“quoted” ‘text’ – dash",
    "naïve café",
    "you & me; them",
    "~20% of it",
    "`",
    "5' 10\"",
    "rock 'n' roll",
    "- a point",
    "😀 ok",
    "http://a.b/c_d_e?f=g&h=i",
]


@given(st.lists(st.sampled_from(ORDINARY), min_size=1, max_size=6).map(" and ".join))
def test_ordinary_text_is_left_as_it_is(written: str) -> None:
    assert clean(written) == written


MARKED = st.lists(
    st.sampled_from(
        [
            *ORDINARY,
            "**",
            "*",
            "__",
            "`",
            "```\n",
            "# ",
            "\n",
            "<b>",
            "</b>",
            "<p>",
            "&amp;",
            "lt;",
            "&lt;",
            "Ã©",
        ]
    ),
    max_size=14,
).map("".join)


@settings(max_examples=400)
@given(MARKED)
def test_cleaning_twice_is_cleaning_once(written: str) -> None:
    assert clean(clean(written)) == clean(written)


def test_only_generated_texts_lose_their_markup() -> None:
    for source in ("seed", "reviewed", "harvested"):
        (kept,), _ = normalise([record("<p>a **b**  c</p>", source=source)], context())  # type: ignore[arg-type]
        assert kept.text == "<p>a **b** c</p>"
    assert normalise([record("a **b** c")], context())[0][0].text == "a b c"
    assert normalise([record("a **b** c")], context(strip_markup=False))[0][0].text == "a **b** c"


ENGLISH = "The council said on Tuesday that the new bridge over the river would be opened to traffic before the end of the year."
GERMAN = "Der Stadtrat teilte am Dienstag mit, dass die neue Brücke über den Fluss noch vor Ende des Jahres eröffnet werden soll."
FRENCH = "Le conseil municipal a annoncé mardi que le nouveau pont sur le fleuve serait ouvert avant la fin de l'année prochaine."
JAPANESE = "市議会は火曜日、川に架かる新しい橋が年内に開通する見通しだと発表した。工事は予定より早く進んでいる。"


def test_the_language_is_that_of_most_real_rows() -> None:
    rows = [record(t) for t in (ENGLISH, GERMAN, FRENCH, JAPANESE, "Ein kurzer Satz ist das")]
    real = [record(f"{GERMAN} {i}", source="dev") for i in range(9)] + [
        record(ENGLISH, source="dev")
    ]
    kept, rejected = language(rows, context(real))
    assert [r.text for r in kept] == [GERMAN, "Ein kurzer Satz ist das"]
    assert set(checks(rejected)) == {"language"} and "is en with probability" in rejected[0].reason


def test_without_real_rows_the_majority_is_right_and_a_mixture_is_not_judged() -> None:
    rows = [record(f"{i} {ENGLISH}") for i in range(8)] + [record(GERMAN)]
    kept, rejected = language(rows, context())
    assert kept == rows[:8] and rejected[0].record == rows[8]
    mixed = [record(t) for t in (ENGLISH, GERMAN, FRENCH, JAPANESE)]
    assert language(mixed, context()) == (mixed, [])
    assert language(rows, context(language="off")) == (rows, [])
    assert [r.text for r in language(mixed, context(language="fr"))[0]] == [FRENCH]


def test_real_rows_and_languages_that_look_alike_are_kept() -> None:
    seed = record(GERMAN, source="seed")
    assert language([seed], context(language="en")) == ([seed], [])
    danish = record(
        "Byrådet sagde tirsdag, at den nye bro over åen vil blive åbnet for trafik inden årets udgang i Danmark."
    )
    assert language([danish], context(language="no")) == ([danish], [])
    with pytest.raises(UserError, match=r"'xx'.*auto, off or one of"):
        language([seed], context(language="xx"))


STORY = "The council opened the bridge on Tuesday after two years of work. Traffic was light in the morning, police said."


@pytest.mark.parametrize(
    "refused",
    [
        f"{STORY} As an AI language model, I cannot verify these events.",
        "As a large language model, my knowledge of this is limited. The bridge was opened.",
        f"I'm sorry, but I can't write about real people in this way. {STORY.split('.')[0]}.",
        "The story of the bridge. Unfortunately, I cannot fulfill this request as it goes against my guidelines.",
        "I do not have access to real-time data on this match. Please check the club's site.",
        "My training data ends before this match was played and so the score is not known to me at all.",
    ],
)
def test_refusals_are_found_anywhere(refused: str) -> None:
    kept, (found,) = refusal([record(refused)], context())
    assert (
        kept == [] and found.check == "refusal" and found.value is not None and found.value >= 0.25
    )


@pytest.mark.parametrize(
    "told",
    [
        STORY,
        f'{STORY} "I cannot help you with that," the clerk told him, "I am sorry, I can\'t."',
        'The chatbot answered: "As an AI language model, I have no opinion." Its maker declined to comment on the reply.',
        "The minister said he was sorry but could not provide a date, as he was unable to speak about it before the vote.",
        f"{STORY} {STORY} I won't write more of this today, but I can't complain about the view from the new bridge.",
    ],
)
def test_what_people_say_is_no_refusal(told: str) -> None:
    assert refusal([record(told)], context()) == ([record(told)], [])


def varied(n: int, generator: str = "a", start: int = 0) -> list[Record]:
    return [record(text("own", i, 24), generator=generator) for i in range(start, start + n)]


def test_templates_of_a_generator_are_set_aside_where_they_are_most_of_the_text() -> None:
    frame = "in this article we will look at {} and then in the next part we will also learn why {} is so important"
    templated = [record(frame.format(f"thing{i}", f"thing{i}"), generator="a") for i in range(30)]
    touched = [
        record("at the end of the day it is " + text("tale", i, 24), generator="a")
        for i in range(30)
    ]
    rows = [*varied(200), *touched, *templated]
    kept, rejected = boilerplate(rows, context())
    assert [r.record for r in rejected] == templated and kept == [*varied(200), *touched]
    assert all(r.check == "boilerplate" and r.value is not None and r.value > 0.6 for r in rejected)
    assert boilerplate(rows, context(boilerplate=0.0)) == (rows, [])


def test_a_template_is_one_generator_s_and_real_rows_have_none() -> None:
    frame = "in this article we will look at {} and then in the next part we will also learn why"
    few = [
        record(frame.format(f"t{i}"), generator=f"g{i % 5}") for i in range(30)
    ]  # six rows of each generator
    assert boilerplate(few, context()) == (few, [])
    real = [record(frame.format(f"t{i}"), source="harvested") for i in range(30)]
    assert boilerplate(real, context()) == (real, [])


def test_a_text_that_repeats_its_prompt_or_an_example() -> None:
    prompt = "Write a short news story about mobile phones and the people who make them. Include a quote."
    seed = record(text("seed", 1, 30), source="seed")
    words = seed.text.split()
    shown: dict[str, Any] = {"prompt": prompt, "seeds": [seed.id]}
    rows = {
        "whole": record(f"{prompt} {text('tale', 1, 40)}", **shown),
        "most": record(
            "news story about mobile phones and the people who make them " + text("tale", 2, 6),
            **shown,
        ),
        "example": record(" ".join(words[:20]) + " " + text("tale", 3, 10), **shown),
        "phrase": record("a story about mobile phones and " + text("tale", 4, 30), **shown),
        "own": record(text("tale", 5, 30), **shown),
        "no lineage": record(text("tale", 6, 30)),
    }
    kept, rejected = prompt_echo([seed, *rows.values()], context())
    assert kept == [seed, rows["phrase"], rows["own"], rows["no lineage"]]
    assert [(r.record, r.other) for r in rejected] == [
        (rows["whole"], None),
        (rows["most"], None),
        (rows["example"], seed.id),
    ]
    assert set(checks(rejected)) == {"prompt_echo"}


PERSONAL = {
    "email": ["write to ann.lee+x@mail.example.co.uk today", "<joe@example.com>"],
    "phone": ["call +44 20 7946 0958 now", "ring (212) 555-2368 for it", "Tel: 020 7946 0958."],
    "card": ["card 4111 1111 1111 1111 exp", "5500-0000-0000-0004", "378282246310005"],
    "iban": ["IBAN GB82 WEST 1234 5698 7654 32", "DE89370400440532013000 please"],
    "ip": ["from 8.8.8.8 at noon", "host 2001:4860:4860::8888 up"],
    "secret": [
        "https://bob:hunter22@host/x",
        "https://h/x?access_token=abcdef123456",
        "AKIAIOSFODNN7EXAMPLE key",
    ],
}
NOTHING = [
    "In 2004-05 the club won 21-14, 28-3 and 10-7.",
    "Shares fell 1,234,567.89 to 4,111.50 on 12/11/2004 at 10.30",
    "Profits of $1.200.300 and £5,000,000 in 1999 2000 2001 2002",
    "the ratio 1.2.3 of version 1.2.3.4, and the server at 192.168.0.1 or 127.0.0.1",
    "order 1234 5678 9012 3456 was late; 0000 0000 0000 0000",
    "a 6-4 6-3 7-6 (7-5) win in 2 hours 14 minutes on 2004-11-21",
    "from 10:30:15 to 11:45:00; @someone said; see http://example.org/page?id=12345678&lang=en",
    "the BA2490 flight on 01.02.2005 cost 020 euros; ISBN 978-3-16-148410-0",
    "GB12 is a postcode of sorts; call 999 or 112",
]


@pytest.mark.parametrize(
    ("kind", "written"), [(kind, t) for kind, texts in PERSONAL.items() for t in texts]
)
def test_personal_data_is_recognised(kind: str, written: str) -> None:
    assert list(personal_data_kinds(written)) == [kind]


@pytest.mark.parametrize("written", NOTHING)
def test_figures_are_no_personal_data(written: str) -> None:
    assert list(personal_data_kinds(written)) == []


def test_personal_data_is_counted_and_never_told() -> None:
    rows = [
        record("write to ann@example.com or 8.8.8.8"),
        record("nothing"),
        record("joe@example.com", source="seed"),
    ]
    noted = context()
    assert personal_data(rows, noted) == (rows, []) and noted.personal_data == {"email": 2, "ip": 1}
    kept, (out,) = personal_data(rows, context(personal_data="reject"))
    assert kept == rows[1:] and out.record.text == "" and out.record.id == rows[0].id
    assert (
        "email, ip" in out.reason
        and "ann" not in str(out.to_json())
        and "8.8.8.8" not in str(out.to_json())
    )
    off = context(personal_data="off")
    assert personal_data(rows, off) == (rows, []) and not off.personal_data


def test_rows_of_dropped_generators() -> None:
    rows = [record(text("a", i), generator=f"g{i % 3}") for i in range(6)] + [
        record("real", source="seed")
    ]
    random.Random(0).shuffle(rows)
    kept, rejected = dropped_generator(rows, context(drop_generators=["g1"]))
    assert {r.lineage.get("generator") for r in kept} == {"g0", "g2", None} and len(kept) == 5
    assert set(checks(rejected)) == {"dropped_generator"} and "'g1'" in rejected[0].reason

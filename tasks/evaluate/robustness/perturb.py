"""Changes of a text that leave its label as it is, which a model should tolerate.

Each is drawn from the text's content hash, so it depends on neither other rows nor their order.
Typing errors after Belinkov and Bisk 2018 (arXiv:1711.02173), the others after CheckList (Ribeiro
et al. 2020, arXiv:2005.04118). All are approximate, and meant for texts in Latin letters:
docs/evaluation.md describes each.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence

from tasks.records import content_id
from tasks.text.tokens import split_words

TYPO_SHARE = 0.1  # of the words that are long enough
PEOPLE = ["Anna Kowalski", "David Okafor", "Maria Lindqvist", "Samuel Price", "Leila Haddad"]
PEOPLE += ["Tomas Novak"]
PLACES = ["Buenos Aires", "Cape Town", "New Haven", "Kuala Lumpur", "San Marino", "Addis Ababa"]
ORGANISATIONS = ["Northfield Group", "Harlow Institute", "Meridian Council", "Alder Association"]
ORGANISATIONS += ["Castle Trust"]
_ORGANISATION = re.compile(
    r"(?:Agency|Association|Bank|Club|Commission|Committee|Company|Corp|Council|Court|Department"
    r"|Federation|Group|Inc|Institute|Ltd|Office|Party|Society|Union|University)"
)
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTHS = ["January", "February", "April", "June", "July", "August", "September", "October"]
_MONTHS += ["November", "December"]  # March and May are other words too
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    letter: row[max(0, i - 1) : i] + row[i + 1 : i + 2]
    for row in _KEYBOARD
    for i, letter in enumerate(row)
}
_LONG_WORD = re.compile(r"[^\W\d_]{4,}")
_NAME = r"[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]\w*(?:-\w+)*"
_NAMES = re.compile(rf"\b{_NAME}(?: (?:(?:of|de|van|von) )?{_NAME})+")
_CALENDAR = re.compile(rf"\b(?:{'|'.join(_DAYS + _MONTHS)})\b")
_NUMBER = re.compile(r"(?<![\w.,])\d(?:[\d.,]*\d)?(?=(?:bn|m|k|p)?\b)")


def perturb(name: str, text: str, *, keep: Collection[str] = ()) -> str:
    """`text` under the perturbation `name`, one of PERTURBATIONS; unchanged where nothing applies.

    Never empty where the text is not. An entity with one of the words `keep`, in lower case, stays.
    """
    rng = random.Random(f"{name} {content_id(text)}")  # noqa: S311
    if name == "entities":
        return replace_entities(text, rng, keep=keep)
    return PERTURBATIONS[name](text, rng)


def add_typos(text: str, rng: random.Random) -> str:
    """A tenth of the words of four letters and more, at least one, with a typing error.

    A letter is replaced by its neighbour on an English keyboard, swapped with the next, or left
    out; never the first one.
    """
    long_words = list(_LONG_WORD.finditer(text))
    n = min(len(long_words), max(1, round(TYPO_SHARE * len(long_words))))
    for m in sorted(rng.sample(long_words, n), key=lambda m: -m.start()):
        text = text[: m.start()] + _mistype(m.group(), rng) + text[m.end() :]
    return text


def _mistype(word: str, rng: random.Random) -> str:
    i = rng.randrange(1, len(word) - 1)
    error = rng.choice(("neighbour", "swap", "drop"))
    neighbours = _NEIGHBOURS.get(word[i].lower(), "")
    if error == "neighbour" and neighbours:
        letter = rng.choice(neighbours)
        return word[:i] + (letter.upper() if word[i].isupper() else letter) + word[i + 1 :]
    if error == "swap" and word[i] != word[i + 1]:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return word[:i] + word[i + 1 :]


def change_case(text: str, rng: random.Random) -> str:
    """All in lower case, or all in capitals."""
    variants = [text.lower(), text.upper()]
    rng.shuffle(variants)
    return next((variant for variant in variants if variant != text), text)


def change_punctuation(text: str, rng: random.Random) -> str:
    """Without the marks between words (those within, as in don't and 3.5, stay), or with more.

    Marks are added after a tenth of the words, and at the end.
    """
    if rng.random() < 0.5:
        changed = "".join(c for i, c in enumerate(text) if not _is_mark(text, i))
        return changed if changed.strip() else text
    spread = re.sub(
        r"(?<=\w)(?= )",
        lambda _: rng.choice((",", " -", "...")) if rng.random() < 0.1 else "",
        text,
    )
    return spread.rstrip() + rng.choice(("!!!", "...", " ?!")) if text.strip() else text


def _is_mark(text: str, i: int) -> bool:
    """True for a punctuation mark that is not within a word or number."""
    within = 0 < i < len(text) - 1 and text[i - 1].isalnum() and text[i + 1].isalnum()
    return unicodedata.category(text[i]).startswith("P") and not within


def change_whitespace(text: str, rng: random.Random) -> str:
    """Spaces doubled, a fifth of them replaced by line breaks, or all by non-breaking spaces."""
    change = rng.choice(("double", "break", "no-break"))
    if change == "double":
        return text.replace(" ", "  ")
    if change == "no-break":
        return text.replace(" ", "\u00a0")
    spaces = [i for i, c in enumerate(text) if c == " "]
    broken = set(rng.sample(spaces, min(len(spaces), max(1, round(0.2 * len(spaces))))))
    return "".join("\n" if i in broken else c for i, c in enumerate(text))


def truncate(text: str, rng: random.Random) -> str:
    """The first half of the words."""
    found = split_words(text)
    end = 0
    for word in found[: len(found) // 2]:
        end = text.index(word, end) + len(word)
    return text[:end] if end else text


def replace_entities(text: str, rng: random.Random, *, keep: Collection[str] = ()) -> str:
    """Names, numbers, days and months replaced by others of their kind, a name always by the same.

    Approximate, without a model of names: a name is a run of capitalised words that does not begin
    a sentence; an organisation by its last word, a place after `in`, `at` or `near`, otherwise a
    person. Single words and names in capitals stay; a year keeps its century.
    """
    replaced: dict[str, str] = {}

    def rename(m: re.Match[str]) -> str:
        name, before = m.group(), text[: m.start()].rstrip(" ")
        begins = not before or before[-1] in ".!?:\"“”'‘\n"
        if begins or any(word.lower() in keep for word in name.split()):
            return name
        if name not in replaced:
            names = PLACES if before.split()[-1].lower() in {"in", "at", "near"} else PEOPLE
            names = ORGANISATIONS if _ORGANISATION.fullmatch(name.split()[-1]) else names
            replaced[name] = _choose_other(name, names, rng)
        return replaced[name]

    def redate(m: re.Match[str]) -> str:
        return _choose_other(m.group(), _DAYS if m.group() in _DAYS else _MONTHS, rng)

    changed = _CALENDAR.sub(redate, _NAMES.sub(rename, text))
    return _NUMBER.sub(lambda m: _renumber(m.group(), rng), changed)


def _choose_other(word: str, words: Sequence[str], rng: random.Random) -> str:
    return rng.choice([other for other in words if other != word])


def _renumber(number: str, rng: random.Random) -> str:
    if re.fullmatch(r"(?:19|20)\d\d", number):
        return f"{number[:2]}{rng.randrange(100):02}"
    digits = ("0123456789", "123456789")  # the first one is not 0
    return "".join(rng.choice(digits[i == 0]) if c.isdigit() else c for i, c in enumerate(number))


def negate(text: str, rng: random.Random) -> str:
    """The text after "It is not true that": its topic stays, its sentiment does not."""
    return f"It is not true that {text}" if text.strip() else text


PERTURBATIONS: dict[str, Callable[[str, random.Random], str]] = {
    "typos": add_typos,
    "casing": change_case,
    "punctuation": change_punctuation,
    "whitespace": change_whitespace,
    "truncation": truncate,
    "entities": replace_entities,
    "negation": negate,
}

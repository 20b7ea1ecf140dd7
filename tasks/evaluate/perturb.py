"""Changes of a text that leave its label as it is: what a model should not mind.

Each is drawn from the text's content hash, so it hangs on nothing else: neither on the other rows nor on their order. Typing
errors after Belinkov and Bisk 2018 (arXiv:1711.02173), the others after the perturbations of CheckList (Ribeiro et al. 2020,
arXiv:2005.04118). All are approximate, and for texts in Latin letters: docs/evaluation.md says what each does.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Collection

from tasks.records import content_id
from tasks.text.tokens import words

TYPO_SHARE = 0.1  # of the words that are long enough
_NEIGHBOURS = {
    letter: row[max(0, i - 1) : i] + row[i + 1 : i + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for i, letter in enumerate(row)
}
_LONG_WORD = re.compile(r"[^\W\d_]{4,}")

PEOPLE = (
    "Anna Kowalski",
    "David Okafor",
    "Maria Lindqvist",
    "Samuel Price",
    "Leila Haddad",
    "Tomas Novak",
)
PLACES = ("Buenos Aires", "Cape Town", "New Haven", "Kuala Lumpur", "San Marino", "Addis Ababa")
ORGANISATIONS = (
    "Northfield Group",
    "Harlow Institute",
    "Meridian Council",
    "Alder Association",
    "Castle Trust",
)
_KINDS = {
    "Agency",
    "Association",
    "Bank",
    "Club",
    "Commission",
    "Committee",
    "Company",
    "Corp",
    "Council",
    "Court",
}
_KINDS |= {
    "Department",
    "Federation",
    "Group",
    "Inc",
    "Institute",
    "Ltd",
    "Office",
    "Party",
    "Society",
    "Union",
}
_KINDS |= {"University"}
_NAME = r"[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]\w*(?:-\w+)*"
_RUN = re.compile(rf"\b{_NAME}(?: (?:(?:of|de|van|von) )?{_NAME})+")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January",
    "February",
    "April",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_CALENDAR = re.compile(rf"\b(?:{'|'.join(_DAYS + _MONTHS)})\b")
_NUMBER = re.compile(r"(?<![\w.,])\d(?:[\d.,]*\d)?(?=(?:bn|m|k|p)?\b)")


def perturbed(name: str, text: str, *, keep: Collection[str] = ()) -> str:
    """`text` under the perturbation `name`, one of PERTURBATIONS; the text itself where there is nothing to change.

    Never empty where the text is not. `keep` are words in lower case, such as those of the labels: an entity with one of them
    stays.
    """
    rng = random.Random(f"{name} {content_id(text)}")  # noqa: S311
    return entities(text, rng, keep=keep) if name == "entities" else PERTURBATIONS[name](text, rng)


def typos(text: str, rng: random.Random) -> str:
    """A tenth of the words of four letters and more, at least one, with a letter replaced by its neighbour on an English
    keyboard, swapped with the next one, or left out; never the first letter."""
    found = list(_LONG_WORD.finditer(text))
    chosen = rng.sample(found, min(len(found), max(1, round(TYPO_SHARE * len(found)))))
    for m in sorted(chosen, key=lambda m: -m.start()):
        text = text[: m.start()] + _mistyped(m.group(), rng) + text[m.end() :]
    return text


def _mistyped(word: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(word) - 1)
    how = rng.choice(("neighbour", "swap", "drop"))
    near = _NEIGHBOURS.get(word[at].lower(), "")
    if how == "neighbour" and near:
        letter = rng.choice(near)
        return word[:at] + (letter.upper() if word[at].isupper() else letter) + word[at + 1 :]
    if how == "swap" and word[at] != word[at + 1]:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :]


def casing(text: str, rng: random.Random) -> str:
    """All in lower case, or all in capitals."""
    found = [text.lower(), text.upper()]
    rng.shuffle(found)
    return next((changed for changed in found if changed != text), text)


def punctuation(text: str, rng: random.Random) -> str:
    """Without the marks between words (those within, as in don't and 3.5, stay), or with more: after a tenth of the words,
    and at the end."""
    if rng.random() < 0.5:
        last = len(text) - 1
        changed = "".join(
            c
            for i, c in enumerate(text)
            if not unicodedata.category(c).startswith("P")
            or (0 < i < last and text[i - 1].isalnum() and text[i + 1].isalnum())
        )
        return changed if changed.strip() else text
    spread = re.sub(
        r"(?<=\w)(?= )",
        lambda _: rng.choice((",", " -", "...")) if rng.random() < 0.1 else "",
        text,
    )
    return spread.rstrip() + rng.choice(("!!!", "...", " ?!")) if text.strip() else text


def whitespace(text: str, rng: random.Random) -> str:
    """Spaces doubled, a fifth of them replaced by line breaks, or all by non-breaking spaces."""
    how = rng.choice(("double", "break", "no-break"))
    if how == "double":
        return text.replace(" ", "  ")
    if how == "no-break":
        return text.replace(" ", "\u00a0")
    spaces = [i for i, c in enumerate(text) if c == " "]
    broken = set(rng.sample(spaces, min(len(spaces), max(1, round(0.2 * len(spaces))))))
    return "".join("\n" if i in broken else c for i, c in enumerate(text))


def truncation(text: str, rng: random.Random) -> str:
    """The first half of the words."""
    own = words(text)
    end = 0
    for word in own[: len(own) // 2]:
        end = text.index(word, end) + len(word)
    return text[:end] if end else text


def entities(text: str, rng: random.Random, *, keep: Collection[str] = ()) -> str:
    """Runs of capitalised words that do not begin a sentence replaced by other names of what seems their kind, the same name
    by the same; digits of numbers, dates and amounts by others (a year keeps its century); days and months by others.

    Approximate: no model of names, so a run is an organisation by its last word, a place after `in`, `at` or `near`, and
    otherwise a person; single words and names in capitals stay.
    """
    known: dict[str, str] = {}

    def run(m: re.Match[str]) -> str:
        before = text[: m.start()].rstrip(" ")
        own = m.group().split()
        if not before or before[-1] in ".!?:\"“”'‘\n" or any(w.lower() in keep for w in own):
            return m.group()
        if m.group() not in known:
            place = before.split()[-1].lower() in {"in", "at", "near"}
            names = ORGANISATIONS if own[-1] in _KINDS else PLACES if place else PEOPLE
            known[m.group()] = rng.choice([name for name in names if name != m.group()])
        return known[m.group()]

    text_ = _RUN.sub(run, text)
    text_ = _CALENDAR.sub(
        lambda m: _another(m.group(), _DAYS if m.group() in _DAYS else _MONTHS, rng), text_
    )
    return _NUMBER.sub(lambda m: _renumbered(m.group(), rng), text_)


def _another(word: str, others: tuple[str, ...], rng: random.Random) -> str:
    return rng.choice([other for other in others if other != word])


def _renumbered(number: str, rng: random.Random) -> str:
    if re.fullmatch(r"(?:19|20)\d\d", number):
        return f"{number[:2]}{rng.randrange(100):02}"
    digits = [
        rng.choice("123456789" if i == 0 else "0123456789") if c.isdigit() else c
        for i, c in enumerate(number)
    ]
    return "".join(digits)


def negation(text: str, rng: random.Random) -> str:
    """The text after "It is not true that": its topic is the same, its sentiment is not."""
    return f"It is not true that {text}" if text.strip() else text


PERTURBATIONS: dict[str, Callable[[str, random.Random], str]] = {
    "typos": typos,
    "casing": casing,
    "punctuation": punctuation,
    "whitespace": whitespace,
    "truncation": truncation,
    "entities": entities,
    "negation": negation,
}

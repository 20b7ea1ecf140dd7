"""Find personal data and secrets in texts. Their kinds are reported, never the data."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import replace

from tasks.curate.context import CurationContext
from tasks.records import Partition, Record, Rejected, partition

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w@])")
_CARD = re.compile(
    r"(?<![\d.,-])[3-6]\d{3}(?:([ -]?)\d{4}\1\d{4}\1\d{1,4}|[ -]?\d{6}[ -]?\d{5})(?![\d.,-]*\d)"
)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_IP = re.compile(
    r"(?<![\w.:-])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4})(?![\w:-]|\.\d)"
)
_VERSION = re.compile(r"(?:version|release|firmware|v|build)[\s.:]*$", re.IGNORECASE)
_SECRET = re.compile(
    r"[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@]+@|"
    r"[?&#](?:[a-z_-]*(?:token|secret|passw(?:or)?d|apikey|api_key|access_key|signature)|key|sig|pwd)=[^\s&#]{6,}|"
    r"\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}\b|\bsk-[A-Za-z0-9_-]{20,}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----",
    re.IGNORECASE,
)
_PHONE = re.compile(r"(?:\+|\(?\b0|\b1[ .-]|\(\d{3}\)|\b\d{3}[ .-]\d{3}[ .-]\d{4})[\d ().-]{6,}\d")
_REGIONS = ("US", "GB")  # whose national numbers are read besides international ones


def personal_data(records: list[Record], context: CurationContext) -> Partition:
    """All rows, with the kinds of personal data counted; or those without any (`curate.personal_data`).

    A rejected row loses its text, so that the data is stored nowhere.
    """
    mode = context.settings.personal_data
    if mode == "off":
        return records, []

    def check(r: Record) -> Rejected | None:
        kinds = list(personal_data_kinds(r.text))
        context.personal_data.update(kinds)
        if not kinds or mode != "reject" or r.is_human_labelled:
            return None
        reason = f"it holds personal data ({', '.join(kinds)}; curate.personal_data)"
        return Rejected(replace(r, text=""), "personal_data", reason, len(kinds))

    return partition(records, check)


def personal_data_kinds(text: str) -> Iterator[str]:
    """The kinds of personal data in a text: email, phone, card, iban, ip, secret."""
    if "@" in text and _EMAIL.search(text):
        yield "email"
    if _SECRET.search(text):
        yield "secret"
    if not any(map(str.isdigit, text)):
        return
    for kind, holds in (("card", _has_card), ("iban", _has_iban), ("ip", _has_address)):
        if holds(text):
            yield kind
            return  # its digits would pass for a telephone number
    if _has_phone(text):
        yield "phone"


def _has_card(text: str) -> bool:
    from stdnum import luhn

    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn.is_valid(digits):
            return True
    return False


def _has_iban(text: str) -> bool:
    from stdnum import iban

    return any(iban.is_valid(match[0]) for match in _IBAN.finditer(text))


def _has_address(text: str) -> bool:
    for match in _IP.finditer(text):
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            continue
        # private and documentation ranges are nobody's; four numbers after `version` are a version
        if address.is_global and not _VERSION.search(text[: match.start()]):
            return True
    return False


def _has_phone(text: str) -> bool:
    if not _PHONE.search(text):
        return False
    from phonenumbers import Leniency, PhoneNumberMatcher

    if "+" in text and next(iter(PhoneNumberMatcher(text, None, leniency=Leniency.VALID)), None):
        return True
    # a national number must be grouped as its country does: a run of digits may be anything
    return any(
        re.search(r"\d[ .()-]+\d", match.raw_string) and not re.search(r"\d[.]\d", match.raw_string)
        for region in _REGIONS
        for match in PhoneNumberMatcher(text, region, leniency=Leniency.STRICT_GROUPING)
    )

"""Nothing identifying leaves: keyed hashes, capped ages, and rules that scrub free text."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from medcl.foundation.errors import UserError
from medcl.foundation.files import write_whole

KEY_BYTES = 32
ID_DIGITS = 20
AGE_CAP = 89


class Hasher:
    """HMAC-SHA256 with this data set's own key: without the key nobody can test a guess."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, purpose: str, *parts: str) -> str:
        """20 hexadecimal digits for an identifier; equal parts give equal digits only within one purpose."""
        message = "\0".join([purpose, *parts]).encode("utf-8", "surrogateescape")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:ID_DIGITS]


def make_private(folder: Path) -> Path:
    """Make DATA/private with mode 0700, the only place where identifiers may be."""
    private = Path(folder) / "private"
    private.mkdir(parents=True, exist_ok=True)
    os.chmod(private, 0o700)
    return private


def keep_or_make_key(private: Path, key: bytes | None = None) -> bytes:
    """The key of this folder: the one given, else the one that is there, else 32 fresh random bytes."""
    path = private / "key"
    if key is None and path.is_file():
        key = path.read_bytes()
    key = key or secrets.token_bytes(KEY_BYTES)
    if len(key) < 16:
        raise UserError(f"{path}: a key needs at least 16 bytes, this one has {len(key)}; delete it to have a new one made")
    content = key
    write_whole(path, lambda partial: _write_secret(partial, content))
    return key


def _write_secret(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)


def cap_age(years: float | None) -> float | None:
    """Ages above 89 become 89; nonsense becomes unknown."""
    if years is None or not 0 <= years <= 150:
        return None
    return min(round(float(years), 1), float(AGE_CAP))


_MONTHS = (
    "(?:(?i:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
    "|May|MAY)"
)
_TITLES = r"Dr|Drs|Prof|Professor|Mr|Mrs|Ms|Miss|Doctor|Herr|Frau|Dott|Sr|Sra|Mme|Mlle"
_NAME = r"(?:[A-ZÀ-Þ][\w'’-]+|[A-ZÀ-Þ]\.)"
_NAMES = rf"(?:{_NAME}\s?){{1,3}}"
_PARTICLE = r"(?:(?:van|von|de|der|den|da|di|del|la|le)\s+){0,2}"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_ID_WORDS = r"MRN|PID|ID|acc(?:ession)?|patient\s+(?:id|no|number)|exam\s+(?:id|no|number)"
_STREETS = r"Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Boulevard|Blvd"
# Order matters: addresses before numbers, dates before phone numbers, phone numbers before bare long numbers.
RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("url", re.compile(r"\b(?:https?://|www\.)\S+", re.I)),
    ("email", re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")),
    ("date", re.compile(r"\b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}\b")),
    ("date", re.compile(rf"\b{_DAY}([-/.]){_DAY}\1(?:\d{{4}}|\d{{2}})\b(?!\.\d)")),
    ("date", re.compile(rf"\b{_MONTHS}\.?\s+\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s+\d{{4}})?\b")),
    ("date", re.compile(rf"\b\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTHS}\b\.?(?:,?\s+\d{{4}})?")),
    ("date", re.compile(rf"\b{_MONTHS}\.?,?\s+(?:19|20)\d{{2}}\b")),
    ("date", re.compile(r"\b(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\b")),
    ("id", re.compile(r"\b(?:\d+\.){4,}\d+\b")),
    ("id", re.compile(rf"\b(?:{_ID_WORDS})\s*(?:no\.?|number)?\s*[:#=]\s*[A-Z]{{0,4}}-?\d[\w-]*", re.I)),
    ("id", re.compile(rf"\b(?:{_ID_WORDS})\s+[A-Z]{{0,4}}-?\d{{4,}}\b", re.I)),
    ("phone", re.compile(r"\b(?:tel|phone|fax|call|pager|ext)\b\.?:?\s*\+?\(?\d[\d\s().-]{3,}\d", re.I)),
    ("phone", re.compile(r"\+\d{1,3}[\s.-]?(?:\(?\d{1,5}\)?[\s.-]?){2,5}\d{2,}")),
    ("phone", re.compile(r"\(\d{2,5}\)\s?\d{3,4}[\s.-]?\d{2,5}\b|\b\d{3}[\s.-]\d{3,4}[\s.-]\d{4}\b|\b0\d{2,4}[-/\s]\d{5,8}\b")),
    ("id", re.compile(r"\b[A-Z]{0,4}-?\d{6,}\b")),
    ("name", re.compile(rf"\b(?:{_TITLES})\b\.?\s+{_PARTICLE}{_NAME}(?:\s+{_PARTICLE}{_NAME}){{0,2}}")),
    ("name", re.compile(rf"(?<=[Dd]ictated by ){_NAMES}|(?<=[Ss]igned by ){_NAMES}|(?<=[Pp]atient name: ){_NAMES}")),
    ("address", re.compile(rf"\b\d{{1,5}}\s+(?:{_NAME}\s+){{1,3}}(?:{_STREETS})\b\.?")),
)


def scrub(text: str, known: Iterable[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Replace what identifies by `[date]`, `[name]`, ...; `known`: words of this patient's own header.

    Returns the text and the sorted kinds found. Rules miss things: the kinds found are flags for a person to review.
    """
    found: set[str] = set()
    for word in sorted({word for word in known if len(word) >= 3}, key=len, reverse=True):
        text, hits = re.subn(rf"(?<!\w){re.escape(word)}(?!\w)", "[name]", text, flags=re.I)
        if hits:
            found.add("name")
    for kind, pattern in RULES:
        text, hits = pattern.subn(f"[{kind}]", text)
        if hits:
            found.add(kind)
    return text, tuple(sorted(found))

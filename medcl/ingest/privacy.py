"""Nothing identifying leaves: keyed hashes, days instead of dates, capped ages."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from medcl.foundation.errors import UserError
from medcl.foundation.files import make_folder, write_whole

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
    make_folder(private)
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


def study_days(visits: Sequence[tuple[str, str]]) -> list[int | None]:
    """Days from each patient's first study, of (patient, study date) pairs; None where a date is not one."""
    dates = [day_of(date) for _, date in visits]
    first: dict[str, int] = {}
    for (patient, _), day in zip(visits, dates, strict=True):
        if day is not None:
            first[patient] = min(day, first.get(patient, day))
    return [None if day is None else day - first[patient] for (patient, _), day in zip(visits, dates, strict=True)]


def day_of(text: str) -> int | None:
    """The day's number of a date written as 20240131, 2024-01-31, 2024/01/31, 31.01.2024 or January 31, 2024; None for any other.

    Dates whose day and month cannot be told apart (3/4/2021) are no dates.
    """
    for form in ("%Y%m%d", "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%d %b %Y"):
        with suppress(ValueError):
            return datetime.strptime(text[:10] if form == "%Y-%m-%d" else text, form).date().toordinal()
    return None

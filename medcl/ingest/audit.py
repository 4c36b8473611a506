"""`medcl ingest --audit-privacy`: looks through any folder of artefacts for the identifiers that a DATA folder's private/ knows."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from medcl.foundation.errors import UserError
from medcl.foundation.progress import Progress, Silent
from medcl.ingest import manifest
from medcl.ingest.identifiers import can_be_looked_for, words_of_medcl
from medcl.ingest.layers import layers
from medcl.ingest.privacy import day_of

_HEAD = 4  # bytes by which places worth a closer look are found
_CHUNK = 2**24
_WHOLE_BELOW = 8  # shorter identifiers, and those of digits alone, count only where no letter or digit touches them


@dataclass(frozen=True)
class Needle:
    """One identifier to look for. words: bytes in lower case, one for each way of writing it."""

    fingerprint: str
    kind: str
    words: tuple[bytes, ...]
    whole: bool


@dataclass(frozen=True)
class Leak:
    """An identifier where it must not be. file: relative to the folder, identifiers in it masked."""

    file: str
    kind: str
    fingerprint: str
    how: str
    places: int


@dataclass(frozen=True)
class Audit:
    """What was looked through, what for, and what was found. unseen: identifiers too short or too plain to look for."""

    folder: Path
    files: int
    identifiers: int
    unseen: int
    leaks: tuple[Leak, ...]

    @property
    def lines(self) -> list[str]:
        """What a person sees: never an identifier itself."""
        lines = [f"{self.folder}: {self.files} files looked through for {self.identifiers} identifiers"]
        if self.unseen:
            lines.append(f"{self.unseen} more are too short or too plain a word to be told from other text")
        lines += [f"LEAK {leak.file}: {leak.kind} {leak.fingerprint} ({leak.how}, {leak.places} places)" for leak in self.leaks]
        return [*lines, f"{len(self.leaks)} leaks" if self.leaks else "no leak found"]

    @property
    def counts(self) -> dict[str, Any]:
        """The same for `--json`."""
        leaks = [vars(leak) for leak in self.leaks]
        return {"files": self.files, "identifiers": self.identifiers, "unseen": self.unseen, "leaks": leaks}


def audit_privacy(folder: str | Path, data: str | Path, progress: Progress | None = None) -> Audit:
    """Look through every file under `folder`, its name included; `private` folders of medcl and links are left out.

    data: the DATA folder (or what convert wrote) whose private/identifiers.parquet says what to look for. Raises
    UserError where either is missing.
    """
    folder, progress = Path(folder), progress or Silent()
    if not folder.exists():
        raise UserError(f"{folder}: no such folder (given as --audit-privacy)")
    needles, unseen = _needles(Path(data))
    finder = Finder(needles)
    paths = list(_artefacts(folder))
    leaks: list[Leak] = []
    for path in progress.track(paths, len(paths), "auditing"):
        leaks += leaks_of(path, folder, finder)
    return Audit(folder, len(paths), len(needles), unseen, tuple(leaks))


def _needles(data: Path) -> tuple[list[Needle], int]:
    path = data / manifest.IDENTIFIERS
    if not path.is_file():
        raise UserError(
            f"{path}: missing; --out names the DATA folder whose identifiers to look for, run `medcl ingest` again if it is old"
        )
    frame = manifest.read_table(path)
    vocabulary = words_of_medcl()
    rows = list(zip(frame["fingerprint"], frame["kind"], frame["value"], strict=True))
    needles = [needle(*row) for row in rows if can_be_looked_for(row[1], row[2], vocabulary)]
    return needles, len(rows) - len(needles)


def needle(fingerprint: str, kind: str, value: str) -> Needle:
    """The ways in which an identifier may be written: any case, UTF-8, Latin-1, JSON's escapes, a date in any order."""
    forms = {value, value.lower(), value.upper(), value.title()}
    day = day_of(value) if kind == "date" else None
    if day is not None:
        forms |= _ways_to_write(date.fromordinal(day))
    written = {form.encode("utf-8", "surrogateescape") for form in forms} | {json.dumps(form)[1:-1].encode() for form in forms}
    written |= {form.encode("latin-1", "ignore") for form in forms if not form.isascii()}
    words = tuple(sorted({one.lower() for one in written if len(one) >= _HEAD}))
    digits = value.replace(".", "").isdigit()
    return Needle(fingerprint, kind, words, whole=digits or day is not None or len(value) < _WHOLE_BELOW or value.isalpha())


def _ways_to_write(day: date) -> set[str]:
    """20210304, 2021-03-04, 04.03.2021, 03/04/2021, 4.3.2021, 3/4/2021, with any of three dashes."""
    year, full, short = f"{day.year:04}", (f"{day.month:02}", f"{day.day:02}"), (f"{day.month}", f"{day.day}")
    orders = [(year, *full), (full[1], full[0], year), (*full, year), (short[1], short[0], year), (*short, year)]
    return {"".join((year, *full))} | {dash.join(order) for order in orders for dash in "-./"}


class Finder:
    """All needles looked for at once: by a table of their last four bytes, then one by one where that table says so."""

    def __init__(self, needles: Iterable[Needle]) -> None:
        self._ending: dict[int, list[tuple[bytes, Needle]]] = defaultdict(list)
        for one in needles:
            for word in one.words:
                self._ending[int.from_bytes(word[-_HEAD:], "little")].append((word, one))
        self._known = np.array(sorted(self._ending), dtype=np.uint32)
        self._may = np.zeros(2**16, dtype=bool)
        self._may[_short(self._known)] = True
        self._longest = max((len(word) for pairs in self._ending.values() for word, _ in pairs), default=0)

    def found(self, content: bytes) -> Counter[Needle]:
        """How often each needle occurs."""
        counts: Counter[Needle] = Counter()
        for start in range(0, len(content), _CHUNK):
            # A needle counts in the chunk in which it ends; the bytes before and after the chunk are there to compare.
            before = max(0, start - self._longest - 1)
            window = content[before : start + _CHUNK + 1].lower()
            for end in self._ends(window):
                if start < before + end <= start + _CHUNK:
                    counts.update(one for word, one in self._at(window, end) if _fits(window, word, end, one.whole))
        return counts

    def _ends(self, window: bytes) -> list[int]:
        if len(window) < _HEAD or not len(self._known):
            return []
        values = np.frombuffer(window, dtype=np.uint8).astype(np.uint32)
        last = values[:-3] | values[1:-2] << 8 | values[2:-1] << 16 | values[3:] << 24
        places = np.flatnonzero(self._may[_short(last)])
        return (places[np.isin(last[places], self._known)] + _HEAD).tolist()

    def _at(self, window: bytes, end: int) -> list[tuple[bytes, Needle]]:
        return self._ending[int.from_bytes(window[end - _HEAD : end], "little")]


def _short(values: np.ndarray) -> np.ndarray:
    return (values * np.uint32(2654435761)) >> np.uint32(16)


def _fits(window: bytes, word: bytes, end: int, whole: bool) -> bool:
    start = end - len(word)
    if start < 0 or window[start:end] != word:
        return False
    return not whole or not (window[max(0, start - 1) : start].isalnum() or window[end : end + 1].isalnum())


def _artefacts(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not (name == "private" and os.path.isfile(os.path.join(here, name, "key"))))
        paths = (Path(here) / name for name in sorted(names))
        yield from (path for path in paths if path.is_file() and not path.is_symlink())


def leaks_of(path: Path, folder: Path, finder: Finder) -> Iterator[Leak]:
    """What one file under `folder` holds of what the finder knows, its name included."""
    name = str(path.relative_to(folder)) if path != folder else path.name
    shown, found = name, {("name", one): count for one, count in finder.found(os.fsencode(name)).items()}
    for _, one in found:
        shown = _masked(shown, one)
    for how, content in layers(path.read_bytes()):
        for one, count in finder.found(content).items():
            if how != "wide characters" or ("plain", one) not in found:
                found[how, one] = found.get((how, one), 0) + count
    for (how, one), count in sorted(found.items(), key=lambda pair: (pair[0][1].kind, pair[0][1].fingerprint, pair[0][0])):
        yield Leak(shown, one.kind, one.fingerprint, how, count)


def _masked(name: str, one: Needle) -> str:
    for word in sorted(one.words, key=len, reverse=True):
        name = re.sub(re.escape(word.decode("utf-8", "replace")), f"[{one.kind}]", name, flags=re.IGNORECASE)
    return name

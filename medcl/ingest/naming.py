"""Which rows of a table name which file: by its place, else by as much of its path as both have, and never where two files would fit."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from medcl.ingest.hints import NIFTI_SUFFIXES, is_mask_name, stem_of

_SUFFIXES = (*NIFTI_SUFFIXES, ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".ima", ".npz")


class FileNames:
    """The file column of a table.

    A path that leads to a file, seen from the table, names this file (or all in this folder) and no other. Any other one is
    compared from its end: `images/p1/a.png` is the row of `/data/p1/a.png` rather than of `/data/p2/a.png`, and a bare
    `a.png` is the row of neither where both were met. The same without suffixes where no row has the file's own name.
    """

    def __init__(self, values: Sequence[str], folder: Path) -> None:
        """values: the column, a cell per row. folder: where paths in it begin."""
        self._rows: dict[str, list[int]] = defaultdict(list)
        self._by_place: dict[str, list[int]] = defaultdict(list)
        self._named, self._stemmed = _Ends(), _Ends()
        for row, value in enumerate(values):
            if not value:
                continue
            place = os.path.realpath(folder / value)
            self._by_place[place].append(row)
            if not os.path.exists(place):
                plain = _slashes(value)
                if plain not in self._rows:
                    self._named.add(plain, plain)
                    self._stemmed.add(_without_suffix(plain), plain)
                self._rows[plain].append(row)

    def meet(self, paths: Iterable[str]) -> None:
        """Say which files there are. Masks do not count: one may be called as its image is."""
        for path in paths:
            stem, suffix = _stem_and_suffix(path)
            if (self._named.has(path) or self._stemmed.has(stem)) and not is_mask_name(path):
                self._named.meet(path, "")
                self._stemmed.meet(stem, suffix)

    def rows(self, path: str) -> list[int]:
        """The rows of one of the files."""
        full = os.path.realpath(path)
        for place in (full, os.path.dirname(full)):
            if place in self._by_place:
                return self._by_place[place]
        value = self._named.of(path, "") if self._named.has(path) else self._stemmed.of(*_stem_and_suffix(path))
        return self._rows[value] if value else []


class _Ends:
    """Values by each of their ends (`a.png`, `p1/a.png`, ...), and how many files have such an end."""

    def __init__(self) -> None:
        self._values: dict[str, set[str]] = defaultdict(set)
        self._whole: dict[str, str] = {}
        self._files: Counter[tuple[str, str]] = Counter()

    def add(self, form: str, value: str) -> None:
        """form: the value as files are to be compared with it."""
        self._whole[value] = form
        for end in _ends(form):
            self._values[end].add(value)

    def has(self, path: str) -> bool:
        """Whether a value has this file's name."""
        return os.path.basename(path) in self._values

    def meet(self, path: str, suffix: str) -> None:
        """Files of different suffixes are one thing in two formats."""
        for end in _ends(path):
            if end not in self._values:
                return
            self._files[end, suffix] += 1

    def of(self, path: str, suffix: str) -> str:
        """The value that names this file; empty where there is none, or where several values or files fit as well."""
        longest = ""
        for end in _ends(path):
            if end not in self._values:
                break
            longest = end
        if not longest or len(self._values[longest]) > 1:
            return ""
        (value,) = self._values[longest]
        whole = self._whole[value]
        if longest == whole and "/" in whole:
            return value
        nearer = sum(self._files[end, suffix] for end in _ends(whole) if len(end) > len(longest))
        return value if self._files[longest, suffix] <= 1 and not nearer else ""


def _ends(path: str) -> Iterator[str]:
    """The ends of a path, the shortest first."""
    parts = [part for part in path.split("/") if part]
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[-count:])


def _slashes(path: str) -> str:
    return os.path.normpath(path.replace("\\", "/")).lstrip("/")


def _without_suffix(value: str) -> str:
    """`1.2.840.1` has no suffix: what follows its last dot is a part of the name."""
    lower = value.lower()
    return next((value[: -len(suffix)] for suffix in _SUFFIXES if lower.endswith(suffix)), value)


def _stem_and_suffix(path: str) -> tuple[str, str]:
    folder, name = os.path.split(path)
    stem = stem_of(name)
    return f"{folder}/{stem}", name[len(stem) :]

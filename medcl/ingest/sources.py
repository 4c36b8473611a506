"""Every file that the user's folders, files and globs lead to, and what kind of file each is by its first bytes."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medcl.foundation.errors import UserError
from medcl.ingest.hints import NIFTI_SUFFIXES
from medcl.ingest.journal import JOURNAL, key_of
from medcl.ingest.ledger import Fate

HEAD_BYTES = 352
_NIFTI_MAGIC = (b"n+1\0", b"ni1\0")
_KINDS_BY_NAME = {
    "npz": (".npz",),
    "table": (".csv", ".tsv"),
    "other": (".txt", ".json", ".yaml", ".yml", ".md", ".html", ".xml", ".xlsx", ".pdf", ".py"),
    "dicom": (".dcm", ".ima"),
}
_PICTURE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")


@dataclass(frozen=True, slots=True)
class Met:
    """One file: where it is, its path relative to its source (the private name of the file), and its kind.

    size, changed_ns: as the file system says; a file in which either differs is another file.
    """

    path: str
    relative: str
    kind: str
    size: int = 0
    changed_ns: int = 0

    @property
    def key(self) -> str:
        """What its result is kept under, see Journal."""
        return key_of(self.path, self.relative, str(self.size), str(self.changed_ns))


@dataclass(frozen=True)
class Survey:
    """All files met, in a fixed order; `fates` are those that need no reading."""

    files: tuple[Met, ...]
    fates: tuple[Fate, ...]


def survey(sources: Sequence[str | Path]) -> Survey:
    """Find every file, in an order that does not depend on the file system.

    Raises UserError for a source that does not exist or a glob that matches nothing.
    """
    roots = [root for source in sources for root in _roots(str(source))]
    names = _distinct_names(roots)
    files: list[Met] = []
    fates: list[Fate] = []
    seen: set[str] = set()
    for root, name in zip(roots, names, strict=True):
        # Links last: where a file is met by its own name and by a link, its own name counts.
        for path in sorted(_walk(root), key=os.path.islink):
            relative = os.path.join(name, os.path.relpath(path, root if root.is_dir() else root.parent))
            kind = _kind_or_fate(path, root, seen)
            if isinstance(kind, Fate):
                fates.append(kind)
            else:
                facts = os.stat(path)
                files.append(Met(sys.intern(path), relative, kind, facts.st_size, facts.st_mtime_ns))
    return Survey(tuple(files), tuple(fates))


def _roots(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.exists():
        return [path.absolute()]
    if glob.has_magic(source):
        found = sorted(glob.glob(str(path), recursive=True))
        if not found:
            raise UserError(f"{source}: the pattern matches no file; quote it, and check the folder it starts in")
        return [Path(one).absolute() for one in found]
    raise UserError(f"{source}: no such file or folder")


def _distinct_names(roots: list[Path]) -> list[str]:
    """A prefix for relative paths, empty unless several sources are given (their files may share names)."""
    folders = [root if root.is_dir() else root.parent for root in roots]
    if len(set(folders)) <= 1:
        return [""] * len(roots)
    common = os.path.commonpath([str(folder) for folder in folders])
    return ["" if str(folder) == common else os.path.relpath(folder, common) for folder in folders]


def _walk(root: Path) -> Iterator[str]:
    """Every file below, and the folders into which nobody looks: links, and those that may not be opened."""
    if not root.is_dir():
        yield str(root)
        return
    closed: list[str] = []
    for folder, folders, names in os.walk(root, followlinks=False, onerror=lambda error: closed.append(str(error.filename))):
        # What ingest wrote itself is no scan: a DATA folder may lie among its sources, and one of a killed ingest has no key yet.
        folders[:] = sorted(name for name in folders if not _is_ours(os.path.join(folder, name, "private")))
        for name in sorted(names):
            yield os.path.join(folder, name)
        yield from (path for path in (os.path.join(folder, name) for name in folders) if os.path.islink(path))
    yield from closed


def _is_ours(private: str) -> bool:
    return any(os.path.isfile(os.path.join(private, name)) for name in ("key", JOURNAL))


def _kind_or_fate(path: str, root: Path, seen: set[str]) -> str | Fate:
    real = os.path.realpath(path)
    if real in seen:
        return Fate(path, "same_file")
    inside = os.path.realpath(root if root.is_dir() else root.parent)
    if os.path.islink(path) and root.is_dir() and os.path.commonpath([real, inside]) != inside:
        return Fate(path, "link_outside")
    if os.path.isdir(real):
        return Fate(path, "same_file" if os.path.islink(path) else "no_permission")
    if not os.path.isfile(real):
        return Fate(path, "not_an_image")
    seen.add(real)
    try:
        return kind_of(path)
    except PermissionError:
        return Fate(path, "no_permission")
    except OSError:
        return Fate(path, "unreadable")


def kind_of(path: str) -> str:
    """dicom, nifti, picture, npz, table, empty or other; by the first bytes, and the name where they do not say."""
    with open(path, "rb") as handle:
        head = handle.read(HEAD_BYTES)
    lower = os.path.basename(path).lower()
    if not head:
        return "empty"
    if lower.endswith(NIFTI_SUFFIXES):
        return "nifti"
    return _kind_by_bytes(head) or _kind_by_name(lower) or ("dicom" if _looks_like_dicom(head) else "other")


def _kind_by_bytes(head: bytes) -> str:
    if head[128:132] == b"DICM":
        return "dicom"
    if head.startswith(_PICTURE_MAGIC):
        return "picture"
    return "nifti" if head[344:348] in _NIFTI_MAGIC or head[4:8] in (b"n+2\0", b"ni2\0") else ""


def _kind_by_name(lower: str) -> str:
    return next((kind for kind, suffixes in _KINDS_BY_NAME.items() if lower.endswith(suffixes)), "")


def _looks_like_dicom(head: bytes) -> bool:
    """A data set without preamble: its first element is of group 0002 or 0008, with a length that makes sense."""
    if len(head) < 8:
        return False
    for order in ("little", "big"):
        group, element = int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order)  # type: ignore[arg-type]
        length = int.from_bytes(head[4:8], order)  # type: ignore[arg-type]
        if group in (2, 8) and element <= 0x1200 and (re.match(rb"[A-Z]{2}", head[4:6]) or length < 1024):
            return True
    return False

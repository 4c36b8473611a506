"""What was read so far, kept as it comes: a killed ingest goes on from here, and the next one reads only what is new."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from medcl.foundation.files import write_whole
from medcl.foundation.lock import hold

JOURNAL = "read.journal"
KEY_DIGITS = 32
# Another try may end otherwise, although the file stays as it is.
_TRY_AGAIN = {"no_permission", "decoder_died", "internal", "codec_missing", "unreadable"}
_KEPT, _PASSING = b"+", b"-"
_HEAD = 8 + 1 + 1 + 1 + KEY_DIGITS + 1  # checksum, space, mark, space, key, space


def key_of(*parts: str) -> str:
    """32 hexadecimal digits that name a result by everything it depends on."""
    digest = hashlib.blake2b(digest_size=KEY_DIGITS // 2)
    for part in parts:
        content = part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def worth_keeping(reasons: Iterable[str]) -> bool:
    """Whether another run may take a result with these reason codes as it is."""
    return _TRY_AGAIN.isdisjoint(reasons)


class Journal:
    """Texts by key in one file to which is only added; it holds identifiers, so it lies in private/ (mode 0600).

    path: the file, or None for one in memory. basis: what every result stands on besides its key (settings, versions);
    a file of another basis is begun anew. A line cut short by a kill, and all after it, is dropped. What stays in memory
    is a key and a place for each text. A context manager; one process at a time holds a file, another gets a UserError.
    """

    def __init__(self, path: Path | None, basis: str) -> None:
        self.path = path
        self._basis = f"{key_of(basis)}\n".encode()
        self._file: BinaryIO = BytesIO() if path is None else _open(path)
        self._places: dict[bytes, int] = {}
        self._asked: set[bytes] = set()
        self._end = self._load()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._places

    def get(self, key: str) -> str:
        """The text of a key. Raises KeyError where there is none."""
        short = bytes.fromhex(key)
        self._file.seek(self._places[short])
        self._asked.add(short)
        return self._file.readline()[_HEAD:-1].decode("ascii")

    def put(self, key: str, text: str, keep: bool = True) -> None:
        """Add a text of one ASCII line. keep: False for what another run should find out again (a missing codec, say)."""
        line = _line(key, text, _KEPT if keep else _PASSING)
        self._file.seek(self._end)
        self._file.write(line)
        self._file.flush()
        self._places[bytes.fromhex(key)] = self._end
        self._end += len(line)

    def forget_unasked(self) -> None:
        """Write the file anew without what this run did not ask for: removed files, former states of changed ones."""
        if self.path is None or self._asked == self._places.keys():
            return
        keep = sorted(self._places[key] for key in self._asked)
        write_whole(self.path, lambda partial: self._copy(partial, keep))

    def _copy(self, partial: Path, places: list[int]) -> None:
        with open(partial, "wb", opener=_private) as copy:
            copy.write(self._basis)
            for place in places:
                self._file.seek(place)
                copy.write(self._file.readline())

    def _load(self) -> int:
        self._file.seek(0)
        if self._file.readline() != self._basis:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(self._basis)
            self._file.flush()
            return len(self._basis)
        end = len(self._basis)
        for line in _whole_lines(self._file):
            if line[9:10] == _KEPT:
                self._places[bytes.fromhex(line[11 : 11 + KEY_DIGITS].decode("ascii"))] = end
            end += len(line)
        self._file.truncate(end)
        return end


def _line(key: str, text: str, mark: bytes) -> bytes:
    rest = b"%s %s %s\n" % (mark, key.encode("ascii"), text.encode("ascii"))
    return b"%08x %s" % (zlib.crc32(rest), rest)


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines up to the first that is not what was written."""
    for line in file:
        if not line.endswith(b"\n") or len(line) <= _HEAD or b"%08x" % zlib.crc32(line[9:]) != line[:8]:
            return
        yield line


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _open(path: Path) -> BinaryIO:
    """The file for reading and writing, held by this process alone."""
    file = open(path, "r+b" if path.exists() else "w+b", opener=_private)  # noqa: SIM115 (closed by the journal)
    try:
        hold(file, path.parent.parent)
    except BaseException:
        file.close()
        raise
    return file

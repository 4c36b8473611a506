"""Integers on disk: one chunked blosc2 file per volume, one pool file for many small items.

LZ4 with shuffle: bit-shuffle takes 1.0 to 2.0 times as long to read real scans from, at 0.8 to 1.8 times the size
(reports/views/store_filters.md). Blocks of 16 x 16 x 32 inside chunks of 64 x 64 x 160, so that a crop touches little more
than itself. Never blosc2's DELTA filter: it returns wrong slices of n-d arrays (c-blosc2 issue 701). Every chunk has a
checksum (CRC-32 of its compressed bytes), verified the first time the chunk is touched after its file was opened: a
rotten disk is an error and not a scan, and reading the same chunk again costs nothing more. What lies before the first chunk
and after the last one says how to read them, and has a checksum of its own, verified as the file is opened.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from medcl.foundation.errors import DataError
from medcl.foundation.files import write_whole
from medcl.store.array_file import ArrayFile

# blosc2's annotations are narrower than what it takes and gives.
_blosc2: Any = blosc2

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

TINY_VOXELS = 64**3
_OPEN_FILES = 256  # each takes two of the file descriptors that a process may have: 1,024 in many places


def write_array(path: Path, array: np.ndarray) -> tuple[int, list[int], list[int]]:
    """Write one (x, y, z) integer array as a blosc2 file, whole or not at all.

    Returns its size in bytes, its chunks' checksums, and its frame: how many bytes lie before the chunks and after them, and the
    checksum of both.
    """
    chunks = tuple(min(length, most) for length, most in zip(array.shape, (64, 64, 160), strict=True))
    shape = (16, 16, 32) if array.shape[2] > 1 else (64, 64, 1)
    blocks = tuple(min(length, most) for length, most in zip(chunks, shape, strict=True))
    array = np.ascontiguousarray(array)
    checksums: list[int] = []
    frame: list[int] = []

    def write(partial: Path) -> None:
        try:
            written = _blosc2.asarray(array, chunks=chunks, blocks=blocks, cparams=_compression(array), urlpath=str(partial), mode="w")
        except RuntimeError:  # blosc2 does not say why
            if shutil.disk_usage(partial.parent).free < array.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
            raise
        checksums.extend(zlib.crc32(written.schunk.get_chunk(number)) for number in range(written.schunk.nchunks))
        with open(partial, "rb") as handle:
            head = int.from_bytes(handle.read(15)[11:])  # c-blosc2's README_CFRAME_FORMAT: the length of the header
        tail = partial.stat().st_size - head - written.schunk.cbytes
        frame.extend((head, tail, _frame_checksum(partial, head, tail)))

    write_whole(path, write)
    return path.stat().st_size, checksums, frame


def _frame_checksum(path: Path, head: int, tail: int) -> int:
    with open(path, "rb") as handle:
        before = handle.read(head)
        handle.seek(-tail, os.SEEK_END)
        return zlib.crc32(handle.read(), zlib.crc32(before))


def write_pool(path: Path, arrays: Sequence[np.ndarray]) -> list[tuple[int, int, list[int]]]:
    """Write many small arrays into one file, each compressed by itself. Returns (offset, size in bytes, [checksum]) of each."""
    places: list[tuple[int, int, list[int]]] = []

    def write(partial: Path) -> None:
        with open(partial, "wb") as handle:
            for array in arrays:
                packed = _blosc2.compress2(np.ascontiguousarray(array), **_compression(array))
                places.append((handle.tell(), len(packed), [zlib.crc32(packed)]))
                handle.write(packed)

    write_whole(path, write)
    return places


def _compression(array: np.ndarray) -> dict[str, Any]:
    return {
        "codec": blosc2.Codec.LZ4,
        "clevel": 5,
        "nthreads": 1,
        "typesize": array.dtype.itemsize,
        "filters": [blosc2.Filter.SHUFFLE],
        "filters_meta": [0],
    }


@dataclass(frozen=True, eq=False)
class _Open:
    """An open file, and what of it was verified: numbers of chunks, or offsets of a pool's items."""

    data: Any
    verified: set[int] = field(default_factory=set)


class ArrayReader:
    """Reads boxes out of a folder's arrays; files stay open (the last 256 used). Thread safe and picklable.

    Raises DataError naming the file where it cannot be opened or decoded, or is not what was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])

    def read(self, name: str, box: Box, checksums: Sequence[int] = (), frame: Sequence[int] = ()) -> np.ndarray:
        """A box of a volume's own file. checksums: one per chunk; frame: as written; or none (a store from before they were kept)."""
        opened = self._handle(name, frame)
        try:
            if len(checksums):
                for number in _touched(opened.data, box):
                    if number not in opened.verified:
                        self._verify(name, opened, number, opened.data.chunk(number), checksums[number])
            return opened.data.read(box)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # blosc2 raises what it meets: a damaged file may come to anything
            raise self._damaged(name, str(error)) from None

    def read_pooled(
        self, name: str, place: tuple[int, int], dtype: str, shape: tuple[int, int, int], box: Box, checksums: Sequence[int] = ()
    ) -> np.ndarray:
        """A box of an item in a pool file. `place`: (offset, size) in bytes."""
        opened = self._handle(name)
        offset, size = place
        try:
            packed = opened.data[offset : offset + size].tobytes()
            if len(checksums) and offset not in opened.verified:
                self._verify(name, opened, offset, packed, checksums[0])
            array = np.frombuffer(_blosc2.decompress2(packed, nthreads=1), dtype=dtype).reshape(shape)
        except (DataError, MemoryError):
            raise
        except Exception as error:
            raise self._damaged(name, str(error)) from None
        return array[tuple(slice(*limits) for limits in box)]

    def _verify(self, name: str, opened: _Open, number: int, packed: bytes, checksum: int) -> None:
        if zlib.crc32(packed) != checksum:
            raise self._damaged(name, f"part {number} is not what was written: the checksum differs")
        opened.verified.add(number)

    def _damaged(self, name: str, what: str) -> DataError:
        return DataError(f"{self.folder / name}: damaged ({what}); check the disk, remove the store and prepare it again")

    def _handle(self, name: str, frame: Sequence[int] = ()) -> _Open:
        with self._lock:
            entry = self._open.pop(name, None) or _Open(self._open_file(name, frame))
            self._open[name] = entry
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
            return entry

    def _open_file(self, name: str, frame: Sequence[int]) -> Any:
        path = self.folder / name
        try:
            if len(frame) and _frame_checksum(path, frame[0], frame[1]) != frame[2]:
                raise ValueError("its header is not what was written: the checksum differs")
            if name.endswith(".pool"):
                return np.memmap(path, dtype=np.uint8, mode="r")
            return ArrayFile(path)
        except MemoryError:
            raise
        except Exception as error:
            raise DataError(f"{path}: cannot be opened ({error}); remove the store and prepare it again") from None


def _touched(data: ArrayFile, box: Box) -> Iterable[int]:
    """Numbers of the chunks that a box needs."""
    grid = [-(-length // chunk) for length, chunk in zip(data.shape, data.chunks, strict=True)]
    spans = [range(start // chunk, (stop - 1) // chunk + 1) for (start, stop), chunk in zip(box, data.chunks, strict=True)]
    return ((x * grid[1] + y) * grid[2] + z for x, y, z in product(*spans))

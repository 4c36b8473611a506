"""Integers on disk: one chunked blosc2 file per volume, one pool file for many small items.

LZ4 with bit-shuffle; blocks of 16 x 16 x 32 inside chunks of 64 x 64 x 160, so that a crop touches little more than
itself. Never blosc2's DELTA filter: it returns wrong slices of n-d arrays (c-blosc2 issue 701).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from medcl.foundation.errors import DataError
from medcl.foundation.files import write_whole

# blosc2's annotations are narrower than what it takes and gives.
_blosc2: Any = blosc2

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

TINY_VOXELS = 64**3
_OPEN_FILES = 256


def write_array(path: Path, array: np.ndarray) -> int:
    """Write one (x, y, z) integer array as a blosc2 file, whole or not at all. Returns its size in bytes."""
    chunks = tuple(min(length, most) for length, most in zip(array.shape, (64, 64, 160), strict=True))
    shape = (16, 16, 32) if array.shape[2] > 1 else (64, 64, 1)
    blocks = tuple(min(length, most) for length, most in zip(chunks, shape, strict=True))
    array = np.ascontiguousarray(array)

    def write(partial: Path) -> None:
        _blosc2.asarray(array, chunks=chunks, blocks=blocks, cparams=_compression(array), urlpath=str(partial), mode="w")

    write_whole(path, write)
    return path.stat().st_size


def write_pool(path: Path, arrays: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Write many small arrays into one file, each compressed by itself. Returns (offset, size) in bytes of each."""
    places: list[tuple[int, int]] = []

    def write(partial: Path) -> None:
        with open(partial, "wb") as handle:
            for array in arrays:
                packed = _blosc2.compress2(np.ascontiguousarray(array), **_compression(array))
                places.append((handle.tell(), len(packed)))
                handle.write(packed)

    write_whole(path, write)
    return places


def _compression(array: np.ndarray) -> dict[str, Any]:
    return {
        "codec": blosc2.Codec.LZ4,
        "clevel": 5,
        "nthreads": 1,
        "typesize": array.dtype.itemsize,
        "filters": [blosc2.Filter.BITSHUFFLE],
        "filters_meta": [0],
    }


class ArrayReader:
    """Reads boxes out of a folder's arrays; files stay open (the last 256 used). Thread safe and picklable."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])

    def read(self, name: str, box: Box) -> np.ndarray:
        """A box of a volume's own file."""
        handle, lock = self._handle(name)
        try:
            with lock:
                return handle[tuple(slice(*limits) for limits in box)]
        except (RuntimeError, ValueError) as error:
            raise DataError(f"{self.folder / name}: damaged ({error}); remove the store and prepare it again") from None

    def read_pooled(self, name: str, place: tuple[int, int], dtype: str, shape: tuple[int, int, int], box: Box) -> np.ndarray:
        """A box of an item in a pool file. `place`: (offset, size) in bytes."""
        pool, _ = self._handle(name)
        try:
            packed = pool[place[0] : place[0] + place[1]].tobytes()
            array = np.frombuffer(_blosc2.decompress2(packed), dtype=dtype).reshape(shape)
        except (RuntimeError, ValueError) as error:
            raise DataError(f"{self.folder / name}: damaged ({error}); remove the store and prepare it again") from None
        return array[tuple(slice(*limits) for limits in box)]

    def _handle(self, name: str) -> tuple[Any, threading.Lock]:
        with self._lock:
            entry = self._open.pop(name, None)
            if entry is None:
                entry = (self._open_file(name), threading.Lock())
            self._open[name] = entry
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
            return entry

    def _open_file(self, name: str) -> Any:
        path = self.folder / name
        try:
            if name.endswith(".pool"):
                return np.memmap(path, dtype=np.uint8, mode="r")
            return _blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"{path}: cannot be opened ({error}); remove the store and prepare it again") from None

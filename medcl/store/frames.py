"""Slices and compressed chunks of one blosc2 file, decoded while other threads run Python.

blosc2's own Python calls hold the interpreter's lock while they decode, so that the threads of a loader would wait for one another. The
functions below them, in the C library that blosc2's wheels bring, are called here through ctypes, which lets go of the lock
(c-blosc2's b2nd.h and blosc2.h: public, documented functions and one field, the first of `b2nd_array_t`).
Where the library is not found, blosc2's Python calls give the same arrays.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from ctypes import POINTER, byref, c_bool, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

_NAMES = {"win32": "libblosc2.dll", "darwin": "libblosc2.dylib"}

# blosc2's annotations are narrower than what it takes and gives.
_blosc2: Any = blosc2


@cache
def library() -> ctypes.CDLL | None:
    """libblosc2, initialised, or None where there is none beside the package or in the environment."""
    name = _NAMES.get(sys.platform, "libblosc2.so")
    package, prefix = Path(blosc2.__file__).parent, Path(sys.prefix)
    places = [folder / part / name for folder in (package, prefix) for part in ("lib", "lib64", "bin")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        return None
    try:
        loaded = ctypes.CDLL(str(found))
        loaded.b2nd_from_cframe.argtypes = [c_void_p, c_int64, c_bool, POINTER(c_void_p)]
        loaded.b2nd_get_slice_cbuffer.argtypes = [c_void_p, POINTER(c_int64), POINTER(c_int64), c_void_p, POINTER(c_int64), c_int64]
        loaded.b2nd_free.argtypes = [c_void_p]
        loaded.blosc2_schunk_get_chunk.argtypes = [c_void_p, c_int64, POINTER(c_void_p), POINTER(c_bool)]
        loaded.blosc2_init()
    except (AttributeError, OSError):
        return None
    return loaded


class Frame:
    """One file's array, read-only: its `shape`, its `chunks`, slices of it. One thread at a time may use it.

    Raises RuntimeError or ValueError, as blosc2 does, for what is no whole file of blosc2's.
    """

    def __init__(self, path: Path) -> None:
        self._array = _blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
        self.shape: tuple[int, ...] = self._array.shape
        self.chunks: tuple[int, ...] = self._array.chunks
        self._dtype, self._library, self._handle = self._array.dtype, library(), c_void_p()
        if self._library is not None:
            self._bytes = np.memmap(path, np.uint8, "r")
            _check(self._library.b2nd_from_cframe(self._bytes.ctypes.data, self._bytes.size, False, byref(self._handle)))

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.b2nd_free(self._handle)  # type: ignore[union-attr]

    def read(self, box: Sequence[tuple[int, int]]) -> np.ndarray:
        """The part inside the box, which must lie inside the shape."""
        if self._library is None:
            return self._array[tuple(slice(*limits) for limits in box)]
        start, stop = zip(*box, strict=True)
        out = np.empty([last - first for first, last in box], self._dtype)
        edges = (c_int64 * len(box) for _ in range(3))
        start, stop, lengths = (kind(*numbers) for kind, numbers in zip(edges, (start, stop, out.shape), strict=True))
        _check(self._library.b2nd_get_slice_cbuffer(self._handle, start, stop, out.ctypes.data, lengths, out.nbytes))
        return out

    def chunk(self, number: int) -> memoryview | bytes:
        """A chunk as it lies in the file, compressed."""
        if self._library is None:
            return self._array.schunk.get_chunk(number)
        at, must_be_freed = c_void_p(), c_bool()
        super_chunk = c_void_p.from_address(self._handle.value or 0)
        size = self._library.blosc2_schunk_get_chunk(super_chunk, number, byref(at), byref(must_be_freed))
        _check(size)
        # Points into the mapped file: nothing was copied, and nothing is to be freed.
        assert not must_be_freed and at.value is not None
        return memoryview((ctypes.c_char * size).from_address(at.value))


def _check(code: int) -> None:
    """Raise what blosc2 raises for an error code of its library."""
    if code < 0:
        raise RuntimeError(f"blosc2's error {code}")

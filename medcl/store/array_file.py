"""Slices and compressed chunks of one blosc2 file, decoded while other threads run Python.

blosc2's own Python calls hold the interpreter's lock while they decode, so that the threads of a loader would wait for one another. The
functions below them, in the C library that blosc2's wheels bring, are called here through ctypes, which lets go of the lock
(c-blosc2's b2nd.h: public, documented functions). Where the library is not found, blosc2's Python calls give the same arrays.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
        loaded.blosc2_init()
    except (AttributeError, OSError):
        return None
    return loaded


class ArrayFile:
    """One file's array, read-only: its `shape`, its `chunks`, slices of it. Thread safe.

    Raises RuntimeError or ValueError, as blosc2 does, for what is no whole file of blosc2's.
    """

    def __init__(self, path: Path) -> None:
        self._array = _blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
        self.shape: tuple[int, ...] = self._array.shape
        self.chunks: tuple[int, ...] = self._array.chunks
        self._dtype, self._library, self._lock = self._array.dtype, library(), threading.Lock()
        # The library decodes with a state of its own for each thread that reads at a time; all of them share the mapped file.
        self._idle: list[c_void_p] = []
        if self._library is not None:
            self._bytes = np.memmap(path, np.uint8, "r")
            self._idle.append(self._open())

    def __del__(self) -> None:
        for handle in getattr(self, "_idle", ()):
            self._library.b2nd_free(handle)  # type: ignore[union-attr]

    def read(self, box: Sequence[tuple[int, int]]) -> np.ndarray:
        """The part inside the box, which must lie inside the shape."""
        if self._library is None:
            with self._lock:
                return self._array[tuple(slice(*limits) for limits in box)]
        start, stop = zip(*box, strict=True)
        out = np.empty([last - first for first, last in box], self._dtype)
        start, stop, lengths = ((c_int64 * len(box))(*numbers) for numbers in (start, stop, out.shape))
        with self._handle() as handle:
            _check(self._library.b2nd_get_slice_cbuffer(handle, start, stop, out.ctypes.data, lengths, out.nbytes))
        return out

    def chunk(self, number: int) -> bytes:
        """A chunk as it lies in the file, compressed."""
        with self._lock:
            return self._array.schunk.get_chunk(number)

    @contextmanager
    def _handle(self) -> Iterator[c_void_p]:
        """A handle that no other thread uses meanwhile. Taking one off a list and putting it back is safe in any thread."""
        try:
            handle = self._idle.pop()
        except IndexError:
            handle = self._open()
        try:
            yield handle
        finally:
            self._idle.append(handle)

    def _open(self) -> c_void_p:
        handle = c_void_p()
        _check(self._library.b2nd_from_cframe(self._bytes.ctypes.data, self._bytes.size, False, byref(handle)))  # type: ignore[union-attr]
        return handle


def _check(code: int) -> None:
    """Raise what blosc2 raises for an error code of its library."""
    if code < 0:
        raise RuntimeError(f"blosc2's error {code}")

"""The program of a reader process: makes items as it is asked to, and packs what it read into shared memory; see readers.py."""

from __future__ import annotations

import mmap
import os
import pickle
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from medcl.loading.items import Items, Key, Made

# Where arrays begin in the memory, in bytes: at any number of any type.
_ALIGNED = 64
# So much larger than needed is memory made that has to grow: the next step's boxes are a little larger or smaller.
_ROOM = 1.25


@dataclass(frozen=True)
class Packed:
    """Where an array lies in the memory, in bytes."""

    start: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Reply:
    """made: items, without what was read; raw: that, of all items together, a part for each view, with `Packed` in place of arrays.

    skipped: rows met for the first time that cannot be read. filled, size: bytes of the memory that are filled, and all of them.
    """

    made: list[Made]
    raw: list[Any]
    skipped: dict[int, str]
    filled: int = 0
    size: int = 0


def serve(pipe: int, files: Sequence[int]) -> None:
    """Answer until the pipe is closed. Signals are left to the process at its other end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    with Connection(pipe) as asker:
        memories = [_Memory(file) for file in files]
        try:
            items = _items(asker.recv_bytes())
            while True:
                slot, wanted = pickle.loads(asker.recv_bytes())
                asker.send(items if isinstance(items, Exception) else _answer(items, memories[slot], wanted))
        except (EOFError, OSError):
            return


def _items(pickled: bytes) -> Items | Exception:
    try:
        return pickle.loads(pickled)
    except Exception as error:  # raised again at the other end
        return error


def _answer(items: Items, memory: _Memory, wanted: Sequence[tuple[int, Key]]) -> Reply | Exception:
    known = set(items.skipped)
    try:
        made = [items.make(row, key, None) for row, key in wanted]
        parts = [items.maker.join(part) for part in zip(*(item.raw for item in made), strict=True)]
        skipped = {row: reason for row, reason in items.skipped.items() if row not in known}
        return memory.pack(Reply([replace(item, raw=[]) for item in made], parts, skipped))
    except Exception as error:  # raised again at the other end
        return error


class _Memory:
    """One slot's memory, made larger as needed."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._bytes = np.empty(0, np.uint8)

    def pack(self, reply: Reply) -> Reply:
        """Copy every array behind the other."""
        arrays = [array for part in reply.raw for array in part.arrays]
        starts = np.cumsum([0, *(-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays)]).tolist()
        self._reach(starts[-1])
        packed = []
        for array, start in zip(arrays, starts, strict=False):
            np.copyto(self._bytes[start : start + array.nbytes].view(array.dtype).reshape(array.shape), array)
            packed.append(Packed(start, array.shape, array.dtype.str))
        where = iter(packed)
        raw = [part.holding([next(where) for _ in part.arrays]) for part in reply.raw]
        return replace(reply, raw=raw, filled=starts[-1], size=len(self._bytes))

    def _reach(self, size: int) -> None:
        if size > len(self._bytes):
            wanted = -(-int(size * _ROOM) // mmap.PAGESIZE) * mmap.PAGESIZE
            os.ftruncate(self.file, wanted)
            self._bytes = np.frombuffer(mmap.mmap(self.file, wanted), np.uint8)

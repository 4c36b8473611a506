"""Processes that draw and read items for a GPU: Python of many threads would wait for itself, and for the training step.

A process packs what it read into memory that it shares with this one, from which the GPU fetches; only numbers go through its pipe. It is
a program of its own (`reader.py`), so that a script that calls `pretrain` needs no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcl.foundation.errors import MedclError, UserError
from medcl.loading.device_views import Collected
from medcl.loading.items import Items, Key, Made
from medcl.loading.reader import Packed, Reply

_WAY_OUT = "define your step in a module of its own, or set training.workers to 0"

# The path first, so that the program finds what this one found.
_PROGRAM = "import sys; sys.path[:] = {path!r}; from medcl.loading.reader import serve; serve({pipe}, {slots!r})"


class Readers:
    """So many processes, each with a piece of shared memory for every slot; a step takes one slot at a time. `close` when done."""

    def __init__(self, items: Items, count: int, slots: int, device: torch.device) -> None:
        try:
            pickled = pickle.dumps(items)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(f"views for a GPU are read by other processes, which cannot be told of them: {error}; {_WAY_OUT}") from error
        self.items, self.device = items, device
        self._readers = [_Reader(number, pickled, slots, device) for number in range(count)]

    def ask(self, slot: int, wanted: Sequence[tuple[int, Key]]) -> None:
        """Begin to read a step's items (row and key); what the slot held is lost."""
        for reader, part in zip(self._readers, np.array_split(np.arange(len(wanted)), len(self._readers)), strict=True):
            reader.ask(slot, [wanted[place] for place in part])

    def told(self, slot: int) -> Collected:
        """Those items, in order, once they are read, and of each view the parts to compute it from, their voxels on the device or on their
        way. Raises what reading raised."""
        made, parts = list[Made](), list[Sequence[Any]]()
        for reply in [reader.told(slot) for reader in self._readers if reader.asked(slot)]:
            if isinstance(reply, ImportError | AttributeError):
                raise UserError(f"views for a GPU are read by other processes, which do not find a part of them: {reply}; {_WAY_OUT}")
            if isinstance(reply, Exception):
                raise reply
            for row, reason in reply.skipped.items():
                self.items.skipped.setdefault(row, reason)
            made += reply.made
            parts.append(reply.raw)
        return made, list(zip(*parts, strict=True))

    def close(self) -> None:
        """End the processes."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # a copy may still be on its way
        for reader in self._readers:
            reader.close()


def can_share() -> bool:
    """Whether this system has memory that processes share without a file (Linux has)."""
    return hasattr(os, "memfd_create")


class _Reader:
    """One process, and this side of what it shares."""

    def __init__(self, number: int, items: bytes, slots: int, device: torch.device) -> None:
        self.number = number
        self._slots = [_Slot(os.memfd_create("medcl views"), device) for _ in range(slots)]
        ours, theirs = socket.socketpair()
        shared = [slot.file for slot in self._slots]
        program = _PROGRAM.format(path=sys.path, pipe=theirs.fileno(), slots=shared)
        with theirs:
            self._process = subprocess.Popen([sys.executable, "-c", program], pass_fds=(theirs.fileno(), *shared), stdin=subprocess.DEVNULL)
        self._pipe = Connection(ours.detach())
        self._send(items)

    def ask(self, slot: int, wanted: list[tuple[int, Key]]) -> None:
        self._slots[slot].asked = bool(wanted)
        if wanted:
            self._send(pickle.dumps((slot, wanted)))

    def asked(self, slot: int) -> bool:
        return self._slots[slot].asked

    def told(self, slot: int) -> Reply | Exception:
        try:
            reply = self._pipe.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        return reply if isinstance(reply, Exception) else replace(reply, raw=self._slots[slot].unpacked(reply))

    def close(self) -> None:
        self._pipe.close()
        for slot in self._slots:
            slot.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: bytes) -> None:
        try:
            self._pipe.send_bytes(message)
        except OSError:
            raise self._lost() from None

    def _lost(self) -> MedclError:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
        return MedclError(
            f"reader process {self.number} of this run {how}; where memory ran out, lower training.workers; the same command goes on from "
            "the last checkpoint"
        )


class _Slot:
    """Memory that a reader fills for one step, seen from here; pinned where a GPU fetches from it."""

    def __init__(self, file: int, device: torch.device) -> None:
        self.file, self.device, self.asked = file, device, False
        self._bytes: Tensor | None = None
        self._pinned = False

    def unpacked(self, reply: Reply) -> list[Any]:
        """What the reply tells of, its arrays on the device: one copy for all of them."""
        moved = self._seen(reply.size)[: reply.filled].to(self.device, non_blocking=True)
        return [part.holding([_array(packed, moved) for packed in part.arrays]) for part in reply.raw]

    def close(self) -> None:
        self._forget()
        os.close(self.file)

    def _seen(self, size: int) -> Tensor:
        """The whole memory, mapped anew where it has grown."""
        if self._bytes is None or len(self._bytes) < size:
            self._forget()
            self._bytes = torch.frombuffer(mmap.mmap(self.file, size), dtype=torch.uint8)
            if self.device.type == "cuda":
                # Where the system does not allow it, copies are slower and as good.
                self._pinned = int(_cuda().cudaHostRegister(self._bytes.data_ptr(), size, 0)) == 0
        return self._bytes

    def _forget(self) -> None:
        if self._bytes is not None and self._pinned:
            _cuda().cudaHostUnregister(self._bytes.data_ptr())
        self._bytes, self._pinned = None, False


def _cuda() -> Any:
    return torch.cuda.cudart()


def _array(packed: Packed, held: Tensor) -> Tensor:
    kind = _kind(packed.dtype)
    return held[packed.start : packed.start + math.prod(packed.shape) * kind.itemsize].view(kind).view(packed.shape)


@cache
def _kind(dtype: str) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype

"""Rows of the store to batches: threads fill a ring of buffers, or workers read for a device; the step alone decides what is in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcl.foundation import distributed
from medcl.foundation.errors import UserError
from medcl.foundation.geometry import rows_and_columns
from medcl.foundation.types import Batch
from medcl.loading.device_views import Collected, DeviceViews, fetchable
from medcl.loading.items import Draw, Items, Key, Made, Maker, Store
from medcl.loading.order import items_at
from medcl.loading.readers import Readers, can_share
from medcl.loading.texts import ReportTexts

AHEAD = 2


@dataclass(frozen=True)
class _Slot:
    """One buffer per view, (batch, x, y, z), and the same memory as arrays; none where a device computes the views. number: from 0."""

    number: int
    tensors: tuple[Tensor, ...]
    arrays: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class _Begun:
    """A step on its way. keys: of its items. work: a future of every item, or, where a device computes the views, of all of it."""

    keys: list[Key]
    slot: _Slot
    work: list[Future]


class _AtOnce:
    """An executor without threads."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future:
        """A future that is done, or has failed: who asks for it is told, as of a thread's."""
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class _Workers:
    """Who works: on rows, by threads or processes, and on the device, where that computes the views."""

    threads: ThreadPoolExecutor | _AtOnce
    readers: Readers | None
    device: DeviceViews | None


class Batches:
    """Batches of this process: rows rank * n .. (rank + 1) * n of each step's world batch.

    num_points: places of the same tissue that `Batch.points` names in each item's views, for methods that use them.
    rows: rows of the store to learn from, all by default. texts: sentences for methods that use them. targets: one entry
    for each row of the store, handed on as `Batch.target`. masks: instead, the class of each number in the scans' masks,
    (256,); `Batch.target` is then the mask under the first view, (batch, *space). draw: draws the views instead of the maker.
    workers: threads that make views; their number changes nothing but speed. device: computes the views, whole batches at
    once, equal within rounding, of what the workers only read; None: the workers make them, by compiled passes. processes: the workers
    of a device are processes, where the system lets them share memory. A yielded batch is valid until the next one is asked for: its
    memory is used again.

    on_unreadable: called with a message when a row cannot be read (a rotten chunk, say) and is skipped: the next row of
    `rows` that can be read takes its place in that step and in all later ones, under its own name (`Batch.item`), and
    `skipped` keeps row -> reason. Without it a row that cannot be read is an error, and the run stops.
    """

    def __init__(
        self,
        store: Store,
        maker: Maker,
        *,
        num_views: int,
        world_batch: int,
        seed: int,
        num_points: int = 0,
        workers: int = 2,
        rows: Sequence[int] | np.ndarray | None = None,
        texts: ReportTexts | None = None,
        targets: np.ndarray | None = None,
        masks: np.ndarray | None = None,
        draw: Draw | None = None,
        device: torch.device | None = None,
        processes: bool = False,
        on_unreadable: Callable[[str], None] | None = None,
    ) -> None:
        ranks = distributed.world_size()
        if world_batch % ranks:
            raise UserError(f"training.world_batch: {world_batch} items cannot be shared by {ranks} processes; take a multiple")
        self.store, self.maker, self.texts, self.targets = store, maker, texts, targets
        self.seed, self.workers, self.world_batch, self.device = seed, workers, world_batch, device
        self.num_points, self.masks = num_points, masks
        self.processes = processes and device is not None and workers > 0 and can_share()
        self.rows = np.arange(len(store.index)) if rows is None else np.asarray(rows, dtype=np.int64)
        if not len(self.rows):
            raise UserError("no scans to learn from: the list of rows is empty")
        silent = [] if texts is None else [row for row in self.rows.tolist() if not texts.has_text(row)]
        if silent:
            raise UserError(
                f"{len(silent)} of {len(self.rows)} scans have no report text (store rows {silent[:5]} ...); leave them out of rows"
            )
        self.patients = np.asarray(store.index["patient"], dtype=np.int64)
        sizes = [tuple(maker.config.size_of(number)) for number in range(num_views)]
        self.picture = len(sizes[0]) == 2
        self.view_shapes = [(size[1], size[0], 1) if self.picture else size for size in sizes]
        self._share = world_batch // ranks
        self.on_unreadable, self._told = on_unreadable, set[int]()
        skips = on_unreadable is not None
        self.items = Items(store, maker, num_views, self.rows, draw or maker.draw_row, num_points, masks, skips)

    @property
    def skipped(self) -> dict[int, str]:
        """Rows that could not be read, each with its reason."""
        return self.items.skipped

    def rows_at(self, step: int) -> np.ndarray:
        """The store's rows of the whole world batch of one step, in order."""
        return self.rows[items_at(step, len(self.rows), self.world_batch, self.seed)]

    def at(self, step: int) -> Batch:
        """The batch of one step, in memory of its own."""
        with ExitStack() as stack:
            workers = self._workers(stack, 1)
            return self._finish(self._begin(step, self._allocate(0), workers), workers)

    def iterate(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """The batches of steps start..stop-1, made ahead by the workers. Raises DataError naming step and item that failed."""
        with ExitStack() as stack:
            workers = self._workers(stack, AHEAD + 1)
            free = deque(self._allocate(number) for number in range(AHEAD + 1))
            begun: deque[_Begun] = deque()
            for step in range(start, stop + AHEAD):
                if step < stop:
                    begun.append(self._begin(step, free.popleft(), workers))
                if step - start >= AHEAD:
                    ready = begun.popleft()
                    yield self._finish(ready, workers)
                    free.append(ready.slot)

    def _workers(self, stack: ExitStack, slots: int) -> _Workers:
        readers = device = None
        if self.processes and self.device is not None:
            readers = Readers(self.items, min(self.workers, self._share), slots, self.device)
            stack.callback(readers.close)
        if self.device is not None:
            device = DeviceViews(self.maker, self.device)
            stack.callback(device.close)
        if not self.workers or readers:
            return _Workers(_AtOnce(), readers, device)
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="views")
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        return _Workers(pool, None, device)

    def _allocate(self, number: int) -> _Slot:
        if self.device is not None:
            return _Slot(number, (), ())
        # torch's allocator aligns to 64 bytes, so that kernels take the same path for every buffer, bit for bit.
        tensors = tuple(torch.empty((self._share, *shape)) for shape in self.view_shapes)
        return _Slot(number, tensors, tuple(tensor.numpy() for tensor in tensors))

    def _begin(self, step: int, slot: _Slot, workers: _Workers) -> _Begun:
        own = self._own(step)
        begun = partial(_Begun, [key for _, key in own], slot)
        if workers.device is None:
            outs = ([array[place] for array in slot.arrays] for place in range(len(own)))
            return begun([workers.threads.submit(self.items.make, *item, out) for item, out in zip(own, outs, strict=True)])
        if workers.readers:
            workers.readers.ask(slot.number, own)
            return begun([workers.device.submit(step, partial(workers.readers.told, slot.number))])
        work = [workers.threads.submit(self._fetchable, *item) for item in own]
        return begun([workers.device.submit(step, partial(_collected, work))])

    def _fetchable(self, row: int, key: Key) -> Made:
        assert self.device is not None
        made = self.items.make(row, key, None)
        return replace(made, raw=[fetchable(raw, self.device) for raw in made.raw])

    def _finish(self, begun: _Begun, workers: _Workers) -> Batch:
        if workers.device:
            made, views = workers.device.take(begun.work[0])
        else:
            made, views = [item.result() for item in begun.work], begun.slot.tensors
        self._tell()
        rows = np.array([item.row for item in made])
        return Batch(
            views=tuple(self._image(tensor) for tensor in views),
            item=torch.from_numpy(rows),
            patient=torch.from_numpy(self.patients[rows]),
            text=None
            if self.texts is None
            else self.texts.encode([self.texts.draw(row, key) for row, key in zip(rows.tolist(), begun.keys, strict=True)]),
            target=self._target(rows, made),
            points=torch.from_numpy(np.stack([item.points for item in made if item.points is not None])) if self.num_points else None,
        )

    def _tell(self) -> None:
        for row in [row for row in list(self.skipped) if row not in self._told]:  # a copy: threads may add to it
            self._told.add(row)
            if self.on_unreadable:
                self.on_unreadable(f"skipped from now on: {self.skipped[row]}")

    def _target(self, rows: np.ndarray, made: Sequence[Made]) -> Tensor | None:
        if self.masks is not None:
            return self._image(torch.from_numpy(np.stack([item.mask for item in made if item.mask is not None])))[:, 0]
        return None if self.targets is None else torch.as_tensor(self.targets[rows])

    def _image(self, tensor: Tensor) -> Tensor:
        """(batch, x, y, z) -> (batch, 1, *space)."""
        return rows_and_columns(tensor).unsqueeze(1).contiguous() if self.picture else tensor.unsqueeze(1)

    def _own(self, step: int) -> list[tuple[int, Key]]:
        """Row and key (seed, step, item) of this process's part of the step.

        The item of a key is the row. Where a batch spans two epochs and meets a row twice, the second copy gets a number
        of its own, or both would have the same views.
        """
        seen: dict[int, int] = {}
        pairs = []
        for row in self.rows_at(step).tolist():
            copies = seen.get(row, 0)
            seen[row] = copies + 1
            pairs.append((row, (self.seed, step, row + copies * len(self.patients))))
        first = distributed.rank() * self._share
        return pairs[first : first + self._share]


def _collected(work: Sequence[Future[Made]]) -> Collected:
    made = [item.result() for item in work]
    return made, list(zip(*(item.raw for item in made), strict=True))

"""Rows of the store to batches: threads fill a ring of buffers, or read for a device; the step alone decides what is in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from medcl.foundation import distributed
from medcl.foundation.errors import DataError, MedclError, UserError
from medcl.foundation.geometry import rows_and_columns
from medcl.foundation.types import Batch
from medcl.loading.device_views import DeviceViews, Made
from medcl.loading.order import items_at
from medcl.loading.texts import ReportTexts

AHEAD = 2


# (store, row, key, number of views) -> parameters of the views.
Draw = Callable[[Any, int, tuple[int, int, int], int], Sequence[Any]]


class Store(Protocol):
    """What is needed of a VolumeStore."""

    index: Any


class Maker(Protocol):
    """What is needed of a ViewMaker: all parameters first, a pure function of the key, then pixels."""

    config: Any

    def draw_row(self, store: Any, row: int, key: tuple[int, int, int], num_views: int) -> Sequence[Any]:
        """Parameters of the views of one row of the store."""
        ...

    def render_mask(self, store: Any, row: int, parameters: Any) -> np.ndarray | None:
        """Numbers (x, y, z) of the row's mask under a view, uint8; None where it has none."""
        ...

    def match(self, store: Any, row: int, views: Sequence[Any], count: int, key: tuple[int, int, int]) -> np.ndarray:
        """Points (view, point, axes) of the same tissue in the views that were drawn."""
        ...

    def render(self, store: Any, row: int, parameters: Any, out: np.ndarray | None) -> np.ndarray:
        """One view (x, y, z), written into `out`."""
        ...

    def read(self, store: Any, row: int, parameters: Any, device: torch.device) -> Any:
        """What `render_batch` needs of one view, where the device can fetch it."""
        ...

    def render_batch(self, raw: Sequence[Any], device: torch.device) -> Tensor:
        """Many views (batch, x, y, z), computed on a device."""
        ...


@dataclass(frozen=True)
class _Slot:
    """One buffer per view, (batch, x, y, z), and the same memory as arrays; none where a device computes the views."""

    tensors: tuple[Tensor, ...]
    arrays: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class _Begun:
    """A step on its way. work: a future of every item; computed: of its views, on a device."""

    step: int
    slot: _Slot
    work: list[Future[Made]]
    computed: Future | None


class _AtOnce:
    """An executor without threads."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future:
        """A future that is done."""
        future: Future = Future()
        future.set_result(function(*arguments))
        return future


@dataclass(frozen=True)
class _Threads:
    """Who works: on rows, and on the device, where that computes the views."""

    workers: ThreadPoolExecutor | _AtOnce
    device: DeviceViews | None


class Batches:
    """Batches of this process: rows rank * n .. (rank + 1) * n of each step's world batch.

    num_points: places of the same tissue that `Batch.points` names in each item's views, for methods that use them.
    rows: rows of the store to learn from, all by default. texts: sentences for methods that use them. targets: one entry
    for each row of the store, handed on as `Batch.target`. masks: instead, the class of each number in the scans' masks,
    (256,); `Batch.target` is then the mask under the first view, (batch, *space). draw: draws the views instead of the maker.
    workers: threads that make views; their number changes nothing but speed. device: computes the views, whole batches at
    once, equal within rounding, of what the workers only read; None: the workers make them, by compiled passes. A yielded
    batch is valid until the next one is asked for: its memory is used again.

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
        on_unreadable: Callable[[str], None] | None = None,
    ) -> None:
        processes = distributed.world_size()
        if world_batch % processes:
            raise UserError(f"training.world_batch: {world_batch} items cannot be shared by {processes} processes; take a multiple")
        self.store, self.maker, self.texts, self.targets = store, maker, texts, targets
        self.num_views, self.seed, self.workers, self.world_batch, self.device = num_views, seed, workers, world_batch, device
        self.num_points, self.masks, self.draw = num_points, masks, draw or maker.draw_row
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
        self._share = world_batch // processes
        self.on_unreadable, self.skipped = on_unreadable, dict[int, str]()

    def rows_at(self, step: int) -> np.ndarray:
        """The store's rows of the whole world batch of one step, in order."""
        return self.rows[items_at(step, len(self.rows), self.world_batch, self.seed)]

    def at(self, step: int) -> Batch:
        """The batch of one step, in memory of its own."""
        with ExitStack() as stack:
            threads = self._threads(stack)
            return self._finish(self._begin(step, self._allocate(), threads), threads)

    def iterate(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """The batches of steps start..stop-1, made ahead by the threads. Raises DataError naming step and item that failed."""
        with ExitStack() as stack:
            threads = self._threads(stack)
            free = deque(self._allocate() for _ in range(AHEAD + 1))
            begun: deque[_Begun] = deque()
            for step in range(start, stop + AHEAD):
                if step < stop:
                    begun.append(self._begin(step, free.popleft(), threads))
                if step - start >= AHEAD:
                    ready = begun.popleft()
                    yield self._finish(ready, threads)
                    free.append(ready.slot)

    def _threads(self, stack: ExitStack) -> _Threads:
        device = None
        if self.device is not None:
            device = DeviceViews(self.maker, self.device)
            stack.callback(device.close)
        if not self.workers:
            return _Threads(_AtOnce(), device)
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="views")
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        return _Threads(pool, device)

    def _allocate(self) -> _Slot:
        if self.device is not None:
            return _Slot((), ())
        # torch's allocator aligns to 64 bytes, so that kernels take the same path for every buffer, bit for bit.
        tensors = tuple(torch.empty((self._share, *shape)) for shape in self.view_shapes)
        return _Slot(tensors, tuple(tensor.numpy() for tensor in tensors))

    def _begin(self, step: int, slot: _Slot, threads: _Threads) -> _Begun:
        work = [
            threads.workers.submit(self._make, row, key, [array[place] for array in slot.arrays])
            for place, (row, key) in enumerate(self._own(step))
        ]
        return _Begun(step, slot, work, threads.device.submit(step, work) if threads.device else None)

    def _finish(self, begun: _Begun, threads: _Threads) -> Batch:
        made = [item.result() for item in begun.work]
        rows = np.array([item.row for item in made])
        keys = [key for _, key in self._own(begun.step)]
        views = threads.device.take(begun.computed) if threads.device and begun.computed else begun.slot.tensors
        return Batch(
            views=tuple(self._image(tensor) for tensor in views),
            item=torch.from_numpy(rows),
            patient=torch.from_numpy(self.patients[rows]),
            text=None
            if self.texts is None
            else self.texts.encode([self.texts.draw(row, key) for row, key in zip(rows.tolist(), keys, strict=True)]),
            target=self._target(rows, made),
            points=torch.from_numpy(np.stack([item.points for item in made if item.points is not None])) if self.num_points else None,
        )

    def _target(self, rows: np.ndarray, made: Sequence[Made]) -> Tensor | None:
        if self.masks is not None:
            return self._image(torch.from_numpy(np.stack([item.mask for item in made if item.mask is not None])))[:, 0]
        return None if self.targets is None else torch.as_tensor(self.targets[rows])

    def _image(self, tensor: Tensor) -> Tensor:
        """(batch, x, y, z) -> (batch, 1, *space)."""
        return rows_and_columns(tensor).unsqueeze(1).contiguous() if self.picture else tensor.unsqueeze(1)

    def _own(self, step: int) -> list[tuple[int, tuple[int, int, int]]]:
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

    def _make(self, row: int, key: tuple[int, int, int], outs: list[np.ndarray]) -> Made:
        """Render or read a row, or, where it may be skipped, the next one that can be read."""
        for _ in range(len(self.rows)):
            if row not in self.skipped:
                try:
                    return self._render(row, key, outs)
                except DataError as error:
                    if self.on_unreadable is None:
                        raise
                    reason = str(error)
                    if self.skipped.setdefault(row, reason) is reason:  # two workers may meet it at once
                        self.on_unreadable(f"skipped from now on: {error}")
            row = int(self.rows[(np.flatnonzero(self.rows == row)[0] + 1) % len(self.rows)])
        raise DataError(f"step {key[1]}: none of {len(self.rows)} rows can be read; the first: {next(iter(self.skipped.values()))}")

    def _render(self, row: int, key: tuple[int, int, int], outs: list[np.ndarray]) -> Made:
        try:
            drawn = self.draw(self.store, row, key, self.num_views)
            points = self.maker.match(self.store, row, drawn, self.num_points, key) if self.num_points else None
            mask = None if self.masks is None else self._classes(row, drawn[0])
            if self.device is not None:
                return Made(row, [self.maker.read(self.store, row, parameters, self.device) for parameters in drawn], points, mask)
            for parameters, out in zip(drawn, outs, strict=True):
                self.maker.render(self.store, row, parameters, out)
            return Made(row, [], points, mask)
        except MedclError as error:
            raise type(error)(f"step {key[1]}, row {row} of the store: {error}") from error
        except MemoryError as error:
            raise UserError(
                f"step {key[1]}: out of memory while row {row} of the store was read; lower training.workers or training.world_batch"
            ) from error
        except Exception as error:
            raise DataError(
                f"step {key[1]}: row {row} of the store (volume {self._volume(row)}) gave no view: {type(error).__name__}: {error}; "
                "run `medcl prepare` again if the store is damaged"
            ) from error

    def _classes(self, row: int, parameters: Any) -> np.ndarray:
        numbers = self.maker.render_mask(self.store, row, parameters)
        if numbers is None or self.masks is None:
            raise DataError("no mask to learn from; leave the row out of rows")
        return self.masks[numbers]

    def _volume(self, row: int) -> str:
        return str(self.store.index["volume_id"].iloc[row])

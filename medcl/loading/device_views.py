"""Views of a step computed on a device from what the workers read: in a thread and on a stream of its own, while a step before learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcl.foundation.errors import UserError
from medcl.loading.items import Made, Maker, Raw

# Items, and of each view the parts to compute it from.
Collected = tuple[Sequence[Made], Sequence[Sequence[Raw]]]


def fetchable(raw: Raw, device: torch.device) -> Any:
    """The same with its voxels in memory from which a GPU can fetch them while other things go on."""
    return raw.holding([_fetchable(array, device.type == "cuda") for array in raw.arrays])


def _fetchable(array: np.ndarray, pinned: bool) -> Tensor:
    held = torch.empty(array.shape, dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype, pin_memory=pinned)
    held.numpy()[...] = array
    return held


class DeviceViews:
    """Queues the computing of one step after the other; `close` when no more is wanted."""

    def __init__(self, maker: Maker, device: torch.device) -> None:
        self.maker, self.device = maker, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device views")

    def submit(self, step: int, collect: Callable[[], Collected]) -> Future:
        """Begin when all items are read: what `collect` waits for and gives, called on the device's stream."""
        return self._thread.submit(self._compute, step, collect)

    def take(self, computed: Future) -> tuple[Sequence[Made], tuple[Tensor, ...]]:
        """The items, and one (batch, x, y, z) for each view, ready: where it was waited for the device, that is seen as waiting."""
        made, views, done = computed.result()
        if done is not None:
            done.synchronize()
            for view in views:
                # The memory was of the other stream: it is not given out again before the caller's stream is done with it.
                view.record_stream(torch.cuda.current_stream(self.device))
        return made, views

    def close(self) -> None:
        """Drop what has not begun and wait for the rest."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _compute(self, step: int, collect: Callable[[], Collected]) -> tuple[Sequence[Made], tuple[Tensor, ...], Any]:
        try:
            with torch.cuda.stream(self._stream):
                made, parts = collect()
                views = self._render(parts)
                return made, views, None if self._stream is None else self._stream.record_event()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"step {step}: out of memory on {self.device} while its views were computed; lower training.world_batch or views.size"
            ) from error

    def _render(self, parts: Sequence[Sequence[Raw]]) -> tuple[Tensor, ...]:
        """One (batch, x, y, z) for each view: those of one size together, which is half the work of starting it."""
        views = dict[int, Tensor]()
        sizes = [of_view[0].size for of_view in parts]
        for size in dict.fromkeys(sizes):
            numbers = [number for number, own in enumerate(sizes) if own == size]
            together = self.maker.render_batch([part for number in numbers for part in parts[number]], self.device)
            views |= zip(numbers, together.chunk(len(numbers)), strict=True)
        return tuple(views[number] for number in range(len(parts)))

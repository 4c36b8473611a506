"""Views of a step computed on a device from what the workers read: in a thread and on a stream of its own, while a step before learns."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from medcl.foundation.errors import UserError


@dataclass(frozen=True)
class Made:
    """What a worker made of an item. row: of the store. raw: what was read for each view, where a device computes them. points, mask:
    for `Batch.points` and `Batch.target`, where they are wanted."""

    row: int
    raw: list[Any]
    points: np.ndarray | None
    mask: np.ndarray | None


class Renderer(Protocol):
    """What is needed of a ViewMaker."""

    def render_batch(self, raw: Sequence[Any], device: torch.device) -> Tensor:
        """Views (batch, x, y, z) of what `read` gave."""
        ...


class DeviceViews:
    """Queues the computing of one step after the other; `close` when no more is wanted."""

    def __init__(self, maker: Renderer, device: torch.device) -> None:
        self.maker, self.device = maker, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device views")

    def submit(self, step: int, read: Sequence[Future[Made]]) -> Future:
        """Begin when all items are read: futures of what was made of each item."""
        return self._thread.submit(self._compute, step, read)

    def take(self, computed: Future) -> tuple[Tensor, ...]:
        """One (batch, x, y, z) for each view, ready: where it was waited for the device, that is seen as waiting."""
        views, done = computed.result()
        if done is not None:
            done.synchronize()
            for view in views:
                # The memory was of the other stream: it is not given out again before the caller's stream is done with it.
                view.record_stream(torch.cuda.current_stream(self.device))
        return views

    def close(self) -> None:
        """Drop what has not begun and wait for the rest."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _compute(self, step: int, read: Sequence[Future[Made]]) -> tuple[tuple[Tensor, ...], Any]:
        items = [item.result().raw for item in read]
        try:
            with torch.cuda.stream(self._stream):
                views = tuple(self.maker.render_batch(raw, self.device) for raw in zip(*items, strict=True))
                return views, None if self._stream is None else self._stream.record_event()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"step {step}: out of memory on {self.device} while its views were computed; lower training.world_batch or views.size"
            ) from error

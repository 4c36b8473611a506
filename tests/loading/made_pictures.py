"""A store and views that write down who asked for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medcl.foundation.randomness import generator

if TYPE_CHECKING:  # not in the reader processes of these tests: it would be most of their time
    import torch


@dataclass
class OneSize:
    """Settings of views that are all of one size."""

    size: tuple[int, ...]

    def size_of(self, view: int) -> tuple[int, ...]:
        return self.size


class CountingStore:
    """Items whose every voxel is the row's number."""

    def __init__(self, num_items: int) -> None:
        self.index = pd.DataFrame({"volume_id": [f"v{row}" for row in range(num_items)], "patient": np.arange(num_items) // 2})


class KeyedMaker:
    """A view is its row plus noise of its key; `fails` breaks on one row."""

    def __init__(self, size: tuple[int, ...], fails: int | None = None) -> None:
        self.config, self.fails, self.keys = OneSize(size), fails, []

    def draw_row(self, store, row: int, key: tuple[int, int, int], num_views: int) -> list[np.random.Generator]:
        self.keys.append(key)
        return [generator(key[0], "view", key[1], key[2], view) for view in range(num_views)]

    def render(self, store: CountingStore, row: int, parameters: np.random.Generator, out: np.ndarray) -> np.ndarray:
        if row == self.fails:
            raise OSError("chunk is damaged")
        out[...] = row + parameters.uniform(0, 0.5, size=out.shape)
        return out

    def read(self, store: CountingStore, row: int, parameters: np.random.Generator) -> Held:
        return Held(self.config.size, [self.render(store, row, parameters, np.empty(self.config.size, np.float32))])

    def join(self, parts: Sequence[Held]) -> Held:
        return Held(parts[0].size, [array for part in parts for array in part.arrays])

    def render_batch(self, parts: Sequence[Held], device: torch.device) -> torch.Tensor:
        import torch

        return torch.stack([torch.as_tensor(array) for array in self.join(parts).arrays]).to(device)


@dataclass
class Held:
    """What was read of some views."""

    size: tuple[int, ...]
    arrays: list[Any]

    def holding(self, arrays: Sequence[Any]) -> Held:
        return Held(self.size, list(arrays))


class Growing(KeyedMaker):
    """Reads more at every step, of which a view shows the first voxel."""

    def read(self, store: CountingStore, row: int, parameters: np.random.Generator) -> Held:
        return Held((1, 1, 1), [np.full((1, 1, 1 + 5000 * self.keys[-1][1]), row, np.int16)])

    def render_batch(self, parts: Sequence[Held], device: torch.device) -> torch.Tensor:
        import torch

        return torch.stack([array[:1, :1, :1].float() for array in self.join(parts).arrays])

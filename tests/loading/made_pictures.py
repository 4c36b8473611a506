"""A store and views that write down who asked for them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from medcl.foundation.randomness import generator


class CountingStore:
    """Items whose every voxel is the row's number."""

    def __init__(self, num_items: int) -> None:
        self.index = pd.DataFrame({"volume_id": [f"v{row}" for row in range(num_items)], "patient": np.arange(num_items) // 2})


class KeyedMaker:
    """A view is its row plus noise of its key; `fails` breaks on one row."""

    def __init__(self, size: tuple[int, ...], fails: int | None = None) -> None:
        self.config, self.fails, self.keys = SimpleNamespace(size=size, size_of=lambda view: size), fails, []

    def draw_row(self, store, row: int, key: tuple[int, int, int], num_views: int) -> list[np.random.Generator]:
        self.keys.append(key)
        return [generator(key[0], "view", key[1], key[2], view) for view in range(num_views)]

    def render(self, store: CountingStore, row: int, parameters: np.random.Generator, out: np.ndarray) -> np.ndarray:
        if row == self.fails:
            raise OSError("chunk is damaged")
        out[...] = row + parameters.uniform(0, 0.5, size=out.shape)
        return out

    def read(self, store: CountingStore, row: int, parameters: np.random.Generator, device: torch.device) -> np.ndarray:
        return self.render(store, row, parameters, np.empty(self.config.size, np.float32))

    def render_batch(self, raw: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
        return torch.from_numpy(np.stack(raw)).to(device)

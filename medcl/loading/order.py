"""Which items a step sees: a pure function of the step, so a resumed run misses and repeats none."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from medcl.foundation.randomness import generator


def items_at(step: int, num_items: int, world_batch: int, seed: int) -> np.ndarray:
    """Items 0..num_items-1 of one step on all processes together: (world_batch,) int64.

    The stream is one random permutation after the other (epoch 0, epoch 1, ...), cut into batches: within an epoch every
    item comes exactly once, and a batch may span the end of one epoch and the start of the next.
    """
    first, last = step * world_batch, (step + 1) * world_batch
    parts = []
    for epoch in range(first // num_items, (last - 1) // num_items + 1):
        start = epoch * num_items
        parts.append(_permutation(epoch, num_items, seed)[max(first - start, 0) : last - start])
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def _permutation(epoch: int, num_items: int, seed: int) -> np.ndarray:
    permutation = generator(seed, "order", step=epoch).permutation(num_items)
    permutation.setflags(write=False)  # cached: nobody may change it
    return permutation

"""Randomness as a pure function: every draw comes from a generator made for its own key, none is shared."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np


def generator(seed: int, purpose: str, step: int = 0, item: int = 0, view: int = 0) -> np.random.Generator:
    """A counter-based generator (Philox 4x64) for one key.

    The key is (seed, purpose), the counter starts at (0, view, item, step): streams of different keys never
    overlap, and a stream depends on nothing but its arguments. Philox: Salmon et al. 2011, "Parallel random
    numbers: as easy as 1, 2, 3".
    """
    mask = (1 << 64) - 1
    counter = np.array([0, view & mask, item & mask, step & mask], dtype=np.uint64)
    key = np.array([seed & mask, _word(purpose)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


@lru_cache(maxsize=256)
def _word(purpose: str) -> int:
    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")


def seed_torch(seed: int, step: int, rank: int) -> None:
    """Set torch's own generators (dropout and the like) to a pure function of (seed, step, rank)."""
    import torch

    torch.manual_seed(int(generator(seed, "torch", step, rank).integers(0, 2**63 - 1)))

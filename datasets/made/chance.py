"""Random numbers by purpose: every draw is a pure function of (seed, purpose, indices)."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """A generator of its own for each (seed, purpose, indices), so that nothing depends on the order of the work."""
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, word, *indices])))


def number(seed: int, purpose: str, *indices: int, digits: int = 12) -> str:
    """A decimal string of exactly `digits` digits (first one not 0) for identifiers."""
    words = "/".join(str(part) for part in (seed, purpose, *indices))
    value = int.from_bytes(hashlib.sha256(words.encode()).digest(), "big")
    low = 10 ** (digits - 1)
    return str(low + value % (9 * low))


def uid(seed: int, purpose: str, *indices: int) -> str:
    """A DICOM UID under the root of UUIDs, always 43 characters long."""
    return "2.25." + number(seed, purpose, *indices, digits=38)


def balanced(seed: int, purpose: str, count: int, share: float) -> np.ndarray:
    """`count` booleans in random order, exactly round(share * count) of them true: order tells nothing about the label."""
    flags = np.arange(count) < round(share * count)
    return generator(seed, purpose).permutation(flags)

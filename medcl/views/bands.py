"""What blurring and losing resolution mean along one axis: the taps, the matrix, and the band of it that is not zero."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np


def reach(sigma: Any) -> np.ndarray:
    """Samples on each side that a Gaussian of standard deviation `sigma` (a number or an array) is cut at: four deviations."""
    return np.asarray(4 * sigma + 0.5).astype(int)


def gaussian(sigma: float) -> np.ndarray:
    """Taps (float32, an odd number, sum one) as far as `reach`, as scipy's gaussian_filter1d has them."""
    most = int(reach(sigma))
    if most == 0:
        return np.ones(1, np.float32)
    taps = np.exp(-0.5 * (np.arange(-most, most + 1) / sigma) ** 2)
    return (taps / taps.sum()).astype(np.float32)


def coarsening(length: int, factor: float) -> np.ndarray:
    """(length, length) float32 matrix that averages `length` samples to about `factor` times fewer and interpolates them back."""
    return _coarsening(length, _fewer(length, factor))


def coarsening_band(length: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """(starts, weights) of that matrix, which is banded: row i is weights[i] at the columns from starts[i] on, and zero elsewhere."""
    return _coarsening_band(length, _fewer(length, factor))


def _fewer(length: int, factor: float) -> int:
    """Samples that are left. A factor is any number, but what is kept below is the same for all that leave as many."""
    return max(1, round(length / factor))


@lru_cache(maxsize=64)
def _coarsening(length: int, coarse: int) -> np.ndarray:
    return _kept(_mixing(length, coarse).astype(np.float32))


@lru_cache(maxsize=1024)
def _coarsening_band(length: int, coarse: int) -> tuple[np.ndarray, np.ndarray]:
    matrix = _mixing(length, coarse)
    used = matrix > 1e-9
    starts = used.argmax(1)
    width = int((length - used[:, ::-1].argmax(1) - starts).max())
    starts = np.minimum(starts, length - width)
    weights = np.stack([matrix[i, start : start + width] for i, start in enumerate(starts)])
    return _kept(starts.astype(np.int64)), _kept(weights.astype(np.float32))


def _mixing(length: int, coarse: int) -> np.ndarray:
    return _triangle(length, coarse, up=True) @ _triangle(coarse, length) if coarse < length else np.eye(length)


def _kept(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)  # nobody may change it
    return array


def _triangle(rows: int, columns: int, up: bool = False) -> np.ndarray:
    """(rows, columns) resampling matrix over one field, rows summing to one."""
    factor = columns / rows
    support = 1.0 if up else max(1.0, factor)
    centres = (np.arange(rows) + 0.5) * factor - 0.5
    centres = np.clip(centres, 0, columns - 1) if up else centres
    weights = np.maximum(0, 1 - np.abs(np.arange(columns)[None, :] - centres[:, None]) / support)
    return weights / weights.sum(1, keepdims=True)

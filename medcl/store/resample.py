"""Changing the spacing of an array: one separable pass that interpolates upwards and averages downwards."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage, sparse


def resampled_length(length: int, factor: float) -> int:
    """How many samples cover the field of `length` samples when each grows by `factor`."""
    return max(1, int(np.floor(length / factor + 0.5)))


def resample(array: np.ndarray, affine: np.ndarray, factors: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Resample an (x, y, z) array so that each voxel grows by `factors`; the centre of the field stays where it is.

    Upwards (factor below 1) this is trilinear interpolation; downwards the same triangle is widened to the new voxel
    so that nothing aliases (the filter of PIL's and torch's antialiased bilinear resize). Edge voxels are repeated
    outside the field. Returns float32 and the new affine.
    """
    array = np.asarray(array, dtype=np.float32)
    affine = np.array(affine, dtype=float)
    for axis in sorted(range(3), key=lambda axis: -factors[axis]):
        factor = factors[axis]
        old, new = array.shape[axis], resampled_length(array.shape[axis], factor)
        if new == old and abs(factor - 1) < 1e-6:
            continue
        first = old / 2 - new * factor / 2 + factor / 2 - 0.5
        array = _apply(_weights(old, new, factor, first), array, axis)
        affine[:3, 3] += affine[:3, axis] * first
        affine[:3, axis] *= factor
    return array, affine


def _weights(old: int, new: int, factor: float, first: float) -> sparse.csr_array:
    """(new, old) matrix of a triangle filter, rows summing to one. `first`: where sample 0 lies among the old ones."""
    support = max(1.0, factor)
    centres = first + factor * np.arange(new)
    taps = np.arange(int(np.ceil(2 * support)) + 1)
    columns = np.ceil(centres - support).astype(int)[:, None] + taps
    distance = columns - centres[:, None]
    values = np.maximum(0.0, 1.0 - np.abs(distance) / support)
    # A sampled triangle leans to one side by up to a twentieth of a voxel; this puts its centre of mass right.
    lean, width = (values * distance).sum(1), (values * distance**2).sum(1)
    values *= 1.0 - (lean / np.maximum(width, 1e-9))[:, None] * distance
    values /= values.sum(1, keepdims=True)
    rows = np.repeat(np.arange(new), len(taps))
    columns = np.clip(columns, 0, old - 1).ravel()
    return sparse.csr_array((values.ravel().astype(np.float32), (rows, columns)), shape=(new, old))


def _apply(weights: sparse.csr_array, array: np.ndarray, axis: int) -> np.ndarray:
    moved = np.ascontiguousarray(np.moveaxis(array, axis, 0))
    result = weights @ moved.reshape(moved.shape[0], -1)
    return np.ascontiguousarray(np.moveaxis(result.reshape(-1, *moved.shape[1:]), 0, axis))


def nearest_on_grid(array: np.ndarray, affine: np.ndarray, shape: tuple[int, int, int], grid_affine: np.ndarray) -> np.ndarray:
    """Labels of `array` at the voxel centres of another grid (nearest neighbour); 0 outside the array."""
    to_old = np.linalg.inv(affine) @ grid_affine
    offset: Any = to_old[:3, 3]
    return ndimage.affine_transform(array, to_old[:3, :3], offset, output_shape=shape, order=0, mode="constant", cval=0)

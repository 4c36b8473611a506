"""Changing the spacing of an array: one separable pass that interpolates upwards and averages downwards."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from scipy import ndimage


def resampled_length(length: int, factor: float) -> int:
    """How many samples cover the field of `length` samples when each grows by `factor`."""
    return max(1, int(np.floor(length / factor + 0.5)))


def resample(array: np.ndarray, affine: np.ndarray, factors: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Resample an (x, y, z) array so that each voxel grows by `factors`; the centre of the field stays where it is.

    Upwards (factor below 1) this is trilinear interpolation; downwards the same triangle is widened to the new voxel
    so that nothing aliases (the filter of PIL's and torch's antialiased bilinear resize). Edge voxels are repeated
    outside the field. Returns float32 and the new affine.
    """
    affine = np.array(affine, dtype=float)
    # DICOM's and NIfTI's first axis runs fastest in memory; the passes are fastest where the last one does. The order of the axes and
    # the arithmetic do not depend on it: the same bits, however a scan lies on the disk.
    is_turned = abs(array.strides[0]) < abs(array.strides[2])
    for axis in sorted(range(3), key=lambda axis: (-factors[axis], -axis)):
        factor = factors[axis]
        old, new = array.shape[axis], resampled_length(array.shape[axis], factor)
        if new == old and abs(factor - 1) < 1e-6:
            continue
        first = old / 2 - new * factor / 2 + factor / 2 - 0.5
        band = _band(old, new, factor, first)
        array = _mixed(array.T, *band, 2 - axis).T if is_turned else _mixed(array, *band, axis)
        affine[:3, 3] += affine[:3, axis] * first
        affine[:3, axis] *= factor
    return np.asarray(array, dtype=np.float32), affine


def _band(old: int, new: int, factor: float, first: float) -> tuple[np.ndarray, np.ndarray]:
    """(columns, weights), each (new, taps), of a triangle filter: new[i] = sum over t of weights[i, t] * old[columns[i, t]].

    Weights sum to one. first: where sample 0 lies among the old ones.
    """
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
    return np.clip(columns, 0, old - 1).astype(np.uint64), values.astype(np.float32)


def _mixed(array: np.ndarray, columns: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    shape = (*array.shape[:axis], len(columns), *array.shape[axis + 1 :])
    out = np.empty(shape, np.float32)
    if axis == 2:
        _mix_last(array, columns, weights, out)
    elif axis == 1:
        _mix_lines(array, columns, weights, out)
    else:
        _mix_lines(array.swapaxes(0, 1), columns, weights, out.swapaxes(0, 1))
    return out


@njit(nogil=True, cache=True)
def _mix_lines(array, columns, weights, out):
    """Along the middle axis; the inner loop runs along the last."""
    for i in range(out.shape[0]):
        for m in range(out.shape[1]):
            for k in range(out.shape[2]):
                out[i, m, k] = 0
            for t in range(columns.shape[1]):
                weight, source = weights[m, t], columns[m, t]
                if weight != 0:
                    for k in range(out.shape[2]):
                        out[i, m, k] += weight * np.float32(array[i, source, k])


@njit(nogil=True, cache=True)
def _mix_last(array, columns, weights, out):
    """Along the last axis."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for m in range(out.shape[2]):
                total = np.float32(0)
                for t in range(columns.shape[1]):
                    total += weights[m, t] * np.float32(array[i, j, columns[m, t]])
                out[i, j, m] = total


def nearest_on_grid(array: np.ndarray, affine: np.ndarray, shape: tuple[int, int, int], grid_affine: np.ndarray) -> np.ndarray:
    """Labels of `array` at the voxel centres of another grid (nearest neighbour); 0 outside the array."""
    to_old = np.linalg.inv(affine) @ grid_affine
    offset: Any = to_old[:3, 3]
    return ndimage.affine_transform(array, to_old[:3, :3], offset, output_shape=shape, order=0, mode="constant", cval=0)

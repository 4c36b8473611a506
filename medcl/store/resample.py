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
    lines, bands = array.T if is_turned else array, {}
    for axis in sorted(range(3), key=lambda axis: (-factors[axis], -axis)):
        factor = factors[axis]
        old, new = array.shape[axis], resampled_length(array.shape[axis], factor)
        if new == old and abs(factor - 1) < 1e-6:
            continue
        first = old / 2 - new * factor / 2 + factor / 2 - 0.5
        bands[2 - axis if is_turned else axis] = _band(old, new, factor, first)
        affine[:3, 3] += affine[:3, axis] * first
        affine[:3, axis] *= factor
    lines = np.asarray(_mixed(lines, bands), dtype=np.float32)
    return lines.T if is_turned else lines, affine


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


def _mixed(array: np.ndarray, bands: dict[int, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Mixed along the axes of `bands`, in their order."""
    for axis, (columns, weights) in bands.items():
        if array.strides[axis] < 0:  # read in the order of the memory, which is faster: the same numbers, counted from the other end
            array, bands[axis] = np.flip(array, axis), (np.uint64(array.shape[axis] - 1) - columns, weights)
    axes = list(bands)
    while axes:
        axis = axes.pop(0)
        shape = [*array.shape]
        shape[axis] = len(bands[axis][0])
        if axis == 1 and axes[:1] == [2]:
            axes.pop(0)
            shape[2] = len(bands[2][0])
            out = np.empty(shape, np.float32)
            for plane, mixed in zip(array, out, strict=True):
                _mix_plane(np.ascontiguousarray(plane), *bands[1], *bands[2], mixed)
        else:
            out = np.empty(shape, np.float32)
            _mix_one(array, *bands[axis], axis, out)
        array = out
    return array


def _mix_one(array: np.ndarray, columns: np.ndarray, weights: np.ndarray, axis: int, out: np.ndarray) -> None:
    if axis == 2:
        _mix_last(array, columns, weights, out)
    elif axis == 1:
        _mix_lines(array, columns, weights, out)
    else:
        _mix_lines(array.swapaxes(0, 1), columns, weights, out.swapaxes(0, 1))


@njit(nogil=True, cache=True)
def _mix_plane(plane, columns, weights, columns_2, weights_2, out):
    """Along the first axis and then along the last one, line by line: what is between them never leaves the processor's cache."""
    line = np.empty(plane.shape[1], np.float32)
    for m in range(out.shape[0]):
        line[:] = 0
        for t in range(columns.shape[1]):
            if weights[m, t] != 0:
                _add(plane[columns[m, t]], weights[m, t], line)
        _pick_last(line, columns_2, weights_2, out[m])


@njit(nogil=True, cache=True)
def _add(line, weight, total):
    for k in range(total.size):
        total[k] += weight * np.float32(line[k])


@njit(nogil=True, cache=True)
def _mix_lines(array, columns, weights, out):
    """Along the middle axis; the inner loop runs along the last."""
    for i in range(out.shape[0]):
        for m in range(out.shape[1]):
            out[i, m] = 0
            for t in range(columns.shape[1]):
                if weights[m, t] != 0:
                    _add(array[i, columns[m, t]], weights[m, t], out[i, m])


@njit(nogil=True, cache=True)
def _mix_last(array, columns, weights, out):
    """Along the last axis."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            _pick_last(array[i, j], columns, weights, out[i, j])


@njit(nogil=True, cache=True)
def _pick_last(line, columns, weights, row):
    for m in range(row.size):
        total = np.float32(0)
        for t in range(columns.shape[1]):
            total += weights[m, t] * np.float32(line[columns[m, t]])
        row[m] = total


def nearest_on_grid(array: np.ndarray, affine: np.ndarray, shape: tuple[int, int, int], grid_affine: np.ndarray) -> np.ndarray:
    """Labels of `array` at the voxel centres of another grid (nearest neighbour); 0 outside the array."""
    to_old = np.linalg.inv(affine) @ grid_affine
    offset: Any = to_old[:3, 3]
    return ndimage.affine_transform(array, to_old[:3, :3], offset, output_shape=shape, order=0, mode="constant", cval=0)

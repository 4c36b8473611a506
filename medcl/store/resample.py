"""Changing the spacing of an array: one separable pass that interpolates upwards and averages downwards."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from scipy import ndimage

_TOGETHER = 4  # lines that `_pick_last` takes at a time


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
    columns = np.floor(centres - support).astype(int)[:, None] + 1 + np.arange(int(np.ceil(2 * support)))
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
    """Along the first axis and then along the last one, few lines at a time: what is between never leaves the processor's cache."""
    lines = np.empty((_TOGETHER, plane.shape[1]), np.float32)
    for first in range(0, out.shape[0], _TOGETHER):
        rows = out[first : first + _TOGETHER]
        _mix_rows(plane, columns[first:], weights[first:], lines[: rows.shape[0]])
        _pick_last(lines, columns_2, weights_2, rows)


@njit(nogil=True, cache=True)
def _mix_rows(plane, columns, weights, rows):
    """Along the first axis. Indices, not slices: a slice is counted as it is made and as it goes, which takes as long as a short line."""
    for m in range(rows.shape[0]):
        rows[m] = 0
        for t in range(columns.shape[1]):
            column, weight = columns[m, t], weights[m, t]
            if weight != 0:
                for k in range(rows.shape[1]):
                    rows[m, k] += weight * np.float32(plane[column, k])


@njit(nogil=True, cache=True)
def _mix_lines(array, columns, weights, out):
    """Along the middle axis; the inner loop runs along the last."""
    for i in range(out.shape[0]):
        _mix_rows(array[i], columns, weights, out[i])


@njit(nogil=True, cache=True)
def _mix_last(array, columns, weights, out):
    """Along the last axis."""
    for i in range(out.shape[0]):
        for first in range(0, out.shape[1], _TOGETHER):
            _pick_last(array[i, first : first + _TOGETHER], columns, weights, out[i, first : first + _TOGETHER])


@njit(nogil=True, cache=True)
def _pick_last(lines, columns, weights, rows):
    """Four lines at a time (`_TOGETHER`; fewer rows: the last one again), so that columns and weights are looked up once for all."""
    last = rows.shape[0] - 1
    b, c, d = min(1, last), min(2, last), min(3, last)
    for m in range(rows.shape[1]):
        sum_a = sum_b = sum_c = sum_d = np.float32(0)
        for t in range(columns.shape[1]):
            column, weight = columns[m, t], weights[m, t]
            sum_a += weight * np.float32(lines[0, column])
            sum_b += weight * np.float32(lines[b, column])
            sum_c += weight * np.float32(lines[c, column])
            sum_d += weight * np.float32(lines[d, column])
        rows[0, m], rows[b, m], rows[c, m], rows[d, m] = sum_a, sum_b, sum_c, sum_d


def nearest_on_grid(array: np.ndarray, affine: np.ndarray, shape: tuple[int, int, int], grid_affine: np.ndarray) -> np.ndarray:
    """Labels of `array` at the voxel centres of another grid (nearest neighbour); 0 outside the array."""
    to_old = np.linalg.inv(affine) @ grid_affine
    offset: Any = to_old[:3, 3]
    return ndimage.affine_transform(array, to_old[:3, :3], offset, output_shape=shape, order=0, mode="constant", cval=0)


def keep_small_labels(labels: np.ndarray, affine: np.ndarray, on_grid: np.ndarray, grid_affine: np.ndarray) -> list[int]:
    """Give each label that `nearest_on_grid` lost between its voxels the one nearest the label's centre of mass, in place.

    Never the last voxel of another label, nor one for a label whose centre lies more than a voxel outside. Returns what stays lost.
    """
    before, after = _boxes(labels), _boxes(on_grid)
    lost = [label for label, box in enumerate(before, 1) if box and (label > len(after) or after[label - 1] is None)]
    to_new = np.linalg.inv(grid_affine) @ affine
    stay_lost = []
    for label in lost:
        box = before[label - 1]
        centre = np.argwhere(labels[box] == label).mean(0) + [edge.start for edge in box]
        place = to_new[:3, :3] @ centre + to_new[:3, 3]
        nearest = np.clip(np.rint(place).astype(int), 0, np.array(on_grid.shape) - 1)
        there = on_grid[tuple(nearest)]
        if np.abs(place - nearest).max() <= 1 and (there == 0 or np.count_nonzero(on_grid == there) > 1):
            on_grid[tuple(nearest)] = label
        else:
            stay_lost.append(label)
    return stay_lost


def _boxes(labels: np.ndarray) -> list[Any]:
    """The box around each label, None where there is none: read in the order of the memory, four times as fast."""
    if abs(labels.strides[0]) >= abs(labels.strides[2]):
        return ndimage.find_objects(labels)
    return [box and box[::-1] for box in ndimage.find_objects(labels.T)]

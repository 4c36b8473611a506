"""Trilinear sampling along the array's own axes, mirrored or not: most crops are not turned, and a third of the work is enough for them."""

from __future__ import annotations

import numpy as np
from numba import njit

# A product and a sum may be rounded once: half as many instructions.
_FUSED = {"contract"}
_ONE = np.uint64(1)


def is_aligned(matrix: np.ndarray) -> bool:
    """Whether the axes of a view are the array's, mirrored or not. matrix: (3, 4), view voxel -> array voxel."""
    turn = matrix[:, :3]
    return np.count_nonzero(turn) == np.count_nonzero(turn.diagonal())


@njit(nogil=True, cache=True, fastmath=_FUSED)
def sample_aligned(region, matrix, slope, intercept, out):
    """Fill `out` (x, y, z) from the region (x, y, z): whole lines are mixed, which vectorises, and only then are voxels picked."""
    nx, ny, nz = out.shape
    at_x, part_x = _split_axis(matrix[0, 0], matrix[0, 3], nx)
    y, z = _split_axis(matrix[1, 1], matrix[1, 3], ny), _split_axis(matrix[2, 2], matrix[2, 3], nz)
    line, run = np.empty(region.shape[2], np.float32), _run(z[0])
    for i in range(nx):
        _sample_slice(region[at_x[i] : at_x[i] + 2], part_x[i], y, z, run, line, slope, intercept, out[i])


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _sample_slice(two, part_x, y, z, run, line, slope, intercept, out):
    """One plane of the view. Indices, not slices: a slice is counted as it is made and as it goes, which takes as long as a short line."""
    (at_y, part_y), (at_z, part_z), nz = y, z, out.shape[1]
    first = at_z[0] if run > 0 else at_z[nz - 1]
    for j in range(out.shape[0]):
        low, part = at_y[j], part_y[j]
        high = low + _ONE
        for k in range(line.size):
            a, b, c, d = np.float32(two[0, low, k]), np.float32(two[0, high, k]), np.float32(two[1, low, k]), np.float32(two[1, high, k])
            near, far = a + (b - a) * part, c + (d - c) * part
            line[k] = near + (far - near) * part_x
        # Unsigned, or numba looks for an index from the end, and the loops are not vectorised.
        if run > 0:
            for k in range(nz):
                at = first + np.uint64(k)
                out[j, k] = (line[at] + (line[at + _ONE] - line[at]) * part_z[k]) * slope + intercept
        elif run < 0:
            for k in range(nz):
                at = first + np.uint64(nz - 1) - np.uint64(k)
                out[j, k] = (line[at] + (line[at + _ONE] - line[at]) * part_z[k]) * slope + intercept
        else:
            for k in range(nz):
                at = at_z[k]
                out[j, k] = (line[at] + (line[at + _ONE] - line[at]) * part_z[k]) * slope + intercept


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _split_axis(step, start, count):
    """Index of the voxel below each position along one axis, and the fraction above it."""
    index, part = np.empty(count, np.uint64), np.empty(count, np.float32)
    for k in range(count):
        place = np.float32(start + step * k)
        index[k] = np.uint64(place)
        part[k] = place - np.float32(index[k])
    return index, part


@njit(nogil=True, cache=True)
def _run(index):
    """1 where each index is the one before plus one, -1 where minus one (views at the store's own spacing), else 0."""
    up, down = 0, 0
    for k in range(index.size - 1):
        up += index[k + 1] == index[k] + _ONE
        down += index[k + 1] + _ONE == index[k]
    return (up == index.size - 1) - (down == index.size - 1 and index.size > 1)

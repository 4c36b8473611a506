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
    at_y, part_y = _split_axis(matrix[1, 1], matrix[1, 3], ny)
    at_z, part_z = _split_axis(matrix[2, 2], matrix[2, 3], nz)
    line, run = np.empty(region.shape[2], np.float32), _run(at_z)
    for i in range(nx):
        near, far = region[at_x[i]], region[at_x[i] + _ONE]
        for j in range(ny):
            _mix_lines(near[at_y[j]], near[at_y[j] + _ONE], far[at_y[j]], far[at_y[j] + _ONE], part_x[i], part_y[j], line)
            if run > 0:
                _pick_upwards(line[at_z[0] :], part_z, slope, intercept, out[i, j])
            elif run < 0:
                _pick_downwards(line[at_z[nz - 1] :], part_z, slope, intercept, out[i, j])
            else:
                _pick(line, at_z, part_z, slope, intercept, out[i, j])


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


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _mix_lines(a, b, c, d, x, y, line):
    for k in range(line.size):
        near = np.float32(a[k]) + (np.float32(b[k]) - np.float32(a[k])) * y
        far = np.float32(c[k]) + (np.float32(d[k]) - np.float32(c[k])) * y
        line[k] = near + (far - near) * x


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _pick(line, at, part, slope, intercept, row):
    for k in range(row.size):
        below, above = line[at[k]], line[at[k] + _ONE]
        row[k] = (below + (above - below) * part[k]) * slope + intercept


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _pick_upwards(line, part, slope, intercept, row):
    for k in range(row.size):
        row[k] = (line[k] + (line[k + 1] - line[k]) * part[k]) * slope + intercept


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _pick_downwards(line, part, slope, intercept, row):
    last = np.uint64(row.size - 1)
    for k in range(row.size):
        # Unsigned, or numba looks for an index from the end, and the loop is not vectorised.
        at = last - np.uint64(k)
        row[k] = (line[at] + (line[at + _ONE] - line[at]) * part[k]) * slope + intercept

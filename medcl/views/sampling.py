"""One trilinear pass from stored integers straight into a view: the box it needs, then three vectorised inner loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

from medcl.store.arrays import Box

# Coordinates are single precision inside the loops; the box is this much wider so that rounding stays inside it.
_MARGIN = 0.01

Reader = Callable[[Box], np.ndarray]


def sample(
    read: Reader,
    shape: tuple[int, int, int],
    matrix: np.ndarray,
    out: np.ndarray,
    *,
    background: float,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> None:
    """Fill `out` (x, y, z) float32 with values at `matrix` (3, 4): view voxel -> stored voxel, trilinear.

    read: gives a box of the stored array (any real dtype) of the given `shape`; it is asked once, for the exact
    bounding box. Where a view voxel spans more than 1.5 stored ones, these are averaged first, so nothing aliases.
    background: the stored value (after slope and intercept) outside the array.
    """
    factors = [max(1, int(ratio + 0.5)) for ratio in np.linalg.norm(matrix[:, :3], axis=1)]
    matrix = _on_pooled_grid(matrix, factors)
    low, high = bounding_box(matrix, out.shape)
    region = _read_padded(read, shape, low * factors, high * factors, (background - intercept) / slope)
    if max(factors) > 1:
        region = _pooled(region, factors[0], factors[1], factors[2])
    local = matrix.copy()
    local[:, 3] -= low
    if region.shape[2] == 1:
        _sample_plane(region[:, :, 0], local, np.float32(slope), np.float32(intercept), out)
    else:
        _sample_space(region, local, np.float32(slope), np.float32(intercept), out)


def sample_nearest(read: Reader, shape: tuple[int, int, int], matrix: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Labels at the nearest stored voxels, 0 outside: for masks. Returns (x, y, z) in the array's own dtype."""
    low, high = bounding_box(matrix, size)
    region = _read_padded(read, shape, low, high, 0)
    axes = np.ogrid[tuple(slice(0, n) for n in size)]
    index = []
    for axis in range(3):
        position = sum(float(matrix[axis, i]) * axes[i] for i in range(3)) + float(matrix[axis, 3] - low[axis])
        index.append(np.clip(np.rint(position).astype(np.intp), 0, region.shape[axis] - 1))
    return region[tuple(index)]


def bounding_box(matrix: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """First and one past last stored voxel that a view touches, per axis; may reach outside the array.

    The third axis of a view that is one voxel thick and lies in one stored plane (a picture) takes that plane only.
    """
    far = matrix[:, :3] * (np.array(size) - 1)
    start = matrix[:, 3] + np.minimum(far, 0).sum(1)
    stop = matrix[:, 3] + np.maximum(far, 0).sum(1)
    low = np.floor(start - _MARGIN).astype(np.int64)
    high = np.floor(stop + _MARGIN).astype(np.int64) + 2
    if size[2] == 1 and start[2] == stop[2] == np.round(start[2]):
        low[2] = int(start[2])
        high[2] = low[2] + 1
    return low, high


def _on_pooled_grid(matrix: np.ndarray, factors: list[int]) -> np.ndarray:
    scale = np.array(factors, dtype=float)
    pooled = matrix / scale[:, None]
    pooled[:, 3] = (matrix[:, 3] + 0.5) / scale - 0.5
    return pooled


def _read_padded(read: Reader, shape: tuple[int, int, int], low: np.ndarray, high: np.ndarray, fill: float) -> np.ndarray:
    """The region low..high; what lies outside the array is `fill` (in the array's own numbers)."""
    inside_low, inside_high = np.clip(low, 0, shape), np.clip(high, 0, shape)
    if (inside_low >= inside_high).any():
        inside_low, inside_high = np.zeros(3, dtype=np.int64), np.ones(3, dtype=np.int64)
        dtype = read(((0, 1), (0, 1), (0, 1))).dtype
        return np.full(high - low, _as(dtype, fill), dtype=dtype)
    bounds = [(int(a), int(b)) for a, b in zip(inside_low, inside_high, strict=True)]
    part = read((bounds[0], bounds[1], bounds[2]))
    if part.shape == tuple(high - low):
        return np.ascontiguousarray(part)
    region = np.full(high - low, _as(part.dtype, fill), dtype=part.dtype)
    region[tuple(slice(a, b) for a, b in zip(inside_low - low, inside_high - low, strict=True))] = part
    return region


def _as(dtype: np.dtype, value: float) -> float | int:
    return value if dtype.kind == "f" else int(np.clip(round(value), np.iinfo(dtype).min, np.iinfo(dtype).max))


@njit(nogil=True, cache=True)
def _sample_space(region, matrix, slope, intercept, out):
    nx, ny, nz = out.shape
    flat = region.reshape(-1)
    stride_y = region.shape[2]
    stride_x = region.shape[1] * stride_y
    index = np.empty(nz, np.int32)
    fx, fy, fz = np.empty(nz, np.float32), np.empty(nz, np.float32), np.empty(nz, np.float32)
    corner = np.empty((8, nz), np.float32)
    dx, dy, dz = np.float32(matrix[0, 2]), np.float32(matrix[1, 2]), np.float32(matrix[2, 2])
    for i in range(nx):
        for j in range(ny):
            x0 = np.float32(matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 3])
            y0 = np.float32(matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 3])
            z0 = np.float32(matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 3])
            for k in range(nz):
                step = np.float32(k)
                x, y, z = x0 + dx * step, y0 + dy * step, z0 + dz * step
                ix, iy, iz = np.int32(x), np.int32(y), np.int32(z)
                fx[k], fy[k], fz[k] = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
                index[k] = np.int32(ix * stride_x + iy * stride_y + iz)
            for k in range(nz):
                at = index[k]
                corner[0, k], corner[1, k] = flat[at], flat[at + 1]
                corner[2, k], corner[3, k] = flat[at + stride_y], flat[at + stride_y + 1]
                corner[4, k], corner[5, k] = flat[at + stride_x], flat[at + stride_x + 1]
                corner[6, k], corner[7, k] = flat[at + stride_x + stride_y], flat[at + stride_x + stride_y + 1]
            row = out[i, j]
            for k in range(nz):
                a = corner[0, k] + (corner[1, k] - corner[0, k]) * fz[k]
                b = corner[2, k] + (corner[3, k] - corner[2, k]) * fz[k]
                c = corner[4, k] + (corner[5, k] - corner[4, k]) * fz[k]
                d = corner[6, k] + (corner[7, k] - corner[6, k]) * fz[k]
                a += (b - a) * fy[k]
                c += (d - c) * fy[k]
                row[k] = (a + (c - a) * fx[k]) * slope + intercept


@njit(nogil=True, cache=True)
def _sample_plane(region, matrix, slope, intercept, out):
    nx, ny, _ = out.shape
    flat = region.reshape(-1)
    stride = region.shape[1]
    dx, dy = np.float32(matrix[0, 1]), np.float32(matrix[1, 1])
    for i in range(nx):
        x0 = np.float32(matrix[0, 0] * i + matrix[0, 3])
        y0 = np.float32(matrix[1, 0] * i + matrix[1, 3])
        for j in range(ny):
            x, y = x0 + dx * np.float32(j), y0 + dy * np.float32(j)
            ix, iy = np.int32(x), np.int32(y)
            fx, fy = x - np.float32(ix), y - np.float32(iy)
            at = ix * stride + iy
            a = np.float32(flat[at]) + (np.float32(flat[at + 1]) - np.float32(flat[at])) * fy
            c = np.float32(flat[at + stride]) + (np.float32(flat[at + stride + 1]) - np.float32(flat[at + stride])) * fy
            out[i, j, 0] = (a + (c - a) * fx) * slope + intercept


@njit(nogil=True, cache=True)
def _pooled(region, fx, fy, fz):
    nx, ny, nz = region.shape[0] // fx, region.shape[1] // fy, region.shape[2] // fz
    out = np.empty((nx, ny, nz), np.float32)
    share = np.float32(1.0 / (fx * fy * fz))
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                total = np.float32(0)
                for a in range(fx):
                    for b in range(fy):
                        for c in range(fz):
                            total += np.float32(region[i * fx + a, j * fy + b, k * fz + c])
                out[i, j, k] = total * share
    return out

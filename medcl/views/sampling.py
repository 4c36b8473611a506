"""One trilinear pass from stored integers straight into a view: the box it needs, bent where asked, in vectorised inner loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from medcl.store.arrays import Box
from medcl.views.aligned import is_aligned, sample_aligned

# Coordinates are single precision inside the loops; the box is this much wider so that rounding stays inside it.
_MARGIN = 0.01
# Voxels that are read at once to be averaged, with what they need beside them: views of long scans span many.
_AT_ONCE = 2**23
# No bend: no control points.
_STRAIGHT, _NOWHERE = np.zeros((0, 0, 0, 3)), np.zeros(3)

Reader = Callable[[Box], np.ndarray]

# A product and a sum may be rounded once: half as many instructions.
_FUSED = {"contract"}


@dataclass(frozen=True, eq=False)
class Region:
    """The stored voxels that one view needs, and where in them it lies.

    array: (x, y, z) in the store's own numbers. factors: so many voxels are averaged along each axis first, so that nothing
    aliases. matrix: (3, 4), view voxel -> averaged voxel. bend: displacements in averaged voxels at the control points of a
    spline, (0, 0, 0, 3) where there are none. scaling: (slope, intercept), from the array's numbers to stored values.
    """

    array: Any
    factors: tuple[int, int, int]
    matrix: np.ndarray
    bend: np.ndarray
    scaling: tuple[float, float]


def region_of(view: np.ndarray) -> Region:
    """The region of a view that is finished: its own voxels, where they are."""
    return Region(view, (1, 1, 1), np.eye(3, 4), _STRAIGHT, (1.0, 0.0))


def read_region(
    read: Reader,
    shape: tuple[int, int, int],
    matrix: np.ndarray,
    size: tuple[int, ...],
    *,
    background: float,
    slope: float = 1.0,
    intercept: float = 0.0,
    bend: np.ndarray | None = None,
) -> Region:
    """What a view of (x, y, z) `size` needs; see `sample`."""
    local, factors = _on_pooled_grid(matrix)
    bend = _STRAIGHT if bend is None else bend / factors
    low, high = bounding_box(local, size, bend)
    local[:, 3] -= low
    fill = (background - intercept) / slope
    x, y, z = factors.tolist()
    if x * y * z > 1 and np.prod((high - low) * factors) > _AT_ONCE:
        return Region(_read_pooled(read, shape, low, high, factors, fill), (1, 1, 1), local, bend, (slope, intercept))
    array = _read_padded(read, shape, low * factors, high * factors, fill)
    return Region(array, (x, y, z), local, bend, (slope, intercept))


def sample(
    read: Reader,
    shape: tuple[int, int, int],
    matrix: np.ndarray,
    out: np.ndarray,
    *,
    background: float,
    slope: float = 1.0,
    intercept: float = 0.0,
    bend: np.ndarray | None = None,
) -> None:
    """Fill `out` (x, y, z) float32 with values at `matrix` (3, 4): view voxel -> stored voxel, trilinear.

    read: gives a box of the stored array (any real dtype) of the given `shape`; it is asked once, for the exact
    bounding box. Where a view voxel spans more than 1.5 stored ones, these are averaged first, so nothing aliases.
    background: the stored value (after slope and intercept) outside the array. bend: (points x, y, z, 3) displacements
    in stored voxels at the control points of a cubic B-spline over the view (see `spline_weights`).
    """
    region = read_region(read, shape, matrix, out.shape, background=background, slope=slope, intercept=intercept, bend=bend)
    array, local, bend = region.array, region.matrix, region.bend
    if max(region.factors) > 1:
        array = _pooled(array, *region.factors)
    scaling = np.float32(slope), np.float32(intercept)
    if array.shape[2] > 1 and not bend.size and is_aligned(local):
        sample_aligned(array, local, *scaling, out)
    elif array.shape[2] > 1:
        _sample_volume(array, local, bend, scaling, out)
    elif bend.size:
        # A picture as a volume of two equal planes: its own axes last, where the inner loop runs.
        order = [2, 0, 1]
        planes = np.repeat(np.moveaxis(array, 2, 0), 2, axis=0)
        turned = local[order][:, [*order, 3]]
        _sample_volume(planes, turned, bend.transpose(2, 0, 1, 3)[..., order], scaling, out.reshape(1, *out.shape[:2]))
    else:
        _sample_plane(array[:, :, 0], local, *scaling, out)


def _sample_volume(region: np.ndarray, matrix: np.ndarray, bend: np.ndarray, scaling: tuple[np.float32, np.float32], out: np.ndarray):
    strides = np.int32(region.shape[1] * region.shape[2]), np.int32(region.shape[2])
    weights_x, weights_y, weights_z = (spline_weights(size, points) for size, points in zip(out.shape, bend.shape, strict=False))
    control = np.ascontiguousarray(bend, np.float32)
    weights = weights_x, weights_y, np.ascontiguousarray(weights_z.T)
    _sample_space(region.reshape(-1), region.dtype == np.int16, strides, matrix, control, weights, *scaling, out)


def sample_nearest(
    read: Reader, shape: tuple[int, int, int], matrix: np.ndarray, size: tuple[int, int, int], bend: np.ndarray | None = None
) -> np.ndarray:
    """Labels at the nearest stored voxels, 0 outside: for masks. Returns (x, y, z) in the array's own dtype."""
    low, high = bounding_box(matrix, size, bend)
    first = np.minimum(np.maximum(low, 0), np.array(shape) - 1)
    last = np.maximum(np.minimum(high, shape), first + 1)
    a, b, c = zip(first.tolist(), last.tolist(), strict=True)
    part = read((a, b, c))
    axes = np.ogrid[tuple(slice(0, n) for n in size)]
    moved = np.zeros((3, 1, 1, 1))
    if bend is not None:
        x, y, z = (spline_weights(n, points) for n, points in zip(size, bend.shape, strict=False))
        moved = np.einsum("ia,jb,kc,abcd->dijk", x, y, z, bend, optimize=True)
    inside, index = np.ones(size, bool), []
    for axis in range(3):
        position = sum(float(matrix[axis, i]) * axes[i] for i in range(3)) + float(matrix[axis, 3] - low[axis]) + moved[axis]
        nearest = np.rint(position).astype(np.intp) + (low[axis] - first[axis])
        inside &= (nearest >= 0) & (nearest < part.shape[axis])
        index.append(np.clip(nearest, 0, part.shape[axis] - 1))
    return np.where(inside, part[tuple(index)], part.dtype.type(0))


def spline_weights(size: int, points: int, places: np.ndarray | None = None) -> np.ndarray:
    """(n, points) weights of a uniform cubic B-spline over a line of samples, at each of them or at `places` (n,) between them.

    The spline spans the field of the samples and an eighth of a sample beyond each end, as ITK's BSplineTransformInitializer
    has it. Rows sum to one and are never negative, so that no displacement is larger than the largest at a control point.
    """
    at = np.arange(size) if places is None else places
    if points < 4:
        return np.ones((len(at), points), np.float32)
    place = 1 + (at + 0.625) / (size + 0.25) * (points - 3)
    far = np.abs(place[:, None] - np.arange(points))
    near = 2 / 3 - far**2 + far**3 / 2
    return np.where(far < 1, near, np.where(far < 2, (2 - far) ** 3 / 6, 0)).astype(np.float32)


def bounding_box(matrix: np.ndarray, size: tuple[int, ...], bend: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """First and one past last stored voxel that a view touches, per axis; may reach outside the array.

    The third axis of a view that is one voxel thick and lies in one stored plane (a picture) takes that plane only.
    """
    reach = np.abs(bend).max((0, 1, 2)) if bend is not None and bend.size else _NOWHERE
    return _touched(matrix, size, reach)


@njit(nogil=True, cache=True)
def _touched(matrix, size, reach):
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for axis in range(3):
        start = stop = matrix[axis, 3]
        for along in range(3):
            far = matrix[axis, along] * (size[along] - 1)
            start, stop = start + min(far, 0.0), stop + max(far, 0.0)
        start, stop = start - reach[axis], stop + reach[axis]
        low[axis], high[axis] = np.int64(np.floor(start - _MARGIN)), np.int64(np.floor(stop + _MARGIN)) + 2
        if axis == 2 and size[2] == 1 and start == stop and start == np.round(start):
            low[axis], high[axis] = np.int64(start), np.int64(start) + 1
    return low, high


@njit(nogil=True, cache=True)
def _on_pooled_grid(matrix):
    """The matrix onto voxels that are averaged, and how many along each axis of the array are."""
    pooled, factors = matrix.copy(), np.ones(3, np.int64)
    for axis in range(3):
        ratio = np.sqrt(matrix[axis, 0] ** 2 + matrix[axis, 1] ** 2 + matrix[axis, 2] ** 2)
        factors[axis] = max(1, np.int64(ratio + 0.5))
        pooled[axis] /= factors[axis]
        pooled[axis, 3] = (matrix[axis, 3] + 0.5) / factors[axis] - 0.5
    return pooled, factors


def _read_padded(read: Reader, shape: tuple[int, int, int], low: np.ndarray, high: np.ndarray, fill: float) -> np.ndarray:
    """The region low..high; what lies outside the array is `fill` (in the array's own numbers)."""
    first, last = low.tolist(), high.tolist()
    x, y, z = ((max(0, min(a, length)), max(0, min(b, length))) for a, b, length in zip(first, last, shape, strict=True))
    if any(a >= b for a, b in (x, y, z)):
        dtype = read(((0, 1), (0, 1), (0, 1))).dtype
        return np.full(high - low, _as(dtype, fill), dtype=dtype)
    part = read((x, y, z))
    if part.shape == tuple(b - a for a, b in zip(first, last, strict=True)):
        return np.ascontiguousarray(part)
    region = np.full(high - low, _as(part.dtype, fill), dtype=part.dtype)
    region[tuple(slice(a - start, b - start) for (a, b), start in zip((x, y, z), first, strict=True))] = part
    return region


def _read_pooled(read: Reader, shape: tuple[int, int, int], low: np.ndarray, high: np.ndarray, factors: np.ndarray, fill: float):
    """The region low..high of averaged voxels, float32: only what lies in the array is read, some planes at a time."""
    first = np.clip(0, low, high)
    last = np.clip(-(-np.array(shape) // factors), first, high)
    pooled = np.full(high - low, np.float32(fill), np.float32)
    planes = max(1, int(_AT_ONCE // max(1, np.prod((last - first)[1:]) * np.prod(factors))))
    y, z = (slice(a, b) for a, b in zip((first - low)[1:].tolist(), (last - low)[1:].tolist(), strict=True))
    for start in range(first[0], last[0], planes):
        stop = min(start + planes, last[0])
        box = np.array([start, *first[1:]]) * factors, np.array([stop, *last[1:]]) * factors
        pooled[start - low[0] : stop - low[0], y, z] = _pooled(_read_padded(read, shape, *box, fill), *factors)
    return pooled


def _as(dtype: np.dtype, value: float) -> float | int:
    return value if dtype.kind == "f" else int(np.clip(round(value), np.iinfo(dtype).min, np.iinfo(dtype).max))


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _sample_space(flat, in_pairs, strides, matrix, control, weights, slope, intercept, out):
    nx, ny, nz = out.shape
    weights_x, weights_y, weights_z = weights
    x, y, z = np.empty(nz, np.float32), np.empty(nz, np.float32), np.empty(nz, np.float32)
    index, corner, pairs = np.empty(nz, np.int32), np.empty((8, nz), np.float32), np.empty((4, nz), np.int32)
    plane = np.empty((control.shape[1], control.shape[2], 3), np.float32)
    for i in range(nx):
        if control.size:
            _mix(control, weights_x[i], plane)
        for j in range(ny):
            _line(matrix, i, j, x, y, z)
            if control.size:
                _bend(plane, weights_y[j], weights_z, x, y, z)
            _split(x, y, z, strides, index)
            if in_pairs:
                _load_pairs(flat, strides, index, pairs)
                _blend_pairs(pairs, x, y, z, slope, intercept, out[i, j])
            else:
                _load(flat, strides, index, corner)
                _blend(corner, x, y, z, slope, intercept, out[i, j])


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _line(matrix, i, j, x, y, z):
    """Positions of one line of the view, not bent."""
    dx, dy, dz = np.float32(matrix[0, 2]), np.float32(matrix[1, 2]), np.float32(matrix[2, 2])
    x0 = np.float32(matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 3])
    y0 = np.float32(matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 3])
    z0 = np.float32(matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 3])
    for k in range(x.size):
        step = np.float32(np.int32(k))
        x[k], y[k], z[k] = x0 + dx * step, y0 + dy * step, z0 + dz * step


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _mix(control, weights, plane):
    """plane = the control points of one slice of the view."""
    plane[:] = 0
    for a in range(weights.size):
        plane += weights[a] * control[a]


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _bend(plane, weights, weights_z, x, y, z):
    """Add the displacements of one line of the view."""
    for c in range(plane.shape[1]):
        across, down, along = np.float32(0), np.float32(0), np.float32(0)
        for b in range(weights.size):
            across += weights[b] * plane[b, c, 0]
            down += weights[b] * plane[b, c, 1]
            along += weights[b] * plane[b, c, 2]
        for k in range(x.size):
            weight = weights_z[c, k]
            x[k] += weight * across
            y[k] += weight * down
            z[k] += weight * along


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _split(x, y, z, strides, index):
    """Positions become the index of the voxel below and the fractions above it."""
    across, down = strides
    for k in range(x.size):
        ix, iy, iz = np.int32(x[k]), np.int32(y[k]), np.int32(z[k])
        x[k], y[k], z[k] = x[k] - np.float32(ix), y[k] - np.float32(iy), z[k] - np.float32(iz)
        # Cut to 32 bits after every step, or numba multiplies in 64, which is three times slower.
        index[k] = np.int32(np.int32(np.int32(ix * across) + np.int32(iy * down)) + iz)


@njit(nogil=True, cache=True)
def _pair(flat, at):
    """Two neighbours along the last axis as one number of 32 bits, which the compiler loads as one: half as many loads."""
    return np.int32(np.uint32(np.uint16(flat[at + np.uint64(1)])) << np.uint32(16) | np.uint32(np.uint16(flat[at])))


@njit(nogil=True, cache=True)
def _load_pairs(flat, strides, index, pairs):
    # Unsigned, or numba looks for an index from the end before every load.
    across, down = np.uint64(strides[0]), np.uint64(strides[1])
    for k in range(index.size):
        at = np.uint64(np.uint32(index[k]))
        pairs[0, k], pairs[1, k] = _pair(flat, at), _pair(flat, at + down)
        pairs[2, k], pairs[3, k] = _pair(flat, at + across), _pair(flat, at + across + down)


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _blend_pairs(pairs, x, y, z, slope, intercept, row):
    for k in range(row.size):
        a = _between(pairs[0, k], z[k])
        b = _between(pairs[1, k], z[k])
        c = _between(pairs[2, k], z[k])
        d = _between(pairs[3, k], z[k])
        a += (b - a) * y[k]
        c += (d - c) * y[k]
        row[k] = (a + (c - a) * x[k]) * slope + intercept


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _between(pair, part):
    below, above = np.float32(np.int16(pair)), np.float32(pair >> np.int32(16))
    return below + (above - below) * part


@njit(nogil=True, cache=True)
def _load(flat, strides, index, corner):
    across, down, one = np.uint64(strides[0]), np.uint64(strides[1]), np.uint64(1)
    for k in range(index.size):
        at = np.uint64(np.uint32(index[k]))
        corner[0, k], corner[1, k] = flat[at], flat[at + one]
        corner[2, k], corner[3, k] = flat[at + down], flat[at + down + one]
        at += across
        corner[4, k], corner[5, k] = flat[at], flat[at + one]
        corner[6, k], corner[7, k] = flat[at + down], flat[at + down + one]


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _blend(corner, x, y, z, slope, intercept, row):
    for k in range(row.size):
        a = corner[0, k] + (corner[1, k] - corner[0, k]) * z[k]
        b = corner[2, k] + (corner[3, k] - corner[2, k]) * z[k]
        c = corner[4, k] + (corner[5, k] - corner[4, k]) * z[k]
        d = corner[6, k] + (corner[7, k] - corner[6, k]) * z[k]
        a += (b - a) * y[k]
        c += (d - c) * y[k]
        row[k] = (a + (c - a) * x[k]) * slope + intercept


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _sample_plane(region, matrix, slope, intercept, out):
    nx, ny, _ = out.shape
    flat = region.reshape(-1)
    stride, one = np.uint64(region.shape[1]), np.uint64(1)
    dx, dy = np.float32(matrix[0, 1]), np.float32(matrix[1, 1])
    for i in range(nx):
        x0 = np.float32(matrix[0, 0] * i + matrix[0, 3])
        y0 = np.float32(matrix[1, 0] * i + matrix[1, 3])
        for j in range(ny):
            x, y = x0 + dx * np.float32(j), y0 + dy * np.float32(j)
            ix, iy = np.uint64(x), np.uint64(y)
            fx, fy = x - np.float32(ix), y - np.float32(iy)
            at = ix * stride + iy
            a = np.float32(flat[at]) + (np.float32(flat[at + one]) - np.float32(flat[at])) * fy
            at += stride
            c = np.float32(flat[at]) + (np.float32(flat[at + one]) - np.float32(flat[at])) * fy
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

"""Where the body is in a scan: the largest thing that is not air, by its box."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from medcl.foundation import geometry

if TYPE_CHECKING:
    from medcl.store.recipe import Recipe


def body_box(array: np.ndarray, affine: np.ndarray, recipe: Recipe) -> list[tuple[int, int]]:
    """Box of the largest connected thing that is not air, on a grid of about 4 mm, with the recipe's margin."""
    spacing = geometry.spacing_mm(affine)
    steps = [max(1, int(4.0 / length)) for length in spacing]
    coarse = array[:: steps[0], :: steps[1], :: steps[2]]
    size, body = largest_part(coarse > body_threshold(coarse, recipe))
    if size < 0.01 * coarse.size:
        return [(0, length) for length in array.shape]
    box = []
    for axis, (first, last) in enumerate(body):
        margin = round(recipe.body_margin_mm / spacing[axis])
        # The body may reach up to the nearest voxels that were looked at and are air, on either side.
        start, stop = (first - 1) * steps[axis] + 1 - margin, (last + 1) * steps[axis] + margin
        box.append((max(0, start), min(array.shape[axis], stop)))
    return box


def body_threshold(array: np.ndarray, recipe: Recipe) -> float:
    """Value above which a voxel counts as body: -500 HU, or a tenth of the way from dark to bright."""
    if recipe.stored_units == "HU":
        return -500.0
    low, high = np.percentile(array[::2, ::2, ::2] if array.size > 2**20 else array, (0.5, 99.5))
    return float(low + 0.1 * (high - low))


def largest_part(mask: np.ndarray) -> tuple[int, list[tuple[int, int]]]:
    """Voxels of the largest part of an (x, y, z) mask that hangs together by faces, and its first and last along each axis."""
    runs = _runs(np.ascontiguousarray(mask))
    size, edges = _largest(_parts(*runs, mask.shape[1]), *runs, mask.shape)
    return int(size), [(first, last) for first, last in edges.tolist()]


@njit(nogil=True, cache=True)
def _runs(mask):
    """Set voxels in a row along the last axis: how many such runs come before each line, where each starts, and where it stops."""
    nx, ny, nz = mask.shape
    of_line, starts, stops = np.zeros(nx * ny + 1, np.int64), np.empty(mask.size, np.int64), np.empty(mask.size, np.int64)
    count = 0
    for line in range(nx * ny):
        within = False
        for k in range(nz):
            if mask[line // ny, line % ny, k] != within:
                within = not within
                if within:
                    starts[count] = k
                else:
                    stops[count] = k
                    count += 1
        if within:
            stops[count] = nz
            count += 1
        of_line[line + 1] = count
    return of_line, starts[:count], stops[:count]


@njit(nogil=True, cache=True)
def _parts(of_line, starts, stops, ny):
    """The first run of the part that each run belongs to: union-find (Tarjan 1975) over runs of neighbouring lines."""
    parents = np.arange(starts.size)
    for line in range(of_line.size - 1):
        if line % ny:
            _join(parents, of_line, starts, stops, line, line - 1)
        if line >= ny:
            _join(parents, of_line, starts, stops, line, line - ny)
    for run in range(parents.size):
        parents[run] = _root(parents, run)
    return parents


@njit(nogil=True, cache=True)
def _largest(parts, of_line, starts, stops, shape):
    """Voxels of the largest part, and its first and last along each axis."""
    sizes = np.zeros(starts.size + 1, np.int64)
    for run in range(starts.size):
        sizes[parts[run]] += stops[run] - starts[run]
    largest, (nx, ny, nz) = sizes.argmax(), shape
    edges = np.array([[nx, -1], [ny, -1], [nz, -1]])
    for line in range(nx * ny):
        for run in range(of_line[line], of_line[line + 1]):
            if parts[run] == largest:
                for axis, first, last in ((0, line // ny, line // ny), (1, line % ny, line % ny), (2, starts[run], stops[run] - 1)):
                    edges[axis, 0], edges[axis, 1] = min(edges[axis, 0], first), max(edges[axis, 1], last)
    return sizes[largest], edges


@njit(nogil=True, cache=True)
def _join(parents, of_line, starts, stops, line, other):
    """Join the runs of two lines that touch."""
    one, two = of_line[line], of_line[other]
    while one < of_line[line + 1] and two < of_line[other + 1]:
        if starts[one] < stops[two] and starts[two] < stops[one]:
            first, second = _root(parents, one), _root(parents, two)
            parents[max(first, second)] = min(first, second)
        if stops[one] < stops[two]:
            one += 1
        else:
            two += 1


@njit(nogil=True, cache=True)
def _root(parents, run):
    while parents[run] != run:
        parents[run] = parents[parents[run]]
        run = parents[run]
    return run

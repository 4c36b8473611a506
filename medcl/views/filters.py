"""Compiled passes over one view (x, y, z) float32, in place: the arithmetic behind the intensity steps.

device_filters.py has the same passes for a batch of views; a step names neither, it takes those of its Look.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from medcl.views import bands, elementary
from medcl.views.elementary import exp_in_place, log_in_place

_BLOCK, _STRIP, _ROWS = 1024, 256, 32
_TINY = np.float32(1e-30)
# A product and a sum may be rounded once.
_FUSED = {"contract"}


def scale_shift_clip(view: np.ndarray, scale: float, shift: float, low: float, high: float) -> None:
    """view = clip(view * scale + shift, low, high)."""
    _scale_shift_clip(view, np.float32(scale), np.float32(shift), np.float32(low), np.float32(high))


def scale_shift(view: np.ndarray, scale: float, shift: float) -> None:
    """view = view * scale + shift."""
    _scale_shift(view, np.float32(scale), np.float32(shift))


def stretch(view: np.ndarray, factor: float) -> None:
    """view = mean + (view - mean) * factor."""
    mean = _mean(view)
    _scale_shift(view, np.float32(factor), np.float32(mean * (1 - factor)))


def gamma(view: np.ndarray, exponent: float) -> None:
    """view = low + (high - low) * ((view - low) / (high - low)) ** exponent, low and high the view's smallest and largest value."""
    low, high = _limits(view)
    if high > low:
        _power(view, low, high, np.float32(exponent))


def bend_curve(view: np.ndarray, points: np.ndarray) -> None:
    """view = low + (high - low) * f((view - low) / (high - low)), f linear between `points` at even places from 0 to 1."""
    low, high = _limits(view)
    if high > low:
        _bend_curve(view, low, high, points.astype(np.float32))


def multiply(view: np.ndarray, factor: np.ndarray, background: float) -> None:
    """view = background + (view - background) * factor, voxel by voxel."""
    _multiply(view, np.ascontiguousarray(np.broadcast_to(factor, view.shape), np.float32), np.float32(background))


def magnitude(view: np.ndarray, imaginary: np.ndarray, background: float) -> None:
    """view = background + |view - background + i imaginary|."""
    _magnitude(view, imaginary, np.float32(background))


def add_scaled_by_root(view: np.ndarray, noise: np.ndarray, background: float) -> None:
    """view += noise * sqrt(view - background); no signal, no noise."""
    _add_scaled_by_root(view, noise, np.float32(background))


def multiply_field(view: np.ndarray, coefficients: np.ndarray, background: float) -> None:
    """view = background + (view - background) * exp(sum of c[a, b, c] x^a y^b z^c), x, y, z from -1 to 1."""
    _multiply_field(view, coefficients, np.float32(background))


def blur(view: np.ndarray, sigmas: Sequence[float]) -> None:
    """Gaussian blur with a standard deviation in voxels along each axis; edge voxels are repeated."""
    if view.shape[2] == 1:
        # A picture's own axes last, where the inner loops run.
        view, sigmas = view.reshape(1, *view.shape[:2]), (0.0, *sigmas[:2])
    one = np.ones(1, np.float32)
    _convolve_axes(view, *(bands.gaussian(sigma) if length > 1 else one for sigma, length in zip(sigmas, view.shape, strict=True)))


def lower_resolution(view: np.ndarray, factors: Sequence[float]) -> None:
    """Averaged to about `factor` times fewer voxels along each axis, and interpolated back."""
    length_x, length_y, length_z = view.shape
    x, y, z = factors
    if x > 1:
        _mix_axis(view.reshape(1, length_x, -1), *bands.coarsening_band(length_x, x))
    if y > 1:
        _mix_axis(view, *bands.coarsening_band(length_y, y))
    if z > 1:
        _mix_last(view.reshape(-1, length_z), *bands.coarsening_band(length_z, z))


def fill_box(view: np.ndarray, edges: Sequence[tuple[float, float]], value: float) -> None:
    """view = value between two edges along each axis."""
    view[tuple(slice(int(start), int(stop)) for start, stop in edges)] = value


def add_noise(view: np.ndarray, key: float, deviation: float) -> None:
    """view += deviation * standard normal numbers of a key; see elementary.add_noise."""
    elementary.add_noise(view, int(key), np.float32(deviation))


def noise_like(view: np.ndarray, key: float, deviation: float) -> np.ndarray:
    """(x, y, z) deviation * standard normal numbers of a key."""
    noise = np.zeros_like(view)
    add_noise(noise, key, deviation)
    return noise


@njit(nogil=True, cache=True)
def _scale_shift_clip(view, scale, shift, low, high):
    flat = view.reshape(-1)
    for i in range(flat.size):
        value = flat[i] * scale + shift
        flat[i] = min(max(value, low), high)


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _scale_shift(view, scale, shift):
    flat = view.reshape(-1)
    for i in range(flat.size):
        flat[i] = flat[i] * scale + shift


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FUSED)
def _power(view, low, high, exponent):
    """For values from `low` to `high`."""
    flat = view.reshape(-1)
    span = high - low
    part, bits = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.int32)
    for start in range(0, flat.size, _BLOCK):
        values = flat[start : start + _BLOCK]
        count = values.size
        for k in range(count):
            part[k] = max((values[k] - low) / span, _TINY)
        log_in_place(part)
        for k in range(_BLOCK):
            part[k] *= exponent
        exp_in_place(part, bits)
        for k in range(count):
            values[k] = low + span * part[k]


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _bend_curve(view, low, high, points):
    flat = view.reshape(-1)
    last = points.size - 1
    to_points, span = np.float32(last) / (high - low), high - low
    for i in range(flat.size):
        place = min(max((flat[i] - low) * to_points, np.float32(0)), np.float32(last))
        at = min(np.int32(place), np.int32(last - 1))
        part = place - np.float32(at)
        flat[i] = low + span * (points[at] + (points[at + 1] - points[at]) * part)


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _multiply(view, factor, background):
    flat, by = view.reshape(-1), factor.reshape(-1)
    for i in range(flat.size):
        flat[i] = background + (flat[i] - background) * by[i]


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _magnitude(real, imaginary, background):
    flat, other = real.reshape(-1), imaginary.reshape(-1)
    for i in range(flat.size):
        signal = flat[i] - background
        flat[i] = background + np.sqrt(signal * signal + other[i] * other[i])


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _add_scaled_by_root(view, noise, background):
    flat, added = view.reshape(-1), noise.reshape(-1)
    for i in range(flat.size):
        flat[i] += added[i] * np.sqrt(max(flat[i] - background, np.float32(0)))


# Any order of summing, and no NaN: the loops are vectorised.
@njit(nogil=True, cache=True, fastmath={"reassoc", "nnan", "nsz"})
def _limits(view):
    """(smallest, largest) of a view, as float32."""
    flat = view.reshape(-1)
    low = high = flat[0]
    for i in range(flat.size):
        low, high = min(low, flat[i]), max(high, flat[i])
    return low, high


@njit(nogil=True, cache=True, fastmath={"reassoc", "nnan", "nsz"})
def _mean(view):
    """Mean of a view, as float32: blocks are summed in single precision, and their sums in double."""
    flat, total = view.reshape(-1), 0.0
    for start in range(0, flat.size, _BLOCK):
        part = np.float32(0)
        values = flat[start : start + _BLOCK]
        for i in range(values.size):
            part += values[i]
        total += part
    return np.float32(total / flat.size)


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _convolve_axes(view, taps_x, taps_y, taps_z):
    """Convolve along each axis with odd symmetric taps; edge voxels are repeated. One tap: the axis is left alone."""
    nx, ny, nz = view.shape
    old, new = np.empty((max(nx, ny), nz), np.float32), np.empty(nz, np.float32)
    if taps_x.size > 1:
        for j in range(ny):
            _along_first(view[:, j, :], taps_x, old, new)
    if taps_y.size > 1:
        for i in range(nx):
            _along_first(view[i], taps_y, old, new)
    if taps_z.size > 1:
        _along_last(view, taps_z)


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _along_last(view, taps):
    nx, ny, nz = view.shape
    reach = taps.size // 2
    line = np.empty(nz + 2 * reach, np.float32)
    for i in range(nx):
        for j in range(ny):
            row = view[i, j]
            line[:reach] = row[0]
            line[reach : reach + nz] = row
            line[reach + nz :] = row[nz - 1]
            row[:] = 0
            for t in range(taps.size):
                for k in range(nz):
                    row[k] += taps[t] * line[k + t]


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _along_first(plane, taps, old, new):
    """old, new: scratch for the plane and for a row. Rows may lie a multiple of 4096 bytes apart, where they push one another out of
    the cache: each is read once and written once."""
    rows, columns = plane.shape
    reach = taps.size // 2
    for i in range(rows):
        for k in range(columns):
            old[i, k] = plane[i, k]
    for i in range(rows):
        new[:] = 0
        for t in range(taps.size):
            tap, source = taps[t], min(max(i + t - reach, 0), rows - 1)
            for k in range(columns):
                new[k] += tap * old[source, k]
        for k in range(columns):
            plane[i, k] = new[k]


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _mix_axis(view, starts, weights):
    """Along the middle axis of (anything, n, anything): new[i] = sum over t of weights[i, t] * old[starts[i] + t].

    A strip of the last axis at a time, so that what is read again and again stays near.
    """
    planes, length, columns = view.shape
    width = min(columns, _STRIP)
    old, new = np.empty((length, width), np.float32), np.empty((length, width), np.float32)
    for plane in range(planes):
        for first in range(0, columns, width):
            count = min(width, columns - first)
            for i in range(length):
                for k in range(count):
                    old[i, k] = view[plane, i, first + k]
            _mix(new, old, starts, weights)
            for i in range(length):
                for k in range(count):
                    view[plane, i, first + k] = new[i, k]


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _mix_last(view, starts, weights):
    """The same along the last axis of (anything, n): some rows at a time, turned so that the inner loop runs across them."""
    rows, length = view.shape
    old, new = np.empty((length, _ROWS), np.float32), np.empty((length, _ROWS), np.float32)
    for first in range(0, rows, _ROWS):
        count = min(_ROWS, rows - first)
        for r in range(count):
            for k in range(length):
                old[k, r] = view[first + r, k]
        _mix(new, old, starts, weights)
        for r in range(count):
            for k in range(length):
                view[first + r, k] = new[k, r]


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _mix(new, old, starts, weights):
    rows, columns = new.shape
    for i in range(rows):
        for k in range(columns):
            new[i, k] = 0
        for t in range(weights.shape[1]):
            weight, source = weights[i, t], starts[i] + t
            if weight != 0:
                for k in range(columns):
                    new[i, k] += weight * old[source, k]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FUSED)
def _multiply_field(view, coefficients, background):
    nx, ny, nz = view.shape
    order = coefficients.shape[0]
    along_z, field, bits = np.empty(order, np.float32), np.empty(nz, np.float32), np.empty(nz, np.int32)
    for i in range(nx):
        x = 2.0 * i / max(nx - 1, 1) - 1.0
        for j in range(ny):
            y = 2.0 * j / max(ny - 1, 1) - 1.0
            _along_z(coefficients, x, y, along_z)
            row = view[i, j]
            for k in range(nz):
                z = np.float32(2.0 * k / max(nz - 1, 1) - 1.0)
                exponent = np.float32(0)
                for c in range(order - 1, -1, -1):
                    exponent = exponent * z + along_z[c]
                field[k] = exponent
            exp_in_place(field, bits)
            for k in range(nz):
                row[k] = background + (row[k] - background) * field[k]


@njit(nogil=True, cache=True, fastmath=_FUSED)
def _along_z(coefficients, x, y, along_z):
    """The polynomial's coefficients in z at one (x, y), by Horner's rule."""
    order = coefficients.shape[0]
    for c in range(order):
        total = 0.0
        for a in range(order - 1, -1, -1):
            inner = 0.0
            for b in range(order - 1, -1, -1):
                inner = inner * y + coefficients[a, b, c]
            total = total * x + inner
        along_z[c] = total

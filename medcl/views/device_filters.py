"""The passes of filters.py over a batch of views on any torch device, with numbers of its own for each view.

views: (batch, x, y, z) float32, changed in place. A number is a float, or an array with one for each view. Nothing here waits
for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcl.views import bands
from medcl.views.device_noise import normal_numbers

_FEW_BYTES = 2**15
_TINY = 1e-30


def on(views: Tensor, array: Any, dtype: type = np.float32) -> Tensor:
    """An array on the device of the views."""
    held = torch.tensor(np.ascontiguousarray(array, dtype))
    # A GPU fetches from pinned memory while this thread goes on; of few bytes CUDA makes a copy first, and goes on too.
    pinned = views.is_cuda and held.nbytes > _FEW_BYTES
    return (held.pin_memory() if pinned else held).to(views.device, non_blocking=True)


def scale_shift_clip(views: Tensor, scale: Any, shift: Any, low: float, high: float) -> None:
    """views = clip(views * scale + shift, low, high)."""
    scale_shift(views, scale, shift)
    views.clamp_(float(low), float(high))


def scale_shift(views: Tensor, scale: Any, shift: Any) -> None:
    """views = views * scale + shift."""
    scales, shifts = _each(views, scale, shift)
    torch.addcmul(shifts, views, scales, out=views)


def stretch(views: Tensor, factor: Any) -> None:
    """views = mean + (views - mean) * factor."""
    mean = views.mean((1, 2, 3), keepdim=True, dtype=torch.float64).to(views.dtype)
    (by,) = _each(views, factor)
    views.mul_(by).add_(mean * (1 - by))


def gamma(views: Tensor, exponent: Any) -> None:
    """views = low + (high - low) * ((views - low) / (high - low)) ** exponent, low and high a view's smallest and largest value."""
    low, span = _ends(views)
    (power,) = _each(views, exponent)
    part = ((views - low) / span).clamp_min_(_TINY)
    views.copy_(part.pow_(power).mul_(span).add_(low))


def bend_curve(views: Tensor, points: np.ndarray) -> None:
    """views = low + (high - low) * f((views - low) / (high - low)), f linear between (batch, points) at even places from 0 to 1."""
    low, span = _ends(views)
    last = points.shape[-1] - 1
    place = ((views - low) * (last / span)).clamp_(0, last).flatten(1)
    at = place.long().clamp_max_(last - 1)
    curve = on(views, points)
    start, stop = curve.gather(1, at), curve.gather(1, at + 1)
    bent = torch.lerp(start, stop, place - at).view_as(views)
    views.copy_(bent.mul_(span).add_(low))


def multiply(views: Tensor, factor: Tensor | np.ndarray, background: Any) -> None:
    """views = background + (views - background) * factor, voxel by voxel."""
    by = factor if isinstance(factor, Tensor) else on(views, factor)
    (nothing,) = _each(views, background)
    views.sub_(nothing).mul_(by).add_(nothing)


def magnitude(views: Tensor, imaginary: Tensor, background: Any) -> None:
    """views = background + |views - background + i imaginary|."""
    (nothing,) = _each(views, background)
    views.sub_(nothing).square_().addcmul_(imaginary, imaginary).sqrt_().add_(nothing)


def add_scaled_by_root(views: Tensor, noise: Tensor, background: Any) -> None:
    """views += noise * sqrt(views - background); no signal, no noise."""
    (nothing,) = _each(views, background)
    views.addcmul_(noise, (views - nothing).clamp_min_(0).sqrt_())


def multiply_field(views: Tensor, coefficients: np.ndarray, background: Any) -> None:
    """views = background + (views - background) * exp(sum of c[a, b, c] x^a y^b z^c), x, y, z from -1 to 1."""
    powers = np.arange(coefficients.shape[-1])
    x, y, z = (on(views, (2.0 * np.arange(n) / max(n - 1, 1) - 1.0)[:, None] ** powers) for n in views.shape[1:])
    multiply(views, torch.einsum("nabc,xa,yb,zc->nxyz", on(views, coefficients), x, y, z).exp_(), background)


def blur(views: Tensor, sigmas: Sequence[Any]) -> None:
    """Gaussian blur with a standard deviation in voxels along each axis; edge voxels are repeated."""
    matrices: dict[tuple[int, bytes], Tensor] = {}
    for axis, sigma in enumerate(sigmas, 1):
        # Voxels as long as wide may differ in a last digit, and the axes of a cube want the same matrix.
        each, length = np.round(np.broadcast_to(sigma, len(views)), 6), views.shape[axis]
        if length > 1 and (bands.reach(each) > 0).any():
            wanted = length, each.tobytes()
            if wanted not in matrices:
                matrices[wanted] = _blurring(views, length, each)
            _mix(views, axis, matrices[wanted])


def lower_resolution(views: Tensor, factors: Sequence[Any]) -> None:
    """Averaged to about `factor` times fewer voxels along each axis, and interpolated back."""
    for axis, factor in enumerate(factors, 1):
        each, length = np.broadcast_to(factor, len(views)), views.shape[axis]
        if (each > 1).any():
            _mix(views, axis, on(views, np.stack([bands.coarsening(length, one) for one in each.tolist()])))


def fill_box(views: Tensor, edges: Sequence[tuple[Any, Any]], value: Any) -> None:
    """views = value between two edges along each axis."""
    (filling,) = _each(views, value)
    inside = torch.ones((), dtype=torch.bool, device=views.device)
    for axis, (start, stop) in enumerate(edges, 1):
        place, along = np.arange(views.shape[axis]), [-1, 1, 1, 1]
        along[axis] = len(place)
        inside = inside & on(views, (place >= np.reshape(start, (-1, 1))) & (place < np.reshape(stop, (-1, 1))), np.bool_).view(along)
    torch.where(inside, filling, views, out=views)


def add_noise(views: Tensor, key: Any, deviation: Any) -> None:
    """views += deviation * standard normal numbers, the same numbers as of elementary.add_noise."""
    views.add_(noise_like(views, key, deviation))


def noise_like(views: Tensor, key: Any, deviation: Any) -> Tensor:
    """(batch, x, y, z) deviation * standard normal numbers; see elementary.add_noise."""
    keys, deviations = (np.broadcast_to(number, len(views)) for number in (key, deviation))
    return normal_numbers(on(views, keys, np.int64), on(views, deviations), views[0].numel()).view(views.shape)


def _blurring(views: Tensor, length: int, sigmas: np.ndarray) -> Tensor:
    """(batch, length, length): what bands.gaussian does to a line of samples whose edges are repeated."""
    reach = bands.reach(sigmas)[:, None]
    most = max(int(reach.max()), length)
    far = np.arange(-most, most + 1)
    # Where nothing is in reach but the sample itself any width will do, except none.
    taps = np.exp(-0.5 * (far / np.where(reach > 0, sigmas[:, None], 1.0)) ** 2) * (abs(far) <= reach)
    taps /= taps.sum(1, keepdims=True)
    # What reaches over the first sample, from every place; over the last it is the same from the other end.
    over = np.cumsum(taps, 1)[:, most - 1 - np.arange(length)]
    held = on(views, np.concatenate([taps[:, most - length + 1 : most + length], over, over[:, ::-1]], 1))
    # Every row is the one below it, moved on by one.
    matrix = held[:, : 2 * length - 1].unfold(1, length, 1).flip(1)
    matrix[..., 0] += held[:, 2 * length - 1 : 3 * length - 1]
    matrix[..., -1] += held[:, 3 * length - 1 :]
    return matrix


def _mix(views: Tensor, axis: int, matrix: Tensor) -> None:
    """Multiply an axis by a matrix (batch, length, length)."""
    turned = views.movedim(axis, 1)
    turned.copy_(torch.bmm(matrix, turned.flatten(2)).view(turned.shape))


def _each(views: Tensor, *numbers: Any) -> tuple[Tensor, ...]:
    """Numbers for each view: of every one (batch or 1, 1, 1, 1), moved together."""
    return on(views, np.stack(np.broadcast_arrays(*numbers))).view(len(numbers), -1, 1, 1, 1).unbind()


def _ends(views: Tensor) -> tuple[Tensor, Tensor]:
    """A view's smallest value, and from there to its largest (1 where all are the same, and all stay): (batch, 1, 1, 1) each."""
    low, high = (end.view(-1, 1, 1, 1) for end in views.flatten(1).aminmax(dim=1))
    return low, torch.where(high > low, high - low, 1.0)

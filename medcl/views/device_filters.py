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

_BLOCK = 1024
_WORD = 0xFFFFFFFF
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
    views.mul_(_each(views, scale)).add_(_each(views, shift))


def stretch(views: Tensor, factor: Any) -> None:
    """views = mean + (views - mean) * factor."""
    mean = views.mean((1, 2, 3), keepdim=True, dtype=torch.float64).to(views.dtype)
    by = _each(views, factor)
    views.mul_(by).add_(mean * (1 - by))


def gamma(views: Tensor, exponent: Any) -> None:
    """views = low + (high - low) * ((views - low) / (high - low)) ** exponent, low and high a view's smallest and largest value."""
    low, span = _ends(views)
    part = ((views - low) / span).clamp_min_(_TINY)
    views.copy_(part.pow_(_each(views, exponent)).mul_(span).add_(low))


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
    by, nothing = factor if isinstance(factor, Tensor) else on(views, factor), _each(views, background)
    views.sub_(nothing).mul_(by).add_(nothing)


def magnitude(views: Tensor, imaginary: Tensor, background: Any) -> None:
    """views = background + |views - background + i imaginary|."""
    nothing = _each(views, background)
    views.sub_(nothing).square_().addcmul_(imaginary, imaginary).sqrt_().add_(nothing)


def add_scaled_by_root(views: Tensor, noise: Tensor, background: Any) -> None:
    """views += noise * sqrt(views - background); no signal, no noise."""
    views.addcmul_(noise, (views - _each(views, background)).clamp_min_(0).sqrt_())


def multiply_field(views: Tensor, coefficients: np.ndarray, background: Any) -> None:
    """views = background + (views - background) * exp(sum of c[a, b, c] x^a y^b z^c), x, y, z from -1 to 1."""
    powers = np.arange(coefficients.shape[-1])
    x, y, z = (on(views, (2.0 * np.arange(n) / max(n - 1, 1) - 1.0)[:, None] ** powers) for n in views.shape[1:])
    multiply(views, torch.einsum("nabc,xa,yb,zc->nxyz", on(views, coefficients), x, y, z).exp_(), background)


def blur(views: Tensor, sigmas: Sequence[Any]) -> None:
    """Gaussian blur with a standard deviation in voxels along each axis; edge voxels are repeated."""
    for axis, sigma in enumerate(sigmas, 1):
        each = np.broadcast_to(sigma, len(views))
        if views.shape[axis] > 1 and (bands.reach(each) > 0).any():
            _mix(views, axis, _blurring(views, views.shape[axis], each))


def lower_resolution(views: Tensor, factors: Sequence[Any]) -> None:
    """Averaged to about `factor` times fewer voxels along each axis, and interpolated back."""
    for axis, factor in enumerate(factors, 1):
        each, length = np.broadcast_to(factor, len(views)), views.shape[axis]
        if (each > 1).any():
            _mix(views, axis, on(views, np.stack([bands.coarsening(length, one) for one in each.tolist()])))


def fill_box(views: Tensor, edges: Sequence[tuple[Any, Any]], value: Any) -> None:
    """views = value between two edges along each axis."""
    inside = torch.ones((), dtype=torch.bool, device=views.device)
    for axis, (start, stop) in enumerate(edges, 1):
        place = torch.arange(views.shape[axis], device=views.device).view(-1, *(1,) * (3 - axis))
        inside = inside & (place >= _each(views, start)) & (place < _each(views, stop))
    views.copy_(torch.where(inside, _each(views, value), views))


def add_noise(views: Tensor, key: Any, deviation: Any) -> None:
    """views += deviation * standard normal numbers, the same numbers as of elementary.add_noise."""
    views.add_(noise_like(views, key, deviation))


def noise_like(views: Tensor, key: Any, deviation: Any) -> Tensor:
    """(batch, x, y, z) deviation * standard normal numbers; see elementary.add_noise."""
    count = views[0].numel()
    blocks = -(-count // (4 * _BLOCK))
    words = _philox(views, np.asarray(key, np.int64), blocks * _BLOCK)
    # Four numbers of every counter: the cosine and the sine of the first pair of words, then of the second.
    pairs = [_box_muller(words[0], words[1]), _box_muller(words[2], words[3])]
    numbers = torch.stack([number.view(-1, blocks, _BLOCK) for pair in pairs for number in pair], 2)
    return numbers.flatten(1)[:, :count].reshape(views.shape).mul_(_each(views, deviation))


def _philox(views: Tensor, keys: np.ndarray, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32 with 10 rounds for counters 0 .. count - 1: four words of 32 bits, each (batch, count) int64.

    A product of two words needs 64 bits and wraps like one without a sign; bits above the lowest 32 are cut off late.
    """
    rounds = np.arange(10)[:, None, None]
    low, high = keys.reshape(-1, 1) & _WORD, (keys.reshape(-1, 1) >> 32) & _WORD
    # (round, word, batch, 1). Both multiplied words at once, and both others: a GPU takes as long to begin as to count.
    steps = np.stack([(low + rounds * 0x9E3779B9) & _WORD, (high + rounds * 0xBB67AE85) & _WORD], 1)
    factors = on(views, [[[0xD2511F53]], [[0xCD9E8D57]]], np.int64)
    multiplied = torch.zeros((2, len(keys), count), dtype=torch.int64, device=views.device)
    multiplied[0] = torch.arange(count, device=views.device)
    others = torch.zeros((), dtype=torch.int64, device=views.device)
    for step in on(views, steps, np.int64):
        products = (multiplied * factors).flip(0)
        multiplied = (products >> 32).bitwise_xor_(others).bitwise_xor_(step).bitwise_and_(_WORD)
        others = products
    others = others & _WORD
    return multiplied[0], others[0], multiplied[1], others[1]


def _box_muller(size_words: Tensor, angle_words: Tensor) -> tuple[Tensor, Tensor]:
    radius = (((size_words >> 8).float() + 0.5) * 2.0**-24).log_().mul_(-2).sqrt_()
    angle = ((angle_words >> 9).float() + 0.5) * (np.pi * 2.0**-23) - np.pi / 2
    # One more bit for the half of the circle.
    sign = 1 - 2 * (angle_words & 1).float()
    return radius * angle.cos() * sign, radius * angle.sin()


def _blurring(views: Tensor, length: int, sigmas: np.ndarray) -> Tensor:
    """(batch, length, length): what bands.gaussian does to a line of samples whose edges are repeated."""
    reach = bands.reach(sigmas)
    most = int(reach.max())
    place = torch.arange(length, device=views.device)
    far = (torch.arange(-most, length + most, device=views.device) - place[:, None]).float()
    # Where nothing is in reach but the sample itself any width will do, except none.
    width = on(views, np.where(reach > 0, sigmas, 1.0)[:, None, None])
    taps = torch.exp(-0.5 * (far / width) ** 2) * (far.abs() <= on(views, reach[:, None, None]))
    taps /= taps.sum(-1, keepdim=True)
    matrix = taps[..., most : most + length]
    matrix[..., 0] += taps[..., :most].sum(-1)
    matrix[..., -1] += taps[..., most + length :].sum(-1)
    return matrix


def _mix(views: Tensor, axis: int, matrix: Tensor) -> None:
    """Multiply an axis by a matrix (batch, length, length)."""
    turned = views.movedim(axis, 1)
    turned.copy_(torch.bmm(matrix, turned.flatten(2)).view(turned.shape))


def _each(views: Tensor, number: Any) -> Tensor:
    """A number for each view, (batch or 1, 1, 1, 1)."""
    return on(views, np.reshape(number, (-1, 1, 1, 1)))


def _ends(views: Tensor) -> tuple[Tensor, Tensor]:
    """A view's smallest value, and from there to its largest (1 where all are the same, and all stay): (batch, 1, 1, 1) each."""
    low, high = (end.view(-1, 1, 1, 1) for end in views.flatten(1).aminmax(dim=1))
    return low, torch.where(high > low, high - low, 1.0)

"""Views computed by torch, many at once, on any device: the sampling of sampling.py and the same steps, equal within rounding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medcl.views import device_filters
from medcl.views.device_filters import on
from medcl.views.raw_views import RawViews
from medcl.views.sampling import spline_weights
from medcl.views.step import Look, Step

# Voxels that are worked on at once, at 20 to 30 bytes each: what bounds the memory beside the views themselves.
_AT_ONCE = 2**25


def render_batch(raw: RawViews, steps: Sequence[Step], limits: tuple[float, float], device: torch.device) -> Tensor:
    """(batch, x, y, z) float32 network values within `limits`, of views whose voxels may lie in any memory.

    steps: the policy's intensity steps, in order. Nothing here waits for the device. Products of matrices are as precise as
    torch's settings have them: float32 by default.
    """
    views = torch.empty((len(raw.shapes), *raw.size), device=device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for part in _parts(len(views), (raw.shapes // raw.factors).max(0)):
            _sample(raw, part, views[part])
        for part in _parts(len(views), raw.size):
            _apply(raw, part, steps, views[part], limits)
    return views


def _parts(count: int, shape: Sequence[int] | np.ndarray) -> Iterator[slice]:
    """As few parts of `count` arrays as fit."""
    most = max(1, _AT_ONCE // int(np.prod(shape)))
    return (slice(start, min(start + most, count)) for start in range(0, count, most))


def _apply(raw: RawViews, part: slice, steps: Sequence[Step], views: Tensor, limits: tuple[float, float]) -> None:
    """Every step on those views for which it was drawn; then network values."""
    looks = raw.look[part].copy()
    for step in steps:
        places, values = raw.drawn.get(step.name, (np.zeros(0, np.int64), {}))
        here = (places >= part.start) & (places < part.stop)
        if here.any():
            at = places[here] - part.start
            chosen = on(views, at, np.int64)
            some = views[chosen]
            look = step.apply(some, {name: drawn[here] for name, drawn in values.items()}, _look(looks[at]))
            views[chosen] = some
            looks[at] = np.stack(look.numbers, 1)
    device_filters.scale_shift_clip(views, *_look(looks).network, *limits)


def _look(numbers: np.ndarray) -> Look:
    """One look for many views from (batch, 8) numbers."""
    background, x, y, z, scale, shift, low, high = numbers.T
    return Look(background, (x, y, z), (scale, shift), (low, high), device_filters)


def _sample(raw: RawViews, part: slice, views: Tensor) -> None:
    """Fill (batch, x, y, z) with stored values, trilinear; see sampling.sample."""
    room = (raw.shapes // raw.factors)[part].max(0)
    held = torch.zeros((len(views), 1, *room.tolist()), device=views.device)
    start = 0
    for array in raw.arrays:
        first, last = max(start, part.start), min(start + len(array), part.stop)
        if first < last:
            some = (array if isinstance(array, Tensor) else torch.tensor(array)).to(views.device, non_blocking=True)
            place = held[first - part.start : last - part.start, 0]
            _average(some[first - start : last - start], raw.shapes[first:last], raw.factors[first:last], place)
        start += len(array)
    # No view reaches beyond its own region: what padding lies there is never seen.
    sampled = F.grid_sample(held, _places(raw, part, room, views), mode="bilinear", padding_mode="border", align_corners=True)
    views.copy_(sampled[:, 0])
    device_filters.scale_shift(views, *raw.scaling[part].T)


def _average(some: Tensor, shapes: np.ndarray, factors: np.ndarray, held: Tensor) -> None:
    """Put each view's voxels, or as many of them averaged as its factors say, at the beginning of its place."""
    if factors.max() == 1:
        x, y, z = np.minimum(some.shape[1:], held.shape[1:]).tolist()
        held[:, :x, :y, :z] = some[:, :x, :y, :z]
        return
    for one, (x, y, z), factor, place in zip(some, shapes.tolist(), factors.tolist(), held, strict=True):
        averaged = F.avg_pool3d(one[None, :x, :y, :z].float(), factor)[0]
        x, y, z = averaged.shape
        place[:x, :y, :z] = averaged


def _places(raw: RawViews, part: slice, room: np.ndarray, views: Tensor) -> Tensor:
    """(batch, x, y, z, 3): where in its region every voxel of a view lies; -1 and 1 are the first and last voxel along (z, y, x)."""
    unit = np.where(room > 1, 2 / np.maximum(room - 1, 1), 0)
    matrix = (raw.matrix[part] * unit[:, None])[:, ::-1]
    lines = [matrix[:, None, :, axis] * np.arange(length)[:, None] for axis, length in enumerate(views.shape[1:])]
    lines[0] = lines[0] + matrix[:, None, :, 3] - 1
    x, y, z = on(views, np.concatenate(lines, 1)).split(views.shape[1:], 1)
    places = x[:, :, None, None] + y[:, None, :, None] + z[:, None, None]
    bent = [number for number in raw.bend if part.start <= number < part.stop]
    if bent:
        bend = np.stack([(raw.bend[number] * unit)[..., ::-1] for number in bent])
        weights = (on(views, spline_weights(length, points)) for length, points in zip(views.shape[1:], bend.shape[1:4], strict=True))
        at = on(views, [number - part.start for number in bent], np.int64)
        places[at] += torch.einsum("nabcd,xa,yb,zc->nxyzd", on(views, bend), *weights)
    return places

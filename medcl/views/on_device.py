"""Views computed by torch, many at once, on any device: the sampling of sampling.py and the same steps, equal within rounding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medcl.views import device_filters
from medcl.views.device_filters import on
from medcl.views.sampling import Region, spline_weights
from medcl.views.step import Look, Step

if TYPE_CHECKING:
    from medcl.views.batched import RawView

# Voxels that are worked on at once, at 20 to 30 bytes each: what bounds the memory beside the views themselves.
_AT_ONCE = 2**25


def on_its_way(raw: RawView, device: torch.device) -> RawView:
    """The same with its voxels in memory from which a GPU can fetch them while other things go on."""
    array = raw.region.array
    held = torch.empty(array.shape, dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype, pin_memory=device.type == "cuda")
    held.numpy()[...] = array
    return replace(raw, region=replace(raw.region, array=held))


def render_batch(
    raw: Sequence[RawView], steps: Sequence[Step], size: tuple[int, int, int], limits: tuple[float, float], device: torch.device
) -> Tensor:
    """(batch, x, y, z) float32 network values within `limits`, of views that went through `on_its_way`.

    steps: the policy's intensity steps, in order. Nothing here waits for the device. Products of matrices are as precise as
    torch's settings have them: float32 by default.
    """
    views = torch.empty((len(raw), *size), device=device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for part in _parts(len(raw), np.max([one.region.averaged_shape for one in raw], axis=0)):
            _sample([one.region for one in raw[part]], views[part])
        for part in _parts(len(raw), size):
            _apply(raw[part], steps, views[part], limits)
    return views


def _parts(count: int, shape: Sequence[int] | np.ndarray) -> Iterator[slice]:
    """As few parts of `count` arrays as fit."""
    most = max(1, _AT_ONCE // int(np.prod(shape)))
    return (slice(start, start + most) for start in range(0, count, most))


def _apply(raw: Sequence[RawView], steps: Sequence[Step], views: Tensor, limits: tuple[float, float]) -> None:
    """Every step on those views for which it was drawn; then network values."""
    looks = np.array([_numbers(one.look) for one in raw])
    for step in steps:
        at = [place for place, one in enumerate(raw) if step.name in one.values]
        if at:
            drawn = [raw[place].values[step.name] for place in at]
            chosen = on(views, at, np.int64)
            part = views[chosen]
            look = step.apply(part, {name: np.array([values[name] for values in drawn]) for name in drawn[0]}, _look(looks[at]))
            views[chosen] = part
            looks[at] = np.stack(_numbers(look), 1)
    device_filters.scale_shift_clip(views, *_look(looks).network, *limits)


def _numbers(look: Look) -> tuple:
    return (look.background, *look.spacing_mm, *look.network, *look.limits)


def _look(numbers: np.ndarray) -> Look:
    """One look for many views from (batch, 8) numbers."""
    background, x, y, z, scale, shift, low, high = numbers.T
    return Look(background, (x, y, z), (scale, shift), (low, high), device_filters)


def _sample(regions: Sequence[Region], views: Tensor) -> None:
    """Fill (batch, x, y, z) with stored values, trilinear; see sampling.sample."""
    room = np.max([region.averaged_shape for region in regions], axis=0)
    held = torch.zeros((len(regions), 1, *room.tolist()), device=views.device)
    for region, place in zip(regions, held[:, 0], strict=True):
        array = region.array.to(views.device, non_blocking=True)
        if max(region.factors) > 1:
            array = F.avg_pool3d(array.float()[None], region.factors)[0]
        x, y, z = array.shape
        place[:x, :y, :z] = array
    # No view reaches beyond its own region: what padding lies there is never seen.
    sampled = F.grid_sample(held, _places(regions, room, views), mode="bilinear", padding_mode="border", align_corners=True)
    views.copy_(sampled[:, 0])
    slope, intercept = np.array([region.scaling for region in regions]).T
    device_filters.scale_shift(views, slope, intercept)


def _places(regions: Sequence[Region], room: np.ndarray, views: Tensor) -> Tensor:
    """(batch, x, y, z, 3): where in its region every voxel of a view lies; -1 and 1 are the first and last voxel along (z, y, x)."""
    unit = np.where(room > 1, 2 / np.maximum(room - 1, 1), 0)
    matrix = np.stack([region.matrix * unit[:, None] for region in regions])[:, ::-1]
    lines = [matrix[:, None, :, axis] * np.arange(length)[:, None] for axis, length in enumerate(views.shape[1:])]
    lines[0] = lines[0] + matrix[:, None, :, 3] - 1
    x, y, z = (on(views, line) for line in lines)
    places = x[:, :, None, None] + y[:, None, :, None] + z[:, None, None]
    bent = [place for place, region in enumerate(regions) if region.bend.size]
    if bent:
        bend = np.stack([(regions[place].bend * unit)[..., ::-1] for place in bent])
        weights = (on(views, spline_weights(length, points)) for length, points in zip(views.shape[1:], bend.shape[1:4], strict=True))
        places[on(views, bent, np.int64)] += torch.einsum("nabcd,xa,yb,zc->nxyzd", on(views, bend), *weights)
    return places

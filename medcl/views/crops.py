"""Where views lie: extents in mm, a centre inside the field, and a pair that is guaranteed to overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numba import njit
from pydantic import Field, model_validator

from medcl.store.arrays import Box
from medcl.views.covering import field
from medcl.views.step import Step

# What two boxes share is measured on as many lines through one of them, along both of its other axes; of every line exactly.
_LINES = 32
# Towards the first one, the second crop of a pair is moved in so many steps.
_STEPS = 16
# By so much at a time is a turned crop enlarged that would show too little of the field.
_LARGER = 1.01
# Cosine between two axes that are taken for one, and what a share may lack of one that was asked for.
_UPRIGHT, _ROUNDING = 1 - 1e-12, 1e-6


class Crop(Step):
    """Which part of the field a view shows.

    keep: share of the field's area (pictures) or volume (volumes) that a view keeps, at least and at most. None: views
    have fixed extents in mm (`extent_mm` of the policy), as training on parts of large volumes wants it.
    keep_with_report: the same where views are paired with a report. place: where the first view lies: anywhere in the
    `field`, in the `body`, or around one of the `mask`'s labels (scans without a mask: in the body).
    """

    effects: ClassVar[tuple[str, ...]] = ("crop",)
    stage = "crop"
    name: Literal["crop"] = "crop"
    probability: float = Field(default=1.0, ge=1, le=1)
    keep: tuple[float, float] | None = None
    keep_with_report: tuple[float, float] | None = (0.6, 1.0)
    place: Literal["field", "body", "mask"] = "field"

    @model_validator(mode="after")
    def _ordered(self) -> Crop:
        for share in (self.keep, self.keep_with_report):
            if share and not 0 < share[0] <= share[1] <= 1:
                raise ValueError("expected two shares, 0 < least <= most <= 1")
        return self

    def resolved(self, paired: bool) -> Crop:
        """The same step with the one `keep` that is in force, for both; resolving it again changes nothing."""
        keep = self.keep_with_report if paired else self.keep
        return self.model_copy(update={"keep": keep, "keep_with_report": keep})


@dataclass(frozen=True)
class Frame:
    """A crop in the stored array's own mm frame (voxel index times spacing; the first voxel's centre is 0).

    centre: (3,) mm. extent: (3,) mm along the view's own axes. turn: 3x3 rotation and mirror, view -> array.
    """

    centre: np.ndarray
    extent: np.ndarray
    turn: np.ndarray


def draw_centre(
    extent: np.ndarray, shape: tuple[int, ...], spacing: np.ndarray, rng: np.random.Generator, boxes: Sequence[Box] | None = None
) -> np.ndarray:
    """A uniform centre: the crop stays inside the field along every axis where it fits, and contains it elsewhere.

    boxes: one of these, in stored voxels, takes the field's part; the crop still does not leave the field where it fits.
    """
    begin, end = field(shape, spacing)
    if not boxes:
        return _between(begin, end, extent, rng)
    box = np.array(boxes[int(rng.integers(len(boxes)))], dtype=float)
    centre = _between((box[:, 0] - 0.5) * spacing, (box[:, 1] - 0.5) * spacing, extent, rng)
    first, last = begin + extent / 2, end - extent / 2
    return np.where(first <= last, np.clip(centre, first, last), centre)


def _between(low: np.ndarray, high: np.ndarray, extent: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    first, last = low + extent / 2, high - extent / 2
    return np.minimum(first, last) + rng.random(3) * np.abs(last - first)


def overlap(one: Frame, other: Frame) -> float:
    """Volume that two crops share over that of the smaller one: exact where one is not turned against the other, else to about 0.003."""
    return float(_overlap(one.centre, one.extent, one.turn, other.centre, other.extent, other.turn))


def pull_together(first: Frame, second: Frame, least: float) -> Frame:
    """Move the second crop towards the first until they overlap by `least`; turn it alike where that is not enough."""
    steps = _steps_apart(first.centre, first.extent, first.turn, second.centre, second.extent, second.turn, least)
    if steps < 0:
        return Frame(first.centre, second.extent, first.turn)
    return Frame(first.centre + steps / _STEPS * (second.centre - first.centre), second.extent, second.turn)


def showing(crop: Frame, shape: tuple[int, ...], spacing: np.ndarray, least: float, flat: bool) -> Frame:
    """The crop, enlarged until it shows `least` of the field: a turned one's corners may lie outside, and show nothing.

    flat: a picture, whose thickness stays.
    """
    begin, end = field(shape, spacing)
    larger = np.array([_LARGER, _LARGER, 1.0 if flat else _LARGER])
    return Frame(crop.centre, _enlarged((begin + end) / 2, end - begin, crop.centre, crop.extent, crop.turn, larger, least), crop.turn)


@njit(nogil=True, cache=True)
def _enlarged(middle, whole, centre, extent, turn, larger, least):
    extent = extent.copy()
    while _share(middle, whole, np.eye(3), centre, extent, turn) < least - _ROUNDING:
        extent *= larger
    return extent


@njit(nogil=True, cache=True)
def _steps_apart(centre, extent, turn, centre_2, extent_2, turn_2, least):
    """Of 16 steps from the first crop to where the second one was drawn, the most that leave them overlapping; -1 where none does.

    Boxes share the more, the nearer their centres are on a line: halving finds the step.
    """
    most, too_many = -1, _STEPS + 1
    steps = _STEPS
    while most + 1 < too_many:
        if _overlap(centre, extent, turn, centre + steps / _STEPS * (centre_2 - centre), extent_2, turn_2) >= least:
            most = steps
        else:
            too_many = steps
        steps = (most + too_many) // 2
    return most


@njit(nogil=True, cache=True)
def _overlap(centre, extent, turn, centre_2, extent_2, turn_2):
    if extent.prod() > extent_2.prod():
        return _share(centre_2, extent_2, turn_2, centre, extent, turn)
    return _share(centre, extent, turn, centre_2, extent_2, turn_2)


@njit(nogil=True, cache=True)
def _share(centre, extent, turn, centre_2, extent_2, turn_2):
    """How much of the first box lies in the second one."""
    # (axis of the second, axis of the first)
    to_second, shift = np.zeros((3, 3)), np.zeros(3)
    for i in range(3):
        for j in range(3):
            shift[i] += turn_2[j, i] * (centre[j] - centre_2[j])
            for k in range(3):
                to_second[i, k] += turn_2[j, i] * turn[j, k]
    if abs(to_second[0, 0]) > _UPRIGHT and abs(to_second[1, 1]) > _UPRIGHT and abs(to_second[2, 2]) > _UPRIGHT:
        share = 1.0
        for axis in range(3):
            low = max(shift[axis] - extent[axis] / 2, -extent_2[axis] / 2)
            high = min(shift[axis] + extent[axis] / 2, extent_2[axis] / 2)
            share *= max(0.0, high - low) / extent[axis]
        return share
    total = 0.0
    for j in range(_LINES):
        for k in range(_LINES):
            total += _inside(to_second, shift, extent[0] / 2, _place(j) * extent[1], _place(k) * extent[2], extent_2)
    return total / (_LINES**2 * extent[0])


@njit(nogil=True, cache=True)
def _place(line):
    return (line + 0.5) / _LINES - 0.5


@njit(nogil=True, cache=True)
def _inside(to_second, shift, reach, b, c, extent_2):
    """How much of the line (-reach .. reach, b, c) lies in the second box, in mm."""
    low, high = -reach, reach
    for axis in range(3):
        start, along, limit = to_second[axis, 1] * b + to_second[axis, 2] * c + shift[axis], to_second[axis, 0], extent_2[axis] / 2
        if abs(along) < 1e-9:
            if abs(start) > limit:
                return 0.0
        else:
            one, other = (-limit - start) / along, (limit - start) / along
            low, high = max(low, min(one, other)), min(high, max(one, other))
    return max(0.0, high - low)

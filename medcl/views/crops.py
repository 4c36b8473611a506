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

# A pair's overlap is counted on this many points along each axis of the smaller crop.
_POINTS = 12
# Towards the first one, the second crop of a pair is moved in so many steps.
_STEPS = 16


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
    """Volume that two crops share over that of the smaller one, counted on 12 points along each axis."""
    return float(_overlap(one.centre, one.extent, one.turn, other.centre, other.extent, other.turn))


def pull_together(first: Frame, second: Frame, least: float) -> Frame:
    """Move the second crop towards the first until they overlap by `least`; turn it alike where that is not enough."""
    steps = _steps_apart(first.centre, first.extent, first.turn, second.centre, second.extent, second.turn, least)
    if steps < 0:
        return Frame(first.centre, second.extent, first.turn)
    return Frame(first.centre + steps / _STEPS * (second.centre - first.centre), second.extent, second.turn)


@njit(nogil=True, cache=True)
def _steps_apart(centre, extent, turn, centre_2, extent_2, turn_2, least):
    """Of 16 steps from the first crop to where the second one was drawn, the most that leave them overlapping; -1 where none does."""
    for steps in range(_STEPS, -1, -1):
        moved = centre + steps / _STEPS * (centre_2 - centre)
        if _overlap(centre, extent, turn, moved, extent_2, turn_2) >= least:
            return steps
    return -1


@njit(nogil=True, cache=True)
def _overlap(centre, extent, turn, centre_2, extent_2, turn_2):
    if extent[0] * extent[1] * extent[2] > extent_2[0] * extent_2[1] * extent_2[2]:
        centre, extent, turn, centre_2, extent_2, turn_2 = centre_2, extent_2, turn_2, centre, extent, turn
    to_large, shift = np.zeros((3, 3)), np.zeros(3)
    for i in range(3):
        for j in range(3):
            shift[i] += turn_2[j, i] * (centre[j] - centre_2[j])
            for k in range(3):
                to_large[i, k] += turn_2[j, i] * turn[j, k]
    return _share_inside(extent, to_large, shift, extent_2)


@njit(nogil=True, cache=True)
def _share_inside(extent, turn, shift, limits):
    count = 0
    for i in range(_POINTS):
        a = ((i + 0.5) / _POINTS - 0.5) * extent[0]
        for j in range(_POINTS):
            b = ((j + 0.5) / _POINTS - 0.5) * extent[1]
            for k in range(_POINTS):
                c = ((k + 0.5) / _POINTS - 0.5) * extent[2]
                inside = True
                for axis in range(3):
                    position = turn[axis, 0] * a + turn[axis, 1] * b + turn[axis, 2] * c + shift[axis]
                    if abs(position) > limits[axis] / 2:
                        inside = False
                if inside:
                    count += 1
    return count / _POINTS**3

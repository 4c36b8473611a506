"""Views before any arithmetic: what a device computes them from, as arrays with one entry for each view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medcl.views.sampling import Region
from medcl.views.step import Look

# Times the voxels that views need: more is not copied to a device.
_MOST_ROOM = 2


@dataclass(frozen=True, eq=False)
class RawViews:
    """Some views of one size.

    size: (x, y, z) of each view. arrays: the voxels that they need, in the store's own numbers, in any memory: (some views, x, y, z), one
    after the other; shapes: (view, 3), how many of those are a view's own. factors (view, 3), matrix (view, 3, 4), scaling (view, 2): where
    in them it lies, as in `sampling.Region`; bend: the same, of those views that are bent. look: (view, 8), its `Look.numbers`. drawn: of
    each intensity step, the views for which it was drawn, and the values, one for each of them.
    """

    size: tuple[int, int, int]
    arrays: list[Any]
    shapes: np.ndarray
    factors: np.ndarray
    matrix: np.ndarray
    scaling: np.ndarray
    bend: dict[int, np.ndarray]
    look: np.ndarray
    drawn: dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]

    @staticmethod
    def of(size: tuple[int, int, int], region: Region, look: Look, values: Mapping[str, Mapping[str, float]]) -> RawViews:
        """A single view. values: of its intensity steps, by name."""
        return RawViews(
            size,
            [region.array[None]],
            np.array([region.array.shape]),
            np.array([region.factors]),
            region.matrix[None],
            np.array([region.scaling]),
            {0: region.bend} if region.bend.size else {},
            np.array([look.numbers]),
            {name: (np.zeros(1, np.int64), {key: np.array([value]) for key, value in drawn.items()}) for name, drawn in values.items()},
        )

    @staticmethod
    def joined(parts: Sequence[RawViews]) -> RawViews:
        """All views of some parts, in order."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part.shapes) for part in parts)]).tolist()
        steps = dict.fromkeys(name for part in parts for name in part.drawn)
        drawn = {}
        for name in steps:
            having = [(start, *part.drawn[name]) for start, part in zip(starts, parts, strict=False) if name in part.drawn]
            values = {key: np.concatenate([one[key] for _, _, one in having]) for key in having[0][2]}
            drawn[name] = np.concatenate([start + places for start, places, _ in having]), values
        return RawViews(
            parts[0].size,
            [array for part in parts for array in part.arrays],
            np.concatenate([part.shapes for part in parts]),
            np.concatenate([part.factors for part in parts]),
            np.concatenate([part.matrix for part in parts]),
            np.concatenate([part.scaling for part in parts]),
            {start + place: bend for start, part in zip(starts, parts, strict=False) for place, bend in part.bend.items()},
            np.concatenate([part.look for part in parts]),
            drawn,
        )

    def holding(self, arrays: Sequence[Any]) -> RawViews:
        """The same with their voxels elsewhere: on a device, say."""
        return replace(self, arrays=list(arrays))

    def stacked(self) -> RawViews:
        """The same in one array, each view's voxels with zeros behind them, unless that would be mostly zeros: one copy to a device."""
        room, dtypes = self.shapes.max(0), {array.dtype for array in self.arrays}
        if len(dtypes) > 1 or len(self.shapes) * room.prod() > _MOST_ROOM * self.shapes.prod(1).sum():
            return self
        stack, place = np.zeros((len(self.shapes), *room), dtypes.pop()), 0
        for array in self.arrays:
            count, x, y, z = array.shape
            stack[place : place + count, :x, :y, :z] = array
            place += count
        return self.holding([stack])

"""One item of a batch: its views drawn, rendered or read, wherever that is done; a row that cannot be read is named, and may be skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from medcl.foundation.errors import DataError, MedclError, UserError

# (seed, step, item)
Key = tuple[int, int, int]
# (store, row, key, number of views) -> parameters of the views.
Draw = Callable[[Any, int, Key, int], Sequence[Any]]


class Store(Protocol):
    """What is needed of a VolumeStore."""

    index: Any


class Raw(Protocol):
    """What some views of one size are computed from on a device: their voxels, and whatever else is needed (see views.RawViews)."""

    @property
    def size(self) -> tuple[int, ...]:
        """(x, y, z) of each view."""
        ...

    @property
    def arrays(self) -> list[Any]:
        """Their voxels, as they were read."""
        ...

    def holding(self, arrays: Sequence[Any]) -> Any:
        """The same with their voxels elsewhere."""
        ...


class Maker(Protocol):
    """What is needed of a ViewMaker: all parameters first, a pure function of the key, then pixels."""

    config: Any

    def draw_row(self, store: Any, row: int, key: Key, num_views: int) -> Sequence[Any]:
        """Parameters of the views of one row of the store."""
        ...

    def render_mask(self, store: Any, row: int, parameters: Any) -> np.ndarray | None:
        """Numbers (x, y, z) of the row's mask under a view, uint8; None where it has none."""
        ...

    def match(self, store: Any, row: int, views: Sequence[Any], count: int, key: Key) -> np.ndarray:
        """Points (view, point, axes) of the same tissue in the views that were drawn."""
        ...

    def render(self, store: Any, row: int, parameters: Any, out: np.ndarray | None) -> np.ndarray:
        """One view (x, y, z), written into `out`."""
        ...

    def read(self, store: Any, row: int, parameters: Any) -> Raw:
        """What `render_batch` needs of one view."""
        ...

    def join(self, parts: Sequence[Any]) -> Any:
        """All views of some parts, in order, as one part in few arrays."""
        ...

    def render_batch(self, parts: Sequence[Any], device: Any) -> Any:
        """Many views (batch, x, y, z) of one size, computed on a device."""
        ...


@dataclass(frozen=True)
class Made:
    """What was made of an item. row: of the store. raw: what was read for each view, where a device computes them and it is not part of a
    whole. points, mask: for `Batch.points` and `Batch.target`, where they are wanted."""

    row: int
    raw: list[Any]
    points: np.ndarray | None
    mask: np.ndarray | None


@dataclass
class Items:
    """Makes items; a pure function of row and key. Picklable where its parts are.

    rows: those that may be shown. masks: the class of each number in the scans' masks, (256,). draw: draws the views. skips: a row that
    cannot be read gives its place to the next one that can; skipped: those rows, each with its reason.
    """

    store: Any
    maker: Any
    num_views: int
    rows: np.ndarray
    draw: Draw
    num_points: int = 0
    masks: np.ndarray | None = None
    skips: bool = False
    skipped: dict[int, str] = field(default_factory=dict)

    def make(self, row: int, key: Key, outs: Sequence[np.ndarray] | None) -> Made:
        """Render the row's views into `outs`, or only read them where that is None. Raises DataError naming step and row."""
        for _ in range(len(self.rows)):
            if row not in self.skipped:
                try:
                    return self._make(row, key, outs)
                except DataError as error:
                    if not self.skips:
                        raise
                    self.skipped.setdefault(row, str(error))
            row = int(self.rows[(np.flatnonzero(self.rows == row)[0] + 1) % len(self.rows)])
        raise DataError(f"step {key[1]}: none of {len(self.rows)} rows can be read; the first: {next(iter(self.skipped.values()))}")

    def _make(self, row: int, key: Key, outs: Sequence[np.ndarray] | None) -> Made:
        try:
            drawn = self.draw(self.store, row, key, self.num_views)
            points = self.maker.match(self.store, row, drawn, self.num_points, key) if self.num_points else None
            mask = None if self.masks is None else self._classes(row, drawn[0])
            if outs is None:
                return Made(row, [self.maker.read(self.store, row, parameters) for parameters in drawn], points, mask)
            for parameters, out in zip(drawn, outs, strict=True):
                self.maker.render(self.store, row, parameters, out)
            return Made(row, [], points, mask)
        except MedclError as error:
            raise type(error)(f"step {key[1]}, row {row} of the store: {error}") from error
        except MemoryError as error:
            raise UserError(
                f"step {key[1]}: out of memory while row {row} of the store was read; lower training.workers or training.world_batch"
            ) from error
        except Exception as error:
            raise DataError(
                f"step {key[1]}: row {row} of the store (volume {self._volume(row)}) gave no view: {type(error).__name__}: {error}; "
                "run `medcl prepare` again if the store is damaged"
            ) from error

    def _classes(self, row: int, parameters: Any) -> np.ndarray:
        numbers = self.maker.render_mask(self.store, row, parameters)
        if numbers is None or self.masks is None:
            raise DataError("no mask to learn from; leave the row out of rows")
        return self.masks[numbers]

    def _volume(self, row: int) -> str:
        return str(self.store.index["volume_id"].iloc[row])

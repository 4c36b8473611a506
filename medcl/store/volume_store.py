"""Prepared volumes as rows: `read(row, box)` touches only the chunks it needs."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medcl.foundation.config import load
from medcl.foundation.errors import DataError, UserError
from medcl.foundation.files import read_card
from medcl.foundation.types import Volume
from medcl.ingest.doubts import may_hold_text
from medcl.ingest.manifest import read_parquet
from medcl.store.arrays import ArrayReader, Box
from medcl.store.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

INDEX = "index.parquet"
RECIPE = "recipe.yaml"
LABELS = "labels.parquet"
REPORTS = "reports.parquet"
# Columns of the index that `prepare` makes; the others are the manifest's.
PREPARED = (
    *("shape", "spacing_mm", "orientation", "units", "affine", "dtype", "slope", "intercept", "background", "center", "spread"),
    *("file", "offset", "nbytes", "checksums", "frame", "mask_file", "mask_offset", "mask_nbytes", "mask_checksums", "mask_frame"),
    *("body_box", "mask_boxes", "scan_hash"),
)


class VolumeStore:
    """A STORE folder, read-only. Thread safe; pickles as its path.

    index: one row per volume. The manifest's columns, with `shape`, `spacing_mm`, `orientation` and `units` of the
    prepared array, and: `affine` (16 numbers, row by row), `patient` (int, equal numbers are the same patient),
    `file`, `offset`, `nbytes` (offset -1: the file is this volume's own), `checksums` (of its chunks) and `frame` (see arrays.py),
    `dtype`, `slope`, `intercept` (stored value = integer * slope + intercept), `background` (stored value of nothing),
    `center`, `spread` (native value = stored value * spread + center), and the mask's `mask_file`, `mask_offset`,
    `mask_nbytes`, `mask_checksums`, `mask_frame` ("" where there is no mask); `body_box` and `mask_boxes`: six numbers for each box,
    x0 x1 y0 y1 z0 z1, around the body and around every label of the mask; `scan_hash`: names what the volume was made from.

    Raises UserError for a folder without a store's card; reading raises DataError naming row, volume and file where what
    is on the disk is not what was written.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.card: dict[str, Any] = read_card(self.folder, "store")
        self.recipe: Recipe = load(Recipe, self.folder / RECIPE)
        self.index: pd.DataFrame = read_parquet(self.folder / INDEX)
        self._arrays = ArrayReader(self.folder)
        self._shapes = [(int(x), int(y), int(z)) for x, y, z in self.index["shape"]]
        self._affines = [np.array(numbers, dtype=float).reshape(4, 4) for numbers in self.index["affine"]]
        self._columns = {name: self.index[name].tolist() for name in _FAST if name in self.index}

    def __len__(self) -> int:
        return len(self._shapes)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])

    @cached_property
    def labels(self) -> pd.DataFrame | None:
        """The data's labels (columns as in DATA's labels.parquet), or None."""
        return read_parquet(self.folder / LABELS) if (self.folder / LABELS).is_file() else None

    @cached_property
    def reports(self) -> pd.DataFrame | None:
        """The data's reports (`report_id, text, ...`), or None."""
        return read_parquet(self.folder / REPORTS) if (self.folder / REPORTS).is_file() else None

    @property
    def paired(self) -> bool:
        """Whether volumes come with reports."""
        return (self.folder / REPORTS).is_file()

    def shape(self, row: int) -> tuple[int, int, int]:
        """Shape (x, y, z) of a stored array."""
        return self._shapes[row]

    def affine(self, row: int) -> np.ndarray:
        """4x4, stored voxel index -> RAS+ mm."""
        return self._affines[row]

    def background(self, row: int) -> float:
        """The stored value of nothing: air, black, no signal."""
        return self._columns["background"][row]

    def scaling(self, row: int) -> tuple[float, float]:
        """(slope, intercept): stored value = integer * slope + intercept."""
        return self._columns["slope"][row], self._columns["intercept"][row]

    def may_hold_text(self, row: int) -> bool:
        """Whether ingest suspects text in the pixels, and a name may be in it: no page shows such a scan."""
        return "flags" in self._columns and may_hold_text(self._columns["flags"][row])

    def has_mask(self, row: int) -> bool:
        """Whether a mask belongs to the volume."""
        return bool(self._columns["mask_file"][row])

    def boxes(self, row: int, kind: Literal["body", "mask"]) -> list[Box]:
        """Boxes in stored voxels around what a row shows: the one around the body, or one around each label of its mask.

        A row without a mask gives its body. Raises UserError for a store that was prepared before these were kept.
        """
        if "body_box" not in self._columns:
            raise UserError(f"{self.folder}: does not say where the body and the masks are; prepare it again, or take `place: field`")
        numbers = list(self._columns["mask_boxes"][row]) if kind == "mask" and self.has_mask(row) else []
        numbers = numbers or list(self._columns["body_box"][row])
        edges = [(int(start), int(stop)) for start, stop in zip(numbers[::2], numbers[1::2], strict=True)]
        return [(x, y, z) for x, y, z in zip(edges[::3], edges[1::3], edges[2::3], strict=True)]

    def read(self, row: int, box: Box | None = None) -> Volume:
        """A box ((x0, x1), (y0, y1), (z0, z1)) inside the array, all of it by default: float32 in stored units."""
        raw, slope, intercept = self.read_raw(row, box)
        array = raw.astype(np.float32)
        array *= np.float32(slope)
        array += np.float32(intercept)
        affine = self._affines[row].copy()
        if box is not None:
            affine[:3, 3] += affine[:3, :3] @ np.array([limits[0] for limits in box], dtype=float)
        modality = str(self.index["modality"].iat[row])
        return Volume(array, affine, modality, self.recipe.stored_units, self.recipe.kind)

    def read_raw(self, row: int, box: Box | None = None) -> tuple[np.ndarray, float, float]:
        """The same box as the integers of the file, with (slope, intercept): value = integer * slope + intercept."""
        return self._read(row, "", self._columns["dtype"][row], box), *self.scaling(row)

    def mask(self, row: int, box: Box | None = None) -> np.ndarray | None:
        """The mask's labels in a box: uint8 on the volume's own grid, or None where there is none."""
        return self._read(row, "mask_", "uint8", box) if self.has_mask(row) else None

    def _read(self, row: int, prefix: str, dtype: str, box: Box | None) -> np.ndarray:
        shape = self._shapes[row]
        box = _whole(shape) if box is None else box
        if any(not 0 <= start < stop <= length for (start, stop), length in zip(box, shape, strict=True)):
            raise ValueError(f"box {box} is not inside row {row}'s shape {shape}")
        name, offset = self._columns[prefix + "file"][row], self._columns[prefix + "offset"][row]
        # Stores prepared before checksums were kept have no such columns and are read as they are.
        checksums, frame = (self._columns[prefix + kept][row] if prefix + kept in self._columns else () for kept in ("checksums", "frame"))
        try:
            if offset < 0:
                return self._arrays.read(name, box, checksums, frame)
            place = (offset, self._columns[prefix + "nbytes"][row])
            return self._arrays.read_pooled(name, place, dtype, shape, box, checksums)
        except DataError as error:
            raise DataError(f"row {row} (volume {self.index['volume_id'].iat[row]}): {error}") from None


_FAST = (
    *("file", "offset", "nbytes", "checksums", "frame", "mask_file", "mask_offset", "mask_nbytes", "mask_checksums", "mask_frame"),
    *("dtype", "slope", "intercept", "background", "body_box", "mask_boxes", "flags"),
)


def _whole(shape: tuple[int, int, int]) -> Box:
    return (0, shape[0]), (0, shape[1]), (0, shape[2])

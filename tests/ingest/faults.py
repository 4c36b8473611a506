"""A corpus of faulty series, each with its truth: known from the world it was made of, never from a reader of DICOM."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from tests.ingest.scanner import AXIAL, ORIGIN, SPACING, phantom, series

Kind = Literal["readable", "several", "refuse", "policy", "picture"]
Field = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Known:
    """A volume that must come out. values: (slices, rows, columns); affine: RAS+ mm of (column, row, slice).

    tolerance: of values, where a lossy codec was at work. also: factors by which all values may differ (an SUV and its
    Bq/ml are both right). field: the scanned world (LPS mm to value) of slices that are sheared, for who resamples them.
    """

    values: np.ndarray
    affine: np.ndarray
    tolerance: float = 0.0
    also: tuple[float, ...] = ()
    field: Field | None = None


@dataclass(frozen=True)
class Fault:
    """One case. write: writes it into a folder and returns what must come of it, nothing where it must be refused.

    reasons: what the ledger says of the files that are not used. kind: `policy` is what medcl refuses although it can
    be read; `refuse` is what nobody can read right.
    """

    name: str
    kind: Kind
    write: Callable[[Path], list[Known]]
    reasons: frozenset[str]
    flags: frozenset[str]
    units: str


FAULTS: list[Fault] = []


def fault(name: str, kind: Kind, *reasons: str, flags: Iterable[str] = (), units: str = "") -> Callable[[Any], Any]:
    """Put the decorated writer into the table."""

    def keep(write: Callable[[Path], list[Known]]) -> Callable[[Path], list[Known]]:
        assert all(name != other.name for other in FAULTS), name
        FAULTS.append(Fault(name, kind, write, frozenset(reasons), frozenset(flags), units))
        return write

    return keep


def affine_of(
    spacing: tuple[float, ...] = SPACING, origin: tuple[float, ...] = ORIGIN, orientation: tuple[float, ...] = AXIAL
) -> np.ndarray:
    """RAS+ mm of (column, row, slice), from how the series was laid out."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row * spacing[0], column * spacing[1], np.cross(row, column) * spacing[2]], axis=1)
    affine[:3, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def slab(folder: Path, pixels: np.ndarray | None = None, *, real: np.ndarray | None = None, tolerance: float = 0.0, **how: Any) -> Known:
    """Write a series (see scanner.series) and say what it is. real: its values, where they are not the usual ones."""
    pixels = phantom() if pixels is None else pixels
    series(folder, pixels, **how)
    laid = {name: how[name] for name in ("spacing", "origin", "orientation") if name in how}
    usual = pixels.astype(np.float64) - (1024 if how.get("modality", "CT") == "CT" else 0)
    return Known(usual if real is None else real, affine_of(**laid), tolerance)


def judge(volumes: list[tuple[np.ndarray, np.ndarray]], known: list[Known], *, strict: bool = False) -> str:
    """`right`, `in part` (right as far as it goes), `refused` (nothing came, though something should) or `wrong`.

    volumes: arrays with their RAS+ affines. strict: no other units than those of the truth.
    """
    if not known:
        return "wrong" if volumes else "right"
    left = [replace(one, also=()) if strict else one for one in known]
    for array, affine in volumes:
        found = next((index for index, one in enumerate(left) if matches(array, affine, one)), None)
        if found is None:
            return "wrong"
        left.pop(found)
    return "right" if not left else "in part" if volumes else "refused"


def matches(array: np.ndarray, affine: np.ndarray, known: Known) -> bool:
    """Same values at the same places, whatever the order of axes."""
    if array.ndim != 3 or not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        return False
    values, place = _canonical(array, affine)
    truth, true_place = _canonical(known.values.transpose(2, 1, 0), known.affine)
    if values.shape == truth.shape and _farthest(place, true_place, values.shape) < 0.1:
        close = [np.allclose(values, truth * factor, rtol=2e-6, atol=known.tolerance * factor + 1e-6) for factor in (1.0, *known.also)]
        return any(close)
    return known.field is not None and _is_the_field(values, place, known, known.field)


def _canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = nib.as_closest_canonical(nib.Nifti1Image(array.astype(np.float64), affine))  # type: ignore[attr-defined]
    return np.asarray(image.dataobj), image.affine


def _farthest(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """The largest distance, in mm, between where two affines put the corners."""
    corners = np.array(np.meshgrid(*[(0, side - 1) for side in shape], (1,))).reshape(4, -1)
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())


def _is_the_field(values: np.ndarray, affine: np.ndarray, known: Known, field: Field) -> bool:
    """Whether a resampled volume shows the world that the slices were cut from, where they cut it."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-4):
        return False
    world = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    there = (world - known.affine[:3, 3]) @ np.linalg.inv(known.affine[:3, :3]).T
    top = np.array(known.values.shape[::-1]) - 1
    covered = np.all((there[..., :2] > 1) & (there[..., :2] < top[:2] - 1), axis=-1)
    covered &= (there[..., 2] > -0.01) & (there[..., 2] < top[2] + 0.01)
    near = np.abs(values - field(world * (-1, -1, 1)))[covered] < 4
    return covered.sum() > 0.6 * known.values.size and bool(near.all())

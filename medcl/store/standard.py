"""One scan made standard: `prepare_volume` is the same function for the store and for a scan embedded years later.

A MONAI bundle carries this file: nothing outside NumPy, SciPy, Numba and medcl's files beside it there may be imported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from medcl.foundation import geometry
from medcl.foundation.errors import MedclError
from medcl.store.body import body_box, body_threshold
from medcl.store.resample import resample, resampled_length

if TYPE_CHECKING:
    from medcl.foundation.types import Volume
    from medcl.store.recipe import Recipe, ZScoreIntensity


# What reading and preparing a scan may raise where the scan is to blame: such a volume is listed, and is not fatal.
BAD_SCAN = (MedclError, OSError, ValueError, EOFError)


class Refused(MedclError):
    """A volume that contradicts the recipe. `code` is short and stable; it goes to the ledger."""

    exit_code = 2

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Prepared:
    """A volume as the store keeps it.

    array: (x, y, z) float32 in stored units; affine: 4x4, voxel index -> RAS+ mm. background: the stored value of
    nothing (air, black), used outside the field. native value = stored value * spread + center, before clipping.
    """

    array: np.ndarray
    affine: np.ndarray
    background: float
    center: float = 0.0
    spread: float = 1.0


def prepare_volume(volume: Volume, recipe: Recipe) -> Prepared:
    """Reorient, cut to the body, resample and scale one volume as the recipe says. Pure.

    Raises Refused (exit 2, with a ledger code) where the volume contradicts the recipe.
    """
    _check_claims(volume, recipe)
    array, affine = np.asarray(volume.array), np.asarray(volume.affine, dtype=float)
    if recipe.kind == "volume":
        _check_grid(affine)
    _check_values(array, recipe)
    if recipe.kind == "volume":
        array, affine = geometry.reorient(array, affine, recipe.orientation)
    if recipe.body_crop:
        array, affine = _crop(array, affine, body_box(array, affine, recipe))
    array, affine = resample(array, affine, resampling_factors(array.shape, geometry.spacing_mm(affine), recipe))
    return _scale(array, affine, recipe)


def as_integers(array: np.ndarray, dtype: str, slope: float, intercept: float) -> np.ndarray:
    """What a store keeps of prepared values: integers, value = integer * slope + intercept (`Recipe.storage`), last axis fastest."""
    limits, out = np.iinfo(dtype), np.empty(array.shape, dtype)
    step, start, low, high = (np.float32(number) for number in (slope, intercept, limits.min, limits.max))
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        _round_and_turn(array.T, step, start, low, high, out)
    else:
        _round(np.ascontiguousarray(array).reshape(-1), step, start, low, high, out.reshape(-1))
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def _round(values, slope, intercept, low, high, out):
    for k in range(values.size):
        out[k] = min(max(np.rint((values[k] - intercept) / slope), low), high)


@njit(nogil=True, cache=True)
def _round_and_turn(values, slope, intercept, low, high, out):
    """The same of (z, y, x) to (x, y, z), in tiles that fit the cache."""
    side, (nx, ny, nz) = 16, out.shape
    tile = np.empty((side, side), out.dtype)
    for j in range(ny):
        for z in range(0, nz, side):
            for x in range(0, nx, side):
                rows, columns = min(side, nz - z), min(side, nx - x)
                for k in range(rows):
                    _round(values[z + k, j, x : x + columns], slope, intercept, low, high, tile[k])
                for i in range(columns):
                    for k in range(rows):
                        out[x + i, j, z + k] = tile[k, i]


def as_stored(prepared: Prepared, dtype: str, slope: float, intercept: float) -> Prepared:
    """The values that a store would give back: rounded to its integers, so that embeddings are those of training."""
    integers = as_integers(prepared.array, dtype, slope, intercept)
    return replace(prepared, array=integers.astype(np.float32) * np.float32(slope) + np.float32(intercept))


def resampling_factors(shape: tuple[int, ...], spacing: tuple[float, ...], recipe: Recipe) -> tuple[float, float, float]:
    """By how much each voxel grows, for a volume already in the recipe's orientation."""
    if recipe.kind == "picture":
        side = max(shape[:2])
        factor = side / recipe.picture_side if recipe.picture_side and side > recipe.picture_side else 1.0
        return factor, factor, 1.0
    if recipe.spacing_mm is None:
        return 1.0, 1.0, 1.0
    wanted = [max(old, new) if recipe.keep_coarse else new for old, new in zip(spacing, recipe.spacing_mm, strict=True)]
    x, y, z = (1.0 if abs(new / old - 1) < 0.01 else new / old for old, new in zip(spacing, wanted, strict=True))
    return x, y, z


def predicted_shape(shape: tuple[int, ...], spacing: tuple[float, ...], orientation: str, recipe: Recipe) -> tuple[int, int, int]:
    """Shape after preparation without a body crop: what the plan and the dry run count with."""
    if recipe.kind == "volume" and len(orientation) == 3:
        axes = [next(i for i, letter in enumerate(orientation) if letter in pair) for pair in _pairs(recipe.orientation)]
        shape, spacing = tuple(shape[i] for i in axes), tuple(spacing[i] for i in axes)
    factors = resampling_factors(shape, spacing, recipe)
    x, y, z = (resampled_length(length, factor) for length, factor in zip(shape, factors, strict=True))
    return x, y, z


def _pairs(orientation: str) -> list[str]:
    return [next(pair for pair in ("LR", "PA", "IS") if letter in pair) for letter in orientation]


def _check_claims(volume: Volume, recipe: Recipe) -> None:
    if volume.kind != recipe.kind:
        raise Refused("wrong_kind", f"a {volume.kind} for recipe '{recipe.name}', which is for {recipe.kind}s; choose another --recipe")
    if volume.modality not in recipe.modalities:
        accepted = ", ".join(recipe.modalities)
        raise Refused(
            "wrong_modality", f"modality '{volume.modality}' for recipe '{recipe.name}' (for {accepted}); choose another --recipe"
        )
    if volume.units not in recipe.units:
        wanted = " or ".join(recipe.units)
        raise Refused(
            "wrong_units",
            f"units '{volume.units}' for recipe '{recipe.name}', which needs {wanted}; ingest the original with its rescale values, "
            "or write a recipe file with other units",
        )
    if volume.array.ndim != 3 or 0 in volume.array.shape:
        raise Refused("wrong_shape", f"shape {volume.array.shape}: expected three axes (x, y, z), none of them empty")


def _check_grid(affine: np.ndarray) -> None:
    columns = affine[:3, :3] / np.maximum(geometry.spacing_mm(affine), 1e-9)
    slant = float(np.abs(columns.T @ columns - np.eye(3)).max())
    if not np.isfinite(slant) or slant > 0.02:
        raise Refused(
            "sheared_grid", "the voxel axes are not at right angles (a tilted gantry?); ingest the DICOM series, or straighten the file"
        )


def _check_values(array: np.ndarray, recipe: Recipe) -> None:
    low, high = _ends(array)
    if not np.isfinite(low) or not np.isfinite(high):
        raise Refused("not_finite", "NaN or infinite voxels; repair the file")
    if low == high and recipe.intensity.name != "binary":
        raise Refused("constant", f"every voxel is {low:g}")
    if recipe.plausible and not (low < recipe.plausible[0] and high > recipe.plausible[1]):
        raise Refused(
            "implausible_units",
            f"values from {low:g} to {high:g} do not look like {recipe.units[0]}: expected some below {recipe.plausible[0]:g} and some "
            f"above {recipe.plausible[1]:g}; rescaled twice, or never? (a recipe file may say `plausible: null`)",
        )


def _ends(array: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest value; NaN where there is one."""
    if array.dtype.kind not in "iu":
        return float(array.min()), float(array.max())
    low, high = _integer_ends(array.ravel(order="K"))
    return float(low), float(high)


@njit(nogil=True, cache=True)
def _integer_ends(values):
    low = high = values[0]
    for k in range(values.size):
        low, high = min(low, values[k]), max(high, values[k])
    return low, high


def _crop(array: np.ndarray, affine: np.ndarray, box: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ np.array([start for start, _ in box], dtype=float)
    return array[tuple(slice(*limits) for limits in box)], moved


def _scale(array: np.ndarray, affine: np.ndarray, recipe: Recipe) -> Prepared:
    intensity = recipe.intensity
    if intensity.name == "window":
        clipped = np.clip(array, intensity.stored_low, intensity.stored_high)
        return Prepared(clipped, affine, background=intensity.stored_low)
    if intensity.name == "zscore":
        center, spread = _robust_moments(array, intensity, recipe)
        return _standardised(array, affine, center, spread, (-intensity.clip, intensity.clip))
    if intensity.name == "display":
        low, high = _percentiles(array, (intensity.low_percentile, intensity.high_percentile))
        return _standardised(array, affine, low, high - low, (0.0, 1.0))
    half = max(float(array.max()), 0.0) / 2
    return Prepared((array > half).astype(np.float32), affine, background=0.0)


def _standardised(array: np.ndarray, affine: np.ndarray, center: float, spread: float, limits: tuple[float, float]) -> Prepared:
    result = np.clip((array - np.float32(center)) / np.float32(spread), *limits, dtype=np.float32)
    return Prepared(result, affine, background=float(result.min()), center=center, spread=spread)


def _robust_moments(array: np.ndarray, intensity: ZScoreIntensity, recipe: Recipe) -> tuple[float, float]:
    body = array[array > body_threshold(array, recipe)].astype(np.float64)
    low, high = np.percentile(body, (intensity.low_percentile, intensity.high_percentile))
    kept = body[(body >= low) & (body <= high)]
    spread = float(kept.std())
    if spread <= 0:
        raise Refused("constant", "the body has one value only")
    return float(kept.mean()), spread


def _percentiles(array: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(array, percentiles))
    if low == high:
        low, high = float(array.min()), float(array.max())
    if low == high:
        raise Refused("constant", "the picture has one value only")
    return low, high

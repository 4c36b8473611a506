"""NIfTI files to volumes: orientation that is stated and not guessed, values scaled once, time as `time_index`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Image

from medcl.foundation.types import Units, Volume
from medcl.ingest.hints import Hint, is_no_magnitude
from medcl.ingest.ledger import Refused
from medcl.ingest.nifti_file import Stored, read_stored, slope_and_intercept
from medcl.ingest.records import Facts, Identity, Scan, Source, describe
from medcl.ingest.settings import IngestConfig

# Codes of NIfTI's xyzt_units: metre, millimetre, micrometre; seconds, milliseconds, microseconds.
_UNIT_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
_MILLIMETRES = 2
_TIME_UNITS = (8, 16, 24)
_LAST_FORM_CODE = 5
SMALLEST_MM, LARGEST_MM = 1e-3, 100.0
_INSIDE_MM = 0.1
_SAME_SPACING = 0.01
_FURTHEST_MM = 1e5


@dataclass(frozen=True)
class Opened:
    """A NIfTI file whose header holds together. values: (x, y, z) or (x, y, z, time)."""

    values: np.ndarray
    affine: np.ndarray
    flags: tuple[str, ...]


def read_scans(path: str, relative: str, hint: Hint, config: IngestConfig) -> Iterator[Scan]:
    """Yield one scan per time point. Raises Refused."""
    if is_no_magnitude(relative) and not config.keep_derived:
        raise Refused("derived", "phase, complex part or field map by its BIDS name")
    opened = open_nifti(path, config)
    count = opened.values.shape[3] if opened.values.ndim == 4 else 1
    for time_index in range(count):
        volume, flags = _volume(opened, time_index, hint.modality, config)
        volume_name = f"{relative}#{time_index}"
        identity = Identity(
            hint.patient, hint.study or hint.patient, relative, file=relative, stack=relative, volume=volume_name, date=hint.date
        )
        detail = {"time": time_index, "modality": volume.modality, "units": volume.units}
        facts = Facts(time_index=time_index, age_years=hint.age_years, sex=hint.sex, split=hint.split, flags=flags)
        yield describe(volume, identity, Source("nifti", (path,), detail), facts)


def read_again(source: Source, config: IngestConfig) -> Volume:
    """The volume that `source` describes, as ingest saw it."""
    opened = open_nifti(source.paths[0], config)
    volume, _ = _volume(opened, int(source.detail["time"]), source.detail["modality"], config)
    return Volume(volume.array, volume.affine, source.detail["modality"], source.detail["units"])


def read_mask(path: str, config: IngestConfig) -> Volume:
    """A mask as whole numbers (rounded where stored as floats that are nearly whole). Raises Refused."""
    opened = open_nifti(path, config, may_be_blank=True)
    values = opened.values if opened.values.ndim == 3 else None
    if values is None:
        raise Refused("dimensions", "a mask must be 3D")
    rounded = np.rint(values) if values.dtype.kind == "f" else values
    fractional = values.dtype.kind == "f" and np.abs(values - rounded).max() > 1e-3
    if fractional or int(rounded.min()) < 0 or int(rounded.max()) > 65535:
        raise Refused("mask_values", f"range {float(values.min()):.4g} to {float(values.max()):.4g}")
    kind = np.uint8 if rounded.max() <= 255 else np.uint16
    return Volume(rounded.astype(kind), opened.affine, "mask", "arbitrary")


def open_nifti(path: str, config: IngestConfig, may_be_blank: bool = False) -> Opened:
    """Read and check one file. Raises Refused with the code of what is wrong."""
    stored = read_stored(path, config.budget_bytes)
    affine, flags = _affine(stored.header, config.nifti_orientation)
    if stored.values.ndim == 4 and _units(stored.header)[1] not in _TIME_UNITS:
        # Some data sets stack sequences or channels along the fourth axis.
        flags.append("fourth_axis_unstated")
    if not may_be_blank:
        _refuse_blank(stored.values)
    values = _real_values(stored)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        if config.not_finite == "refuse":
            raise Refused("not_finite", f"{int((~np.isfinite(values)).sum())} voxels")
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        flags.append("not_finite_zeroed")
    if not may_be_blank:
        _refuse_blank(values)
    return Opened(values, affine, tuple(flags))


def _refuse_blank(values: np.ndarray) -> None:
    if values.max() == values.min():
        raise Refused("blank")


def _real_values(stored: Stored) -> np.ndarray:
    """The voxels, scaled as the header says: float32, or the stored type where whole numbers are not scaled."""
    values = stored.values
    slope, inter = slope_and_intercept(stored.header)
    if (slope, inter) == (1.0, 0.0):
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is treated as such
            return values.astype(np.float32 if values.dtype.kind == "f" else values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind != "f" and abs(slope) < np.spacing(np.float32(abs(inter))):
        raise Refused("rescale_invalid", "steps finer than float32 holds")
    scaled = np.empty(values.shape, dtype=np.float32, order="F")
    with np.errstate(over="ignore", invalid="ignore"):
        for index in range(values.shape[-1]):
            scaled[..., index] = values[..., index].astype(np.float64) * slope + inter
    return scaled


def _affine(header: Any, choice: str) -> tuple[np.ndarray, list[str]]:
    """The affine in RAS+ mm by the stated choice, and flags."""
    chosen, flags = _chosen_form(header, choice)
    affine = np.array(chosen, dtype=np.float64)
    unit, _ = _units(header)
    if unit != _MILLIMETRES:
        flags.append("length_unit_converted" if unit in _UNIT_MM else "length_unit_unknown")
    affine[:3] *= _UNIT_MM.get(unit, 1.0)
    check_affine(affine)
    if _is_sheared(affine):
        flags.append("sheared")
    return affine, flags


def _chosen_form(header: Any, choice: str) -> tuple[np.ndarray, list[str]]:
    """sform or qform, in the file's own unit of length. Flags say where the other one, or pixdim, contradicts it."""
    codes = int(header["sform_code"]), int(header["qform_code"])
    if not all(0 <= code <= _LAST_FORM_CODE for code in codes):
        raise Refused("bad_header", "orientation code")
    if codes == (0, 0):
        if choice == "strict":
            raise Refused("orientation_unknown")
        _check_lengths(header)
        return header.get_base_affine(), ["orientation_guessed"]
    if codes[0] == 0 or (choice == "qform" and codes[1] > 0):
        qform = _qform(header)
        return qform, ["qform_differs"] if codes[0] > 0 and _furthest_mm(header.get_sform(), qform, header) > _INSIDE_MM else []
    sform = header.get_sform()
    check = [] if codes[1] == 0 else _against_qform(header, sform, is_strict=choice == "strict" and codes[0] == codes[1])
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.linalg.norm(sform[:3, :3].astype(np.float64), axis=0)
    apart = np.abs(header["pixdim"][1:4].astype(np.float64) - lengths)
    # Written so that not-a-number counts as a difference.
    return sform, check if (apart <= _SAME_SPACING * lengths).all() else [*check, "spacing_differs"]


def _against_qform(header: Any, sform: np.ndarray, is_strict: bool) -> list[str]:
    """Flags of a qform that puts voxels elsewhere. Raises Refused where both say that they mean the same space.

    Codes that differ name two spaces; a shear (dcm2niix keeps gantry tilt so) is beyond what a qform can say.
    """
    try:
        apart = _furthest_mm(sform, _qform(header), header)
    except Refused:
        apart = math.inf
    if apart <= _INSIDE_MM:
        return []
    if is_strict and not _is_sheared(sform):
        raise Refused("orientation_conflict", f"corners {apart:.1f} mm apart")
    return ["qform_differs"]


def _qform(header: Any) -> np.ndarray:
    _check_lengths(header)
    if float(header["pixdim"][0]) not in (-1.0, 0.0, 1.0):
        raise Refused("bad_affine", "qfac is neither 1 nor -1")
    try:
        qform = header.get_qform()
    except Exception:  # nibabel: HeaderDataError or ValueError
        raise Refused("bad_affine", "qform is not a rotation") from None
    return qform


def _check_lengths(header: Any) -> None:
    if not all(float(length) > 0 for length in header["pixdim"][1:4]):
        raise Refused("absurd_spacing", "zero or negative pixdim")


def _units(header: Any) -> tuple[int, int]:
    """The codes of the units of length and time."""
    code = int(header["xyzt_units"])
    return code & 0x07, code & 0x38


def check_affine(affine: np.ndarray) -> None:
    """Raise Refused for an affine that is not finite, singular, or of absurd spacing."""
    if not np.isfinite(affine).all() or np.abs(affine[:3, 3]).max() > _FURTHEST_MM:
        raise Refused("bad_affine", "not finite, or metres away")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < SMALLEST_MM or lengths.max() > LARGEST_MM:
        raise Refused("absurd_spacing", f"{lengths.min():.3g} to {lengths.max():.3g} mm")
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise Refused("bad_affine", "singular")


def _is_sheared(affine: np.ndarray) -> bool:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        return not np.abs(directions.T @ directions - np.eye(3)).max() <= 1e-3


def _furthest_mm(one: np.ndarray, other: np.ndarray, header: Any) -> float:
    """How far apart two affines put the worst corner; infinite where that is no number."""
    corners = np.stack(np.meshgrid(*[(0, int(length) - 1) for length in header["dim"][1:4]], indexing="ij"), -1).reshape(-1, 3)
    corners = np.c_[corners, np.ones(len(corners))]
    with np.errstate(invalid="ignore", over="ignore"):
        apart = float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max()) * _UNIT_MM.get(_units(header)[0], 1.0)
    return apart if math.isfinite(apart) else math.inf


def _volume(opened: Opened, time_index: int, modality: str, config: IngestConfig) -> tuple[Volume, tuple[str, ...]]:
    values = opened.values[..., time_index] if opened.values.ndim == 4 else opened.values
    modality = modality or "unknown"
    flags = list(opened.flags)
    units: Units = config.units or "arbitrary"
    if config.units is None and modality == "ct":
        # NIfTI does not say what the numbers are. Air at or below -200 is what Hounsfield units look like.
        units = "HU" if values.min() <= -200 else "arbitrary"
        flags += [] if units == "HU" else ["hu_doubtful"]
    if modality == "unknown":
        flags.append("modality_unknown")
    return Volume(values, opened.affine, modality, units), tuple(flags)


def nifti_bytes(volumes: Sequence[Volume]) -> bytes:
    """One volume as an uncompressed NIfTI file, or the time points of one stacked along a fourth axis."""
    arrays = [volume.array for volume in volumes]
    kind = np.result_type(*arrays)
    array = arrays[0] if len(arrays) == 1 else np.stack([one.astype(kind) for one in arrays], axis=-1)
    stored = np.dtype(np.float32) if kind.kind == "f" or kind.itemsize > 4 else kind
    image = Nifti1Image(array.astype(stored), volumes[0].affine)
    image.header.set_xyzt_units("mm", "sec" if len(arrays) > 1 else None)
    image.set_sform(volumes[0].affine, code=1)
    image.set_qform(volumes[0].affine, code=1, strip_shears=True)
    return image.to_bytes()

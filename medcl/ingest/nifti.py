"""NIfTI files to volumes: orientation that is stated and not guessed, gzip read to its end, time as `time_index`."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.nifti1 import Nifti1Header, Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Header, Nifti2Image
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from medcl.foundation.types import Units, Volume
from medcl.ingest.hints import Hint
from medcl.ingest.ledger import Refused
from medcl.ingest.records import Facts, Identity, Scan, Source, describe
from medcl.ingest.settings import IngestConfig

_UNIT_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
_EXTRA_BYTES = 2**20
SMALLEST_MM, LARGEST_MM = 1e-3, 100.0
_INSIDE_MM = 0.1


@dataclass(frozen=True)
class Opened:
    """A NIfTI file whose header holds together. values: (x, y, z) or (x, y, z, time)."""

    values: np.ndarray
    affine: np.ndarray
    flags: tuple[str, ...]


def read_scans(path: str, relative: str, hint: Hint, config: IngestConfig) -> Iterator[Scan]:
    """Yield one scan per time point. Raises Refused."""
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
    image = _load(path, config.budget_bytes)
    header = image.header
    shape = _checked_shape(header, config.budget_bytes)
    affine, flags = _affine(image, config.nifti_orientation)
    values = _values(image, shape, config.not_finite)
    if not may_be_blank and values.max() == values.min():
        raise Refused("blank")
    if values.dtype.kind == "f" and config.not_finite == "zero" and not np.isfinite(values).all():
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        flags.append("not_finite_zeroed")
    return Opened(values, affine, tuple(flags))


def _load(path: str, budget: int) -> Any:
    try:
        header_path, data_path = _pair(path)
        header_bytes = _bytes_of(header_path, budget)
        _check_as_written(header_bytes)
        if header_path == data_path:
            return _single(header_bytes)
        holders = {
            "header": FileHolder(fileobj=BytesIO(header_bytes)),
            "image": FileHolder(fileobj=BytesIO(_bytes_of(data_path, budget))),
        }
        with LoggingOutputSuppressor():
            return Nifti1Pair.from_file_map(holders)
    except (HeaderDataError, ImageFileError, WrapStructError, ValueError) as error:
        raise Refused("unreadable", type(error).__name__) from None


def _check_as_written(content: bytes) -> None:
    """Raise Refused for a header that nibabel would silently repair into another one."""
    if len(content) < 348:
        raise Refused("truncated", f"{len(content)} bytes")
    kind = Nifti2Header if content[4:7] in (b"n+2", b"ni2") else Nifti1Header
    if kind is Nifti1Header and content[344:348] not in (b"n+1\0", b"ni1\0"):
        raise Refused(
            "analyze_format" if 348 in (int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big")) else "unreadable"
        )
    header = kind(content[: kind.sizeof_hdr], check=False)
    codes = int(header["qform_code"]), int(header["sform_code"])
    if int(header["sizeof_hdr"]) != kind.sizeof_hdr or not all(0 <= code <= 5 for code in codes):
        raise Refused("unreadable", "header size or orientation code")
    lengths = [float(length) for length in header["pixdim"][1:4]]
    if codes[1] == 0 and not all(length > 0 for length in lengths):
        raise Refused("absurd_spacing", "zero or negative pixdim")


def _single(content: bytes) -> Any:
    if content[344:347] == b"ni1" or content[4:7] == b"ni2":
        raise Refused("missing_pair")
    with LoggingOutputSuppressor():
        image: Any = (Nifti2Image if content[4:7] == b"n+2" else Nifti1Image).from_bytes(content)
    header = image.header
    needed = int(image.dataobj.offset) + math.prod(map(int, header.get_data_shape())) * header.get_data_dtype().itemsize
    if len(content) - needed >= max(16, int(header["dim"][1]) * header.get_data_dtype().itemsize):
        raise Refused("pixel_length", f"{len(content)} bytes for {needed}")
    return image


def _pair(path: str) -> tuple[str, str]:
    """Header file and data file: the same for .nii, the two halves for .hdr / .img."""
    base, suffix = os.path.splitext(path)
    zipped = suffix if suffix.lower() == ".gz" else ""
    if zipped:
        base, suffix = os.path.splitext(base)
    if suffix.lower() not in (".hdr", ".img"):
        return path, path
    header, data = (f"{base}{end}{zipped}" for end in ((".hdr", ".img") if suffix.islower() else (".HDR", ".IMG")))
    if not (os.path.isfile(header) and os.path.isfile(data)):
        raise Refused("missing_pair")
    return header, data


def _bytes_of(path: str, budget: int) -> bytes:
    """The file's bytes, unzipped where it is gzip, whatever its name says. The checksum is checked; bombs stop early."""
    with open(path, "rb") as handle:
        if handle.read(2) != b"\x1f\x8b":
            if os.path.getsize(path) > budget + _EXTRA_BYTES:
                raise Refused("too_large", f"{os.path.getsize(path)} bytes")
            handle.seek(0)
            return handle.read()
        handle.seek(0)
        return _gunzip(handle, budget + _EXTRA_BYTES)


def _gunzip(handle: Any, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    unzip = zlib.decompressobj(wbits=31)
    pending = handle.read(2**20)
    try:
        while pending:
            part = unzip.decompress(pending, 2**24)
            size += len(part)
            parts.append(part)
            if size > most:
                raise Refused("too_large", f"more than {most} bytes unzipped")
            pending = unzip.unconsumed_tail or handle.read(2**20)
            if unzip.eof:
                # several gzip members may follow each other (bgzip writes them so)
                pending = unzip.unused_data + pending if unzip.unused_data else pending
                if not pending.startswith(b"\x1f\x8b"):
                    break
                unzip = zlib.decompressobj(wbits=31)
    except zlib.error:
        raise Refused("corrupt_gzip", f"after {size} bytes") from None
    if not unzip.eof:
        raise Refused("truncated", f"gzip stream ends after {size} bytes")
    return b"".join(parts)


def _checked_shape(header: Any, budget: int) -> tuple[int, ...]:
    """The shape as (x, y, z) or (x, y, z, time), from a header whose numbers are possible."""
    kind = header.get_data_dtype()
    if kind.kind == "c":
        raise Refused("complex_values")
    if kind.fields is not None or kind.kind not in "iufb" or kind.itemsize > 8:
        raise Refused("colour" if kind.fields is not None else "unreadable", f"type {kind.itemsize} bytes")
    shape = tuple(int(length) for length in header.get_data_shape())
    if min(shape, default=0) < 1:
        raise Refused("dimensions", f"{shape}")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape[:3]) < 2:
        raise Refused("dimensions", f"{shape}")
    needed = int(np.prod([float(length) for length in shape])) * kind.itemsize
    if needed > budget:
        raise Refused("too_large", f"{needed} bytes")
    return shape


def _values(image: Any, shape: tuple[int, ...], not_finite: str) -> np.ndarray:
    """The voxels, scaled as the header says; whole-number types stay as they are where there is no scaling."""
    try:
        values = np.asanyarray(image.dataobj.get_unscaled())
    except (OSError, EOFError, ValueError, OverflowError) as error:
        raise Refused("truncated", type(error).__name__) from None
    values = _scaled(values.reshape(shape, order="F"), float(image.dataobj.slope), float(image.dataobj.inter))
    if values.dtype.kind == "f":
        values = values.astype(np.float32, copy=False)
        if not_finite == "refuse" and not np.isfinite(values).all():
            raise Refused("not_finite", f"{int((~np.isfinite(values)).sum())} voxels")
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("="))
    return values


def _scaled(values: np.ndarray, slope: float, inter: float) -> np.ndarray:
    if (slope, inter) == (1.0, 0.0):
        return values
    scaled = np.empty(values.shape, dtype=np.float32, order="F")
    for index in range(values.shape[-1]):
        scaled[..., index] = values[..., index].astype(np.float64) * slope + inter
    return scaled


def _affine(image: Any, choice: str) -> tuple[np.ndarray, list[str]]:
    """The affine in RAS+ mm by the stated choice, and flags."""
    header = image.header
    flags = []
    sform, qform = _form(header, "sform"), _form(header, "qform")
    if sform is None and qform is None:
        if choice == "strict":
            raise Refused("orientation_unknown")
        sform, flags = image.affine, ["orientation_guessed"]
    if sform is not None and qform is not None and _furthest_mm(sform, qform, header.get_data_shape()) > _INSIDE_MM:
        # Codes that differ name two spaces; a shear (dcm2niix keeps gantry tilt so) is beyond what a qform can say.
        if choice == "strict" and int(header["sform_code"]) == int(header["qform_code"]) and not _is_sheared(sform):
            raise Refused("orientation_conflict", f"corners {_furthest_mm(sform, qform, header.get_data_shape()):.1f} mm apart")
        flags.append("qform_differs")
    first, second = (qform, sform) if choice == "qform" else (sform, qform)
    affine = np.array(first if first is not None else second, dtype=np.float64)
    unit = header.get_xyzt_units()[0]
    if unit == "unknown":
        flags.append("length_unit_unknown")
    affine[:3] *= _UNIT_MM.get(unit, 1.0)
    check_affine(affine)
    if _is_sheared(affine):
        flags.append("sheared")
    return affine, flags


def _form(header: Any, name: str) -> np.ndarray | None:
    if int(header[f"{name}_code"]) <= 0:
        return None
    try:
        return header.get_sform() if name == "sform" else header.get_qform()
    except (HeaderDataError, ValueError):
        raise Refused("bad_affine", f"{name} is not a rotation") from None


def check_affine(affine: np.ndarray) -> None:
    """Raise Refused for an affine that is not finite, singular, or of absurd spacing."""
    if not np.isfinite(affine).all():
        raise Refused("bad_affine", "not finite")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < SMALLEST_MM or lengths.max() > LARGEST_MM:
        raise Refused("absurd_spacing", f"{lengths.min():.3g} to {lengths.max():.3g} mm")
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise Refused("bad_affine", "singular")


def _is_sheared(affine: np.ndarray) -> bool:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3)


def _furthest_mm(one: np.ndarray, other: np.ndarray, shape: Any) -> float:
    """How far apart two affines put the worst corner."""
    corners = np.stack(np.meshgrid(*[(0, int(length) - 1) for length in shape[:3]], indexing="ij"), -1).reshape(-1, 3)
    corners = np.c_[corners, np.ones(len(corners))]
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


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

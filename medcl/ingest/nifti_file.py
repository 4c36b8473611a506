"""A NIfTI file's header and its voxels as stored: every byte is accounted for before a number of it is believed."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from medcl.ingest.ledger import Refused

_GZIP = b"\x1f\x8b"
_SINGLE, _PAIRED = (b"n+1\0", b"n+2\0"), (b"ni1\0", b"ni2\0")
_NIFTI2_END = b"\r\n\x1a\n"
_CHUNK = 2**20
_MOST_EXTENSION = 2**26
# Deflate cannot make more than 1032 bytes of one.
MOST_FROM_ONE_BYTE = 1032


@dataclass(frozen=True)
class Stored:
    """values: (x, y, z) or (x, y, z, time) as stored, in the file's own byte order; header: nibabel's, as written, nothing repaired."""

    header: Any
    values: np.ndarray


def read_stored(path: str, budget: int) -> Stored:
    """Read one .nii, or the two files of a .hdr / .img pair, zipped or not, whatever the name says.

    budget: the most bytes that the voxels may take, stored or as float32 where they are scaled. Raises Refused, and before any voxel is
    read where the header cannot be or does not fit the length of the file.
    """
    header_path, data_path = _pair(path)
    with _opened(header_path) as source:
        header = _header(source, is_pair=header_path != data_path)
        shape = _checked_shape(header, budget)
        offset = int(header["vox_offset"])
        if header_path == data_path:
            _skip_extensions(source, offset - header.sizeof_hdr)
            return Stored(header, _voxels(source, header, shape, data_path, offset))
    with _opened(data_path) as source:
        source.read(offset)
        return Stored(header, _voxels(source, header, shape, data_path, offset))


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


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """The file as a stream of unzipped bytes. What is wrong with the gzip stream is raised as Refused."""
    with open(path, "rb") as handle:
        zipped = handle.read(2) == _GZIP
        handle.seek(0)
        try:
            yield gzip.GzipFile(fileobj=handle) if zipped else handle
        except EOFError:
            raise Refused("truncated", "the gzip stream ends early") from None
        except (gzip.BadGzipFile, zlib.error):
            raise Refused("corrupt_gzip") from None


def _header(source: Any, is_pair: bool) -> Any:
    """The header, in the byte order in which it was written. Raises Refused for one that nibabel would repair in silence."""
    content = source.read(Nifti1Header.sizeof_hdr)
    if len(content) < Nifti1Header.sizeof_hdr:
        raise Refused("truncated", f"{len(content)} bytes")
    if content[4:8] in (_SINGLE[1], _PAIRED[1]):
        content += source.read(Nifti2Header.sizeof_hdr - len(content))
        kind, magic, is_whole = Nifti2Header, content[4:8], content[8:12] == _NIFTI2_END and len(content) == Nifti2Header.sizeof_hdr
    else:
        kind, magic, is_whole = Nifti1Header, content[344:348], content[344:348] in (_SINGLE[0], _PAIRED[0])
    if not is_whole:
        is_analyze = 348 in (int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big"))
        raise Refused("analyze_format" if is_analyze and kind is Nifti1Header else "unreadable")
    header: Any = kind(content, check=False)
    if int(header["sizeof_hdr"]) != kind.sizeof_hdr:
        raise Refused("unreadable", "header size")
    if is_pair != (magic in _PAIRED):
        raise Refused("missing_pair", "the header says that the voxels lie elsewhere")
    _check_offset(header, 0 if is_pair else kind.sizeof_hdr + 4)
    return header


def _check_offset(header: Any, least: int) -> None:
    offset = float(header["vox_offset"])
    if not (math.isfinite(offset) and offset == int(offset) and least <= offset <= least + _MOST_EXTENSION):
        raise Refused("bad_header", "offset of the voxels")


def _checked_shape(header: Any, budget: int) -> tuple[int, ...]:
    """The shape as (x, y, z) or (x, y, z, time), from a header whose numbers are possible."""
    itemsize = _checked_type(header).itemsize
    axes = int(header["dim"][0])
    if not 1 <= axes <= 7:
        raise Refused("bad_header", f"{axes} dimensions")
    shape = tuple(int(length) for length in header["dim"][1 : axes + 1])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape[:3]) < 2 or min(shape) < 1:
        raise Refused("dimensions", f"{shape}")
    needed = math.prod(shape) * max(itemsize, 4 if slope_and_intercept(header) != (1.0, 0.0) else 0)
    if needed > budget:
        raise Refused("too_large", f"{needed} bytes")
    return shape


def _checked_type(header: Any) -> np.dtype:
    try:
        kind = header.get_data_dtype()
    except Exception:  # nibabel has its own error for a type that it does not know
        raise Refused("bad_header", "type of the voxels") from None
    if kind.kind == "c":
        raise Refused("complex_values")
    if kind.fields is not None:
        raise Refused("colour")
    if kind.kind not in "iuf" or kind.itemsize > 8 or int(header["bitpix"]) != kind.itemsize * 8:
        raise Refused("bad_header", f"type of {kind.itemsize} bytes, {int(header['bitpix'])} bits per voxel")
    return kind


def slope_and_intercept(header: Any) -> tuple[float, float]:
    """How stored values become real ones: (1, 0) where the slope is 0, which NIfTI defines as not scaled.

    Raises Refused where one of them is no finite number: readers then differ on what the voxels mean.
    """
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0:
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise Refused("rescale_invalid")
    return slope, inter


def _skip_extensions(source: Any, length: int) -> None:
    """Read over what lies between header and voxels: extensions, each as long as it says, then nothing but zeros."""
    content = source.read(length)
    place = 4
    while content[:1] > b"\0" and place + 8 <= length:
        sizes = [int.from_bytes(content[place : place + 4], order) for order in ("little", "big")]  # type: ignore[arg-type]
        size = min(sizes)
        if size == 0:
            break
        if size % 16 or place + size > length:
            raise Refused("bad_header", "extensions do not end where the voxels begin")
        place += size
    if content[place:].strip(b"\0"):
        raise Refused("bad_header", "bytes between header and voxels")


def _voxels(source: Any, header: Any, shape: tuple[int, ...], path: str, offset: int) -> np.ndarray:
    """The voxels as stored. Raises Refused unless the file holds exactly them; a few zeros may follow."""
    kind = header.get_data_dtype()
    needed, row = math.prod(shape) * kind.itemsize, shape[0] * kind.itemsize
    size = os.path.getsize(path)
    most = size * MOST_FROM_ONE_BYTE if isinstance(source, gzip.GzipFile) else size
    if most < offset + needed:
        raise Refused("truncated", f"{size} bytes for {offset + needed}")
    # Zeros that nobody wrote take no memory: what a bomb of zeros unpacks to is not even copied.
    content = np.zeros(needed, dtype=np.uint8)
    for start in range(0, needed, _CHUNK):
        part = np.frombuffer(source.read(min(_CHUNK, needed - start)), dtype=np.uint8)
        if len(part) < min(_CHUNK, needed - start):
            raise Refused("truncated", f"{start + len(part)} of {needed} bytes of voxels")
        if part.any():
            content[start : start + len(part)] = part
    # To the very end, so that gzip compares its checksum.
    rest = source.read(row)
    if len(rest) == row or rest.strip(b"\0"):
        raise Refused("pixel_length", f"{len(rest)} or more bytes after {needed} of voxels")
    return content.view(kind).reshape(shape, order="F")

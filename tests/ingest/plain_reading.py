"""What the bytes of a file say, read in the most straightforward way and by no library that medcl reads with."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.ingest.nifti_cases import FIELDS, TYPES

_LONG = {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN", b"SQ", b"UT", b"UC", b"UR", b"SV", b"UV"}
_SHORT = {
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI",
    b"UL", b"US",
}  # fmt: skip
_DEEPEST = 8
_UNDEFINED = 0xFFFFFFFF


class Unclear(Exception):
    """The bytes do not say anything that a plain reader would stand by."""


@dataclass
class Plane:
    """One slice. values: (columns, rows), scaled; corners: world places (RAS mm) of its first pixel and one step along each axis."""

    values: np.ndarray
    corner: np.ndarray
    along_columns: np.ndarray
    along_rows: np.ndarray


def nifti_meaning(content: bytes, data: bytes | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Array (x, y, z, time) and affine of a .nii (or .hdr and .img). Raises Unclear, struct.error or zlib.error."""
    content = _unzipped(content)
    version = 2 if content[4:7] in (b"n+2", b"ni2") else 1
    order = "<" if struct.unpack_from("<i", content)[0] in (348, 540) else ">"
    said = {name: struct.unpack_from(order + places[version - 1][1], content, places[version - 1][0]) for name, places in FIELDS.items()}
    shape = [length for length in said["dim"][1 : said["dim"][0] + 1]]
    kind = {code: name for name, code in TYPES.items()}[said["datatype"][0]]
    count = int(np.prod(shape, dtype=object))
    voxels = content if data is None else _unzipped(data)
    offset = int(said["vox_offset"][0])
    if not 0 < count < 10**7 or len(voxels) < offset + count * np.dtype(kind).itemsize:
        raise Unclear("voxels missing")
    array = np.frombuffer(voxels, order + kind, count, offset).reshape([*shape, 1, 1, 1][: max(4, len(shape))], order="F")
    slope, inter = said["scl_slope"][0], said["scl_inter"][0]
    real = array.astype(np.float64) if slope == 0 else array.astype(np.float64) * slope + inter
    affine = np.vstack([np.reshape(said["srow"], (3, 4)), [0, 0, 0, 1.0]]) if said["sform_code"][0] > 0 else _qform(said)
    affine[:3] *= {1: 1000.0, 3: 0.001}.get(said["xyzt_units"][0] & 7, 1.0)
    return real.reshape(*real.shape[:3], -1), affine


def _unzipped(content: bytes) -> bytes:
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def _qform(said: dict[str, Any]) -> np.ndarray:
    """NIfTI's method 2, as its header file gives it."""
    b, c, d = said["quatern"]
    rest = 1.0 - (b * b + c * c + d * d)
    a = np.sqrt(max(rest, 0.0))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * b * c - 2 * a * d, 2 * b * d + 2 * a * c],
            [2 * b * c + 2 * a * d, a * a + c * c - b * b - d * d, 2 * c * d - 2 * a * b],
            [2 * b * d - 2 * a * c, 2 * c * d + 2 * a * b, a * a + d * d - b * b - c * c],
        ]
    )
    qfac = -1.0 if said["pixdim"][0] < 0 else 1.0
    affine = np.eye(4)
    affine[:3] = np.c_[turn * (said["pixdim"][1], said["pixdim"][2], said["pixdim"][3] * qfac), said["qoffset"]]
    return affine


Elements = dict[int, tuple[bytes, Any]]


def dicom_elements(content: bytes) -> tuple[Elements, str]:
    """tag -> (VR, bytes or list of items) of a file with preamble, and its transfer syntax. Raises Unclear."""
    if content[128:132] != b"DICM":
        raise Unclear("no preamble")
    meta, place = _read(content, 132, len(content), "<", True, 0, lambda tag: tag >> 16 != 2)
    syntax = meta[0x00020010][1].strip(b"\0 ").decode("ascii")
    rest = content[place:]
    if syntax.endswith(".1.99"):
        rest = zlib.decompress(rest, wbits=-15)
    explicit, order = syntax != "1.2.840.10008.1.2", ">" if syntax == "1.2.840.10008.1.2.2" else "<"
    elements, _ = _read(rest, 0, len(rest), order, explicit, 0, lambda tag: False)
    return elements, syntax


def _read(content: bytes, place: int, end: int, order: str, explicit: bool, depth: int, stop: Any) -> tuple[Elements, int]:
    """Elements from `place` to `end`, or to an item delimiter."""
    if depth > _DEEPEST:
        raise Unclear("too deep")
    found: Elements = {}
    while place + 8 <= end:
        group, element = struct.unpack_from(order + "HH", content, place)
        tag = group << 16 | element
        if stop(tag):
            return found, place
        if tag == 0xFFFEE00D:
            return found, place + 8
        vr, length, place = _head(content, place + 4, order, explicit, tag)
        value, place = _value(content, place, end, length, (order, explicit, depth, vr))
        found[tag] = vr, value
    if content[place:end].strip(b"\0"):
        raise Unclear("bytes that are no element")
    return found, end


def _value(content: bytes, place: int, end: int, length: int, how: tuple[str, bool, int, bytes]) -> tuple[Any, int]:
    """Bytes, items of a sequence or fragments, and the place behind them."""
    order, explicit, depth, vr = how
    if vr == b"SQ":
        return _items(content, place, end if length == _UNDEFINED else place + length, order, explicit, depth)
    if length == _UNDEFINED:
        return _fragments(content, place)
    if place + length > end:
        raise Unclear("element beyond the end")
    return content[place : place + length], place + length


def _head(content: bytes, place: int, order: str, explicit: bool, tag: int) -> tuple[bytes, int, int]:
    if not explicit:
        sequence = tag in (0x52009229, 0x52009230, 0x00209113, 0x00209116, 0x00289110, 0x00289145)
        return b"SQ" if sequence else b"", struct.unpack_from(order + "I", content, place)[0], place + 4
    vr = content[place : place + 2]
    if vr in _LONG:
        return vr, struct.unpack_from(order + "I", content, place + 4)[0], place + 8
    if vr not in _SHORT:
        raise Unclear("unknown VR")
    return vr, struct.unpack_from(order + "H", content, place + 2)[0], place + 4


def _items(content: bytes, place: int, end: int, order: str, explicit: bool, depth: int) -> tuple[list[Elements], int]:
    items: list[Elements] = []
    while place + 8 <= end:
        group, element, length = struct.unpack_from(order + "HHI", content, place)
        place += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            return items, place
        # Whatever its tag says, what stands in an item's place is one.
        item, place = _read(content, place, end if length == _UNDEFINED else place + length, order, explicit, depth + 1, lambda tag: False)
        items.append(item)
    return items, end


def _fragments(content: bytes, place: int) -> tuple[list[bytes], int]:
    """Fragments of encapsulated pixels, the offset table first."""
    found: list[bytes] = []
    while True:
        group, element, length = struct.unpack_from("<HHI", content, place)
        place += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            return found, place
        if (group, element) != (0xFFFE, 0xE000) or place + length > len(content):
            raise Unclear("no fragment")
        found.append(content[place : place + length])
        place += length


def dicom_planes(content: bytes) -> list[Plane]:
    """The slices of one file (one, or one per functional group). Raises Unclear and what numbers raise."""
    elements, syntax = dicom_elements(content)
    order = ">" if syntax == "1.2.840.10008.1.2.2" else "<"
    frames = stored_frames(elements, syntax, order)
    if 0x52009230 in elements:
        shared = elements[0x52009229][1][0] if 0x52009229 in elements else {}
        groups = [{**shared, **group} for group in elements[0x52009230][1]]
        parts = [{tag: value for item in group.values() for tag, value in item[1][0].items()} for group in groups]
    else:
        parts = [elements]
    if len(parts) != len(frames):
        raise Unclear("frames and geometry differ in number")
    return [_plane(frame, part) for frame, part in zip(frames, parts, strict=True)]


def _plane(frame: np.ndarray, said: Elements) -> Plane:
    position, turn, spacing = (np.array(numbers(said, tag)) for tag in (0x00200032, 0x00200037, 0x00280030))
    flip = np.array([-1.0, -1.0, 1.0])
    return Plane(_scaled(frame, said).T, position * flip, turn[:3] * flip * spacing[1], turn[3:] * flip * spacing[0])


def _scaled(frame: np.ndarray, said: Elements) -> np.ndarray:
    slope, inter = (numbers(said, 0x00281053) or [1.0])[0], (numbers(said, 0x00281052) or [0.0])[0]
    return frame.astype(np.float64) * slope + inter


def numbers(said: Elements, tag: int) -> list[float]:
    """A decimal or integer string."""
    return [float(part) for part in said[tag][1].decode("ascii").strip(" \0").split("\\")] if tag in said else []


def picture_values(content: bytes) -> list[np.ndarray]:
    """(columns, rows) of each frame of an X-ray; bright is high."""
    elements, syntax = dicom_elements(content)
    frames = stored_frames(elements, syntax, ">" if syntax == "1.2.840.10008.1.2.2" else "<")
    top = (1 << whole(elements, 0x00280101)) - 1
    inverse = elements[0x00280004][1].strip(b" \0") == b"MONOCHROME1"
    return [_scaled(top - frame.astype(np.int64) if inverse else frame, elements).T for frame in frames]


def whole(said: Elements, tag: int, default: int | None = None, order: str = "<") -> int:
    """An unsigned short."""
    if tag not in said and default is not None:
        return default
    return struct.unpack_from(order + "H", said[tag][1])[0]


def stored_frames(said: Elements, syntax: str, order: str = "<") -> list[np.ndarray]:
    """(rows, columns) of each frame, the stored bits alone. Raises Unclear where they are not all there."""
    rows, columns = whole(said, 0x00280010, order=order), whole(said, 0x00280011, order=order)
    bits, stored, high = (whole(said, tag, order=order) for tag in (0x00280100, 0x00280101, 0x00280102))
    signed, count = whole(said, 0x00280103, order=order), int((numbers(said, 0x00280008) or [1])[0])
    if whole(said, 0x00280002, 1, order) != 1 or bits not in (8, 16, 32):
        raise Unclear("not one grey sample")
    content = said[0x7FE00010][1]
    if isinstance(content, list):
        frames = [_decoded(fragment, syntax, rows, columns, bits) for fragment in content[1:]]
    else:
        size = rows * columns * bits // 8
        if len(content) < size * count:
            raise Unclear("pixels missing")
        frames = [
            np.frombuffer(content, f"{order}u{bits // 8}", rows * columns, size * index).reshape(rows, columns) for index in range(count)
        ]
    if len(frames) != count:
        raise Unclear("fragments and frames differ in number")
    return [_bits(frame.astype(np.int64), stored, high, signed) for frame in frames]


def _bits(frame: np.ndarray, stored: int, high: int, signed: int) -> np.ndarray:
    values = (frame >> (high - stored + 1)) & ((1 << stored) - 1)
    return np.where(values >= 1 << (stored - 1), values - (1 << stored), values) if signed else values


def _decoded(fragment: bytes, syntax: str, rows: int, columns: int, bits: int) -> np.ndarray:
    """One compressed frame: RLE by hand, the others through imagecodecs, which medcl uses for 12-bit JPEG only."""
    if syntax == "1.2.840.10008.1.2.5":
        return _run_lengths(fragment, rows, columns, bits)
    import imagecodecs

    try:
        decode = imagecodecs.jpegls_decode if syntax.endswith((".80", ".81")) else imagecodecs.jpeg2k_decode
        values = np.asarray(decode(fragment))
    except Exception as error:
        raise Unclear("codec") from error
    if values.shape != (rows, columns):
        raise Unclear("size of the compressed frame")
    return values.astype(np.int64) & ((1 << bits) - 1)


def _run_lengths(fragment: bytes, rows: int, columns: int, bits: int) -> np.ndarray:
    count, *starts = struct.unpack_from("<16I", fragment)
    if count != bits // 8:
        raise Unclear("segments")
    planes = [_packed(fragment[start:end], rows * columns) for start, end in zip(starts, [*starts[1:count], len(fragment)], strict=False)]
    whole_value = np.zeros(rows * columns, dtype=np.int64)
    for plane in planes[:count]:
        whole_value = whole_value << 8 | plane
    return whole_value.reshape(rows, columns)


def _packed(segment: bytes, size: int) -> np.ndarray:
    out = bytearray()
    place = 0
    while len(out) < size:
        if place + 1 >= len(segment):
            raise Unclear("segment ends early")
        control = segment[place]
        if control < 128:
            out += segment[place + 1 : place + 2 + control]
            place += 2 + control
        else:
            out += segment[place + 1 : place + 2] * (257 - control) if control > 128 else b""
            place += 2 if control > 128 else 1
    if len(out) > size:
        raise Unclear("segment too long")
    return np.frombuffer(bytes(out), np.uint8).astype(np.int64)

"""One DICOM file's header as frames: what each frame is, where it lies, how its numbers are scaled."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

from pydicom import config as pydicom_config
from pydicom.dataelem import RawDataElement

from medcl.ingest.dicom_elements import Elements, read_elements
from medcl.ingest.dicom_streams import DEFLATED, JPEG_FAMILY, inflated
from medcl.ingest.dicom_tags import PIXEL_TAGS, WANTED, Fields
from medcl.ingest.growth import refuse_growth
from medcl.ingest.ledger import Refused

SMALL_FILE = 2**20
_is_quiet = False
_ITEM = b"\xfe\xff\x00\xe0"
SMALLEST_SIDE, LARGEST_SIDE = 8, 16384
_SOP_REASONS = {
    "1.2.840.10008.1.3.10": "dicomdir",
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation_object",
    "1.2.840.10008.5.1.4.1.1.66.7": "segmentation_object",
    "1.2.840.10008.5.1.4.1.1.30": "parametric_map",
    "1.2.840.10008.5.1.4.1.1.88.59": "key_objects",
}
_SOP_FAMILIES = (
    ("1.2.840.10008.5.1.4.1.1.88.", "structured_report"), ("1.2.840.10008.5.1.4.1.1.481.", "radiotherapy_object"),
    ("1.2.840.10008.5.1.4.1.1.11.", "presentation_state"), ("1.2.840.10008.5.1.4.1.1.7", "secondary_capture"),
    ("1.2.840.10008.5.1.4.1.1.9.", "non_image_object"), ("1.2.840.10008.5.1.4.1.1.104.", "non_image_object"),
    ("1.2.840.10008.5.1.4.1.1.66", "non_image_object"), ("1.2.840.10008.5.1.4.1.1.67", "non_image_object"),
    ("1.2.840.10008.5.1.4.1.1.68.", "non_image_object"), ("1.2.840.10008.5.1.4.34.", "radiotherapy_object"),
)  # fmt: skip
_MODALITY_REASONS = {
    "SR": "structured_report", "SEG": "segmentation_object", "KO": "key_objects", "PR": "presentation_state",
    "RTSTRUCT": "radiotherapy_object",
    "RTPLAN": "radiotherapy_object", "RTDOSE": "radiotherapy_object", "RTRECORD": "radiotherapy_object", "DOC": "non_image_object",
    "ECG": "non_image_object", "REG": "non_image_object", "SC": "secondary_capture",
}  # fmt: skip


@dataclass(frozen=True)
class PixelLayout:
    """How the pixels lie in the file. length: of the value in bytes, -1 where encapsulated; offset: of its first byte."""

    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    transfer_syntax: str
    little_endian: bool
    offset: int
    length: int
    float_type: str = ""
    has_modality_lut: bool = False
    file_bytes: int = 0
    strange_tail: bool = False
    is_cut: bool = False


@dataclass(frozen=True)
class Patient:
    """Who it is, in the hospital's words: private."""

    id: str
    name: str
    birth_date: str
    study_date: str
    study: str
    series: str
    accession: str
    site: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """What holds for every frame of a file. facts: numbers and closed words that may leave ingest."""

    path: str
    relative: str
    instance: str
    sop_class: str
    modality: str
    image_type: tuple[str, ...]
    frame_of_reference: str
    patient: Patient
    pixels: PixelLayout
    facts: dict[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """One image plane. position, orientation, spacing as in DICOM (LPS mm; spacing: between rows, between columns).

    parameters: what else makes two images of one place two images (see dicom_frames). times: what may tell time points
    apart, the surest first. tile: (top, left, rows, columns) of a slice in a mosaic.
    """

    header: Header
    number: int
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    spacing: tuple[float, ...] = ()
    slope: float = 1.0
    intercept: float = 0.0
    image_type: tuple[str, ...] = ()
    echo: float = 0.0
    b_value: float = -1.0
    stack: str = ""
    parameters: tuple[str, ...] = ()
    times: tuple[float, ...] = ()
    instance_number: float = 0.0
    tile: tuple[int, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) of the plane."""
        pixels = self.header.pixels
        return (self.tile[2], self.tile[3]) if self.tile else (pixels.rows, pixels.columns)


@contextmanager
def quiet_pydicom():
    """pydicom's warnings quote values of the header: nothing of them may reach a log. Its settings are put back.

    Within itself it costs nothing, so that a loop over files can hold it once.
    """
    global _is_quiet
    if _is_quiet:
        yield
        return
    config: Any = pydicom_config
    before = config.settings.reading_validation_mode
    level = config.logger.level
    config.settings.reading_validation_mode = config.IGNORE
    config.logger.setLevel("CRITICAL")
    _is_quiet = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _is_quiet = False
        config.settings.reading_validation_mode = before
        config.logger.setLevel(level)


def open_header(path: str) -> tuple[Fields, PixelLayout | None, bool]:
    """The wanted fields of a file, how its pixels lie (None where it has none), and whether it was cut before them. Raises Refused."""
    size = os.path.getsize(path)
    with quiet_pydicom(), open(path, "rb") as handle:
        stream: Any = BytesIO(handle.read()) if size <= SMALL_FILE else handle
        beneath = inflated(stream, size)
        if beneath is not None:
            stream, size = beneath, beneath.getbuffer().nbytes
        try:
            found = read_elements(stream, WANTED)
        except Exception as error:  # pydicom raises many kinds on a broken file
            raise Refused("unreadable", type(error).__name__) from None
        if beneath is not None:
            found = replace(found, syntax=DEFLATED)
        fields = Fields(found.by_tag, found.file_class)
        end = stream.tell()
        pixels = _layout(fields, found, stream, size)
        return fields, pixels, pixels is None and (end > size or _last_is_short(found))


def _last_is_short(found: Elements) -> bool:
    """Whether the last element read holds fewer bytes than it says."""
    element = found.by_tag[max(found.by_tag)] if found.by_tag else None
    value = getattr(element, "value", None)
    return isinstance(element, RawDataElement) and isinstance(value, bytes) and len(value) < element.length < 0xFFFFFFFF


def why_not_an_image(fields: Fields) -> str:
    """The reason code of an object that is no picture or volume by its class or modality; empty for an image."""
    sop = fields.text("SOPClassUID") or fields.file_class
    if sop in _SOP_REASONS:
        return _SOP_REASONS[sop]
    for prefix, reason in _SOP_FAMILIES:
        if sop.startswith(prefix):
            return reason
    return _MODALITY_REASONS.get(fields.text("Modality").upper(), "")


def _layout(fields: Fields, found: Elements, stream: Any, size: int) -> PixelLayout | None:
    """Rows, columns, bits and so on, with the place of the pixels. None where there are none."""
    place = _find_pixels(stream, found.implicit, found.little_endian)
    if place is None:
        return None
    tag, offset, length = place
    bits = fields.whole("BitsAllocated", 0)
    stored = fields.whole("BitsStored", bits)
    return PixelLayout(
        rows=fields.whole("Rows"),
        columns=fields.whole("Columns"),
        frames=_frames(fields),
        samples=fields.whole("SamplesPerPixel", 1),
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=fields.whole("HighBit", stored - 1),
        signed=fields.whole("PixelRepresentation") == 1,
        photometric=fields.text("PhotometricInterpretation").upper(),
        transfer_syntax=found.syntax,
        little_endian=found.little_endian,
        offset=offset,
        length=length,
        float_type=PIXEL_TAGS[tag],
        has_modality_lut=fields.has("ModalityLUTSequence"),
        file_bytes=size,
        strange_tail=length >= 0 and _has_strange_tail(stream, offset + length, size),
        is_cut=length < 0 <= offset and _items_are_cut(stream, offset, size),
    )


def _items_are_cut(stream: Any, at: int, size: int) -> bool:
    """Whether the file ends before the delimiter that ends the fragments of encapsulated pixels (always little endian)."""
    while at < size:
        stream.seek(at)
        head = stream.read(8)
        if head[:4] != _ITEM:
            return len(head) < 8
        at += 8 + int.from_bytes(head[4:], "little")
    return True


def _has_strange_tail(stream: Any, end: int, size: int) -> bool:
    """Whether bytes follow the pixels that are neither zeros nor a later element (trailing padding, a signature).

    A DICOM file has an even number of bytes: an odd tail is no padding.
    """
    stream.seek(end)
    tail = stream.read(64)
    if size > end and (size - end) % 2:
        return end % 2 == 0
    groups = (int.from_bytes(tail[:2], "little"), int.from_bytes(tail[:2], "big"))
    return bool(tail.strip(b"\0")) and not any(group in (0xFFFC, 0xFFFA) for group in groups)


def _frames(fields: Fields) -> int:
    """Number of frames: 1 where absent, 0 where it is there and is no whole number above 0."""
    if not fields.has("NumberOfFrames"):
        return 1
    count = fields.number("NumberOfFrames", 1.0 if not fields.texts("NumberOfFrames") else 0.0) or 0.0
    return int(count) if count >= 1 and count == int(count) else 0


def _find_pixels(stream: Any, implicit: bool, little: bool) -> tuple[int, int, int] | None:
    """(tag, offset, length) of the pixel element that follows the header; length -1 where it is encapsulated."""
    start = stream.tell()
    head = stream.read(12)
    order: Any = "little" if little else "big"
    if len(head) < 8:
        return None
    tag = int.from_bytes(head[:2], order) << 16 | int.from_bytes(head[2:4], order)
    if tag not in PIXEL_TAGS:
        return None
    long_form = not implicit and head[4:6] in (b"OW", b"OB", b"OF", b"OD", b"UN")
    if long_form and len(head) < 12:
        return None
    length = int.from_bytes(head[8:12] if long_form else head[4:8], order)
    offset = start + (12 if long_form else 8)
    return tag, offset, -1 if length == 0xFFFFFFFF else length


def check_layout(pixels: PixelLayout, budget: int) -> None:
    """Raise Refused for numbers that cannot be, before anything is allocated."""
    if not (SMALLEST_SIDE <= pixels.rows <= LARGEST_SIDE and SMALLEST_SIDE <= pixels.columns <= LARGEST_SIDE):
        raise Refused("bad_header", f"{pixels.columns} x {pixels.rows} pixels")
    if pixels.frames < 1 or pixels.samples not in (1, 3):
        raise Refused("bad_header", f"{pixels.frames} frames, {pixels.samples} samples")
    if pixels.bits_allocated not in (8, 16, 32, 64) or not (
        0 < pixels.bits_stored <= pixels.bits_allocated and pixels.bits_stored - 1 <= pixels.high_bit < pixels.bits_allocated
    ):
        raise Refused("bad_header", f"bits {pixels.bits_allocated}/{pixels.bits_stored}/{pixels.high_bit}")
    needed = pixels.rows * pixels.columns * pixels.frames * pixels.samples * (pixels.bits_allocated // 8)
    if needed > budget:
        raise Refused("too_large", f"{needed} bytes")
    if pixels.transfer_syntax.startswith(JPEG_FAMILY) and pixels.high_bit != pixels.bits_stored - 1:
        raise Refused("bad_header", f"bits {pixels.bits_stored}/{pixels.high_bit} of a compressed image")
    if pixels.is_cut:
        raise Refused("truncated", "compressed pixels end too early")
    if pixels.length >= 0:
        _check_length(pixels, needed)
    else:
        refuse_growth(needed, pixels.file_bytes)


def _check_length(pixels: PixelLayout, needed: int) -> None:
    there = min(pixels.length, pixels.file_bytes - pixels.offset)
    if pixels.length and pixels.transfer_syntax.startswith("1.2.840.10008.1.2.4"):
        raise Refused("decode_failed", "compressed pixels that are not encapsulated")
    if pixels.photometric == "YBR_FULL_422":
        needed = needed * 2 // 3
    if there < needed:
        raise Refused("truncated", f"{there} of {needed} bytes")
    row = pixels.columns * pixels.samples * pixels.bits_allocated // 8
    if pixels.length - needed >= row:
        raise Refused("pixel_length", f"{pixels.length} bytes for {needed}")
    if pixels.strange_tail:
        raise Refused("pixel_length", "bytes after the pixels that are no DICOM")

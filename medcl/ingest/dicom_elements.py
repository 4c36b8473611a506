"""The undecoded elements of a header: quickly where a file is as the standard says, else through pydicom's reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pydicom
from pydicom.filereader import data_element_generator
from pydicom.uid import AllTransferSyntaxes, ExplicitVRBigEndian, ImplicitVRLittleEndian

from medcl.ingest.dicom_tags import PIXEL_TAGS

_META_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
_META_END = 12  # the group length's own bytes after the 132 of preamble and prefix
_CLASS, _SYNTAX = 0x00020002, 0x00020010
_FIRST_GROUP = 0x0008
_KNOWN = {str(uid): uid == ImplicitVRLittleEndian for uid in AllTransferSyntaxes if uid != ExplicitVRBigEndian}


@dataclass(frozen=True)
class Elements:
    """What was read. by_tag: elements as pydicom holds them until someone asks. file_class, syntax: from the meta information."""

    by_tag: Mapping[int, Any]
    file_class: str
    syntax: str
    implicit: bool
    little_endian: bool


def read_elements(stream: Any, wanted: list[Any]) -> Elements:
    """The wanted elements up to the pixels, before which the stream is left. Raises what pydicom raises on a broken file."""
    found = _as_the_standard_says(stream, wanted)
    if found is not None:
        return found
    stream.seek(0)
    dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=wanted)
    meta = getattr(dataset, "file_meta", {})
    implicit, little = dataset.original_encoding
    by_tag = {int(element.tag): element for element in dataset.values()}
    syntax, file_class = (str(meta.get(name, "")) for name in ("TransferSyntaxUID", "MediaStorageSOPClassUID"))
    return Elements(by_tag, file_class, syntax, bool(implicit), little is not False)


def _as_the_standard_says(stream: Any, wanted: list[Any]) -> Elements | None:
    """The elements of a file with preamble, whole meta information and the encoding that this names; None for any other file."""
    head = stream.read(132 + _META_END)
    if head[128:140] != b"DICM" + _META_LENGTH:
        return None
    meta = stream.read(int.from_bytes(head[140:144], "little"))
    first = stream.read(8)
    stream.seek(-len(first), 1)
    try:
        own: dict[int, Any] = {int(element.tag): element for element in data_element_generator(BytesIO(meta), False, True)}
        is_whole = all(tag >> 16 == 2 and len(element.value or b"") == element.length for tag, element in own.items())
        syntax = _uid(own.get(_SYNTAX))
        implicit = _KNOWN.get(syntax)
        begins = len(first) == 8 and int.from_bytes(first[:2], "little") >= _FIRST_GROUP and first[4:6].isupper() != implicit
        if not is_whole or implicit is None or not begins:
            return None
        found = data_element_generator(stream, implicit, True, stop_when=_at_pixels, specific_tags=wanted)
        return Elements({int(element.tag): element for element in found}, _uid(own.get(_CLASS)), syntax, implicit, True)
    except Exception:  # a broken file: what can still be made of it is for pydicom to say
        return None


def _at_pixels(tag: int, _vr: str | None, _length: int) -> bool:
    return tag in PIXEL_TAGS


def _uid(element: Any) -> str:
    return element.value.decode("ascii").rstrip("\0 ") if element is not None and element.VR == "UI" and element.value else ""

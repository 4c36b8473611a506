"""Siemens mosaics: the slices of a volume as tiles of one plane, where only the private CSA header says how they lie."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pydicom

from medcl.ingest.dicom_header import Frame
from medcl.ingest.dicom_tags import Fields
from medcl.ingest.ledger import Refused

_CSA_IMAGE = 0x00291010
_WANTED = ("NumberOfImagesInMosaic", "SliceNormalVector")
_MOST_TAGS, _MOST_ITEMS, _LONGEST_ITEM, _MOST_SLICES = 1000, 1000, 64, 1024


def mosaic_frames(plain: Frame, fields: Fields) -> list[Frame]:
    """One frame per slice of a mosaic, in the order of its tiles. Raises Refused where the headers do not say how they lie.

    plain: the mosaic as one plane. Its position is that of a plane as large as the mosaic about the centre of the first
    slice, so a slice's own corner lies further in by half of what the mosaic is larger. Slices follow each other along
    SliceNormalVector, which may point against rows x columns.
    """
    said = _csa_values(plain.header.path)
    count = int(said.get("NumberOfImagesInMosaic", (0.0,))[0])
    across = np.array(said.get("SliceNormalVector", ()))
    gap_mm = fields.number("SpacingBetweenSlices", 0.0) or 0.0
    if not 2 <= count <= _MOST_SLICES or across.shape != (3,) or not gap_mm > 0:
        raise Refused("mosaic", f"{count} slices, {across.size} numbers of their normal, {gap_mm:.3f} mm apart")
    if not (plain.position and plain.orientation and plain.spacing):
        raise Refused("no_geometry")
    side = math.ceil(math.sqrt(count))
    rows, columns = plain.header.pixels.rows, plain.header.pixels.columns
    if rows % side or columns % side:
        raise Refused("mosaic", f"{count} slices in {columns} x {rows} pixels")
    row, column = np.array(plain.orientation[:3]), np.array(plain.orientation[3:])
    if abs(abs(float(across @ np.cross(row, column))) - 1) > 1e-2:
        raise Refused("mosaic", "slices that do not follow each other at right angles to their plane")
    tile_rows, tile_columns = rows // side, columns // side
    corner = np.array(plain.position) + row * plain.spacing[1] * (columns - tile_columns) / 2
    corner = corner + column * plain.spacing[0] * (rows - tile_rows) / 2
    return [
        replace(
            plain,
            number=index,
            position=tuple((corner + across * gap_mm * index).tolist()),
            tile=(index // side * tile_rows, index % side * tile_columns, tile_rows, tile_columns),
        )
        for index in range(count)
    ]


def _csa_values(path: str) -> dict[str, tuple[float, ...]]:
    """The numbers of the CSA image header that are wanted; empty where it is absent or broken."""
    try:
        element = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=[_CSA_IMAGE]).get(_CSA_IMAGE)
        return dict(_tags(bytes(element.value))) if element is not None else {}
    except Exception:  # pydicom, struct and the words of numbers fail in many ways on a broken header
        return {}


def _tags(content: bytes) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Walk the tags of a CSA header, version 2 (as nibabel's documentation of the format describes it; 1 is refused).

    Every tag is a name of 64 bytes, five whole numbers of which the fourth counts its items, and the items: four whole
    numbers, the second of which is the length, and text padded to four bytes.
    """
    if content[:4] != b"SV10":
        return
    (count,) = struct.unpack_from("<I", content, 8)
    at = 16
    for _ in range(min(count, _MOST_TAGS)):
        name = content[at : at + 64].split(b"\0")[0].decode("latin-1")
        (items,) = struct.unpack_from("<I", content, at + 76)
        at += 84
        if items > _MOST_ITEMS:
            raise ValueError("too many items")
        words: list[str] = []
        for _ in range(items):
            (length,) = struct.unpack_from("<I", content, at + 4)
            at += 16
            if at + length > len(content):
                raise ValueError("an item beyond the end")
            words.append(content[at : at + min(length, _LONGEST_ITEM)].split(b"\0")[0].decode("latin-1").strip())
            at += -(-length // 4) * 4
        if name in _WANTED:
            yield name, tuple(float(word) for word in words if word)

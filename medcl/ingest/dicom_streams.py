"""What a compressed stream says of itself, before a library trusts it with memory: its size, its end, how far it would inflate."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import Any

from medcl.ingest.growth import refuse_growth
from medcl.ingest.ledger import Refused

DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_FAMILY = "1.2.840.10008.1.2.4."
_SIZED = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_JPEG_2000_START = b"\xff\x4f\xff\x51"
_META_LENGTH = b"\x02\0\0\0UL\4\0"
_DEFLATED_UID = DEFLATED.encode()
_EXPLICIT_UID = b"1.2.840.10008.1.2.1".ljust(len(_DEFLATED_UID), b"\0")


def inflated(stream: Any, size: int) -> BytesIO | None:
    """A deflated file as it is beneath: explicit little endian; None for any other file, whose stream is left at its beginning.

    Raises Refused where it grows too far, is damaged or ends early.
    """
    head = stream.read(1024)
    start = 144 + int.from_bytes(head[140:144], "little")
    stream.seek(0)
    if _DEFLATED_UID not in head[:start] or head[132:140] != _META_LENGTH:
        return None
    meta = stream.read(start).replace(_DEFLATED_UID, _EXPLICIT_UID)
    unzip, parts, grown = zlib.decompressobj(wbits=-15), [meta], 0
    pending = stream.read(2**20)
    try:
        while pending and not unzip.eof:
            parts.append(unzip.decompress(pending, 2**20))
            grown += len(parts[-1])
            refuse_growth(grown, size)
            pending = unzip.unconsumed_tail or stream.read(2**20)
    except zlib.error:
        raise Refused("decode_failed", "deflated data set") from None
    if not unzip.eof:
        raise Refused("truncated", "the deflated data set ends early")
    return BytesIO(b"".join(parts))


def check_frame(content: bytes, rows: int, columns: int) -> None:
    """Raise Refused unless a JPEG, JPEG-LS or JPEG 2000 stream is of the header's size and ends where its kind ends.

    Codecs allocate what the stream says, and some fill in what is missing without a word.
    """
    said = _jpeg_2000_size(content) if _JPEG_2000_START in content[:512] else _jpeg_size(content)
    if said != (rows, columns):
        raise Refused("decode_failed", "the stream's size is not rows x columns" if said else "no size in the stream")
    if not content.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        raise Refused("truncated", "the compressed stream has no end")


def _jpeg_2000_size(content: bytes) -> tuple[int, int] | None:
    """(rows, columns) of the image area of the SIZ marker (ISO 15444-1, A.5.1)."""
    place = content.index(_JPEG_2000_START) + 8
    right, bottom, left, top = (int.from_bytes(content[at : at + 4], "big") for at in range(place, place + 16, 4))
    return bottom - top, right - left


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """(rows, columns) of the frame header (ISO 10918-1, B.2.2; ISO 14495-1, C.2.2); None where there is none."""
    place = content.find(b"\xff\xd8") + 2
    while 2 <= place <= len(content) - 9 and content[place] == 0xFF:
        marker = content[place + 1]
        if marker in _SIZED:
            return int.from_bytes(content[place + 5 : place + 7], "big"), int.from_bytes(content[place + 7 : place + 9], "big")
        place += 1 if marker == 0xFF else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return None

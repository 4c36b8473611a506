"""What a file says, layer by layer: as it is, without zero bytes, unzipped, decoded, and the cells of its tables."""

from __future__ import annotations

import base64
import binascii
import bz2
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any

DEEPEST = 4
MOST_BYTES = 2**29
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{12,}={0,2}")
_PNG = b"\x89PNG\r\n\x1a\n"


def layers(content: bytes, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield (how it was got, bytes) for everything that can be read out of a file's bytes. Never raises.

    UTF-16 and UTF-32 are found without their zero bytes. No layer is unpacked beyond 512 MiB or four deep.
    """
    yield "plain", content
    if b"\0" in content:
        yield "wide characters", content.replace(b"\0", b"")
    if depth == DEEPEST:
        return
    for how, inner in _unpacked(content):
        for _, deeper in layers(inner, depth + 1):
            yield how, deeper


def _unpacked(content: bytes) -> Iterator[tuple[str, bytes]]:
    for magic, how, unpack in _PACKED:
        if content.startswith(magic):
            try:
                yield from ((how, inner) for inner in unpack(content))
            except Exception:  # many kinds: damaged, and what its bytes say as they are has been looked at
                continue
    for run in _BASE64.finditer(content):
        text = run[0].rstrip(b"=").translate(_STANDARD)
        try:
            yield "base64", base64.b64decode(text[: len(text) - (len(text) % 4 == 1)] + b"==")
        except (binascii.Error, ValueError):
            continue


_STANDARD = bytes.maketrans(b"-_", b"+/")


def _zip(content: bytes) -> Iterator[bytes]:
    with zipfile.ZipFile(BytesIO(content)) as archive:
        for info in archive.infolist():
            yield info.comment
            try:
                with archive.open(info) as member:
                    yield member.read(MOST_BYTES)
            except Exception:  # this member is damaged or locked; the others are still read
                continue


def _gzip(content: bytes) -> Iterator[bytes]:
    yield _streams(content, lambda: zlib.decompressobj(wbits=31))


def _bz2(content: bytes) -> Iterator[bytes]:
    yield _streams(content, bz2.BZ2Decompressor)


def _xz(content: bytes) -> Iterator[bytes]:
    yield _streams(content, lzma.LZMADecompressor)


def _streams(content: bytes, begin: Callable[[], Any]) -> bytes:
    """All streams that follow each other, as what is appended to a log has its own; what was read before a damage counts."""
    parts, room = [], MOST_BYTES
    with suppress(zlib.error, OSError, EOFError, lzma.LZMAError):
        while content and room > 0:
            unpack = begin()
            parts.append(unpack.decompress(content, room))
            room -= len(parts[-1])
            content = unpack.unused_data if unpack.eof else b""
    return b"".join(parts)


def _png(content: bytes) -> Iterator[bytes]:
    """Text chunks that are compressed; the others lie open."""
    place = len(_PNG)
    while place + 8 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        kind, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        place += 12 + length
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            starts = [at for at in range(len(body)) if body[at : at + 1] == b"\x78"]
            yield from filter(None, (_inflated(body[at:]) for at in starts[:16]))


def _inflated(content: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, MOST_BYTES)
    except zlib.error:
        return b""


def _parquet(content: bytes) -> Iterator[bytes]:
    """Names and metadata of its columns, then all cells but those of floating numbers, as JSON lines."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(BytesIO(content))
    schema = file.schema_arrow
    yield b"\n".join([schema.to_string(show_field_metadata=True, show_schema_metadata=True).encode(), *(schema.metadata or {}).values()])
    told = [field.name for field in schema if not pa.types.is_floating(_innermost(field.type))]
    for batch in file.iter_batches(columns=told):
        yield "\n".join(json.dumps(row, default=str, ensure_ascii=False) for row in batch.to_pylist()).encode("utf-8", "surrogatepass")


def _innermost(kind):
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    return kind


_PACKED: tuple[tuple[bytes, str, Callable[[bytes], Iterator[bytes]]], ...] = (
    (b"PK\x03\x04", "zip", _zip), (b"\x1f\x8b", "gzip", _gzip), (b"BZh", "bz2", _bz2), (b"\xfd7zXZ\0", "xz", _xz), (_PNG, "png text", _png),
    (b"PAR1", "parquet", _parquet),
)  # fmt: skip

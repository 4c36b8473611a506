"""Damaged scans for the fuzzer: small valid seeds, and what truncation, flipped bits, absurd fields and bombs make of them."""

from __future__ import annotations

import gzip
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.ingest.nifti_cases import FIELDS, SHAPE, header, single, voxels
from tests.ingest.scanner import base, enhanced, functional_group, item, phantom, put_pixels, save, series

COUNT = 460
SEEDS = (20260101, 20260102, 20260103)
_DEFLATED, _RLE, _JPEG_LS, _JPEG_2000 = (f"1.2.840.10008.1.2{end}" for end in (".1.99", ".5", ".4.80", ".4.90"))


@dataclass(frozen=True)
class Seed:
    """Whole files of one scan, as name -> bytes, and the one that is damaged. kind: nifti, series, frames or picture."""

    name: str
    kind: str
    files: dict[str, bytes]
    target: str

    @property
    def content(self) -> bytes:
        return self.files[self.target]


@dataclass(frozen=True)
class Mutant:
    """A damaged scan. files: name -> bytes; seed: what it was."""

    name: str
    seed: Seed
    files: dict[str, bytes]

    def write(self, folder: Path) -> Path:
        """Write its files into a new folder."""
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder


@lru_cache(maxsize=1)
def seeds() -> tuple[Seed, ...]:
    """Small scans of every layout that matters."""
    found = [
        Seed("nifti", "nifti", {"a.nii": single()}, "a.nii"),
        Seed("nifti-scaled-qform", "nifti", {"a.nii": _with_qform()}, "a.nii"),
        Seed("nifti-float", "nifti", {"a.nii": single(voxels(kind="f4"), "f4")}, "a.nii"),
        Seed("nifti2-big", "nifti", {"a.nii": single(version=2, order=">")}, "a.nii"),
        Seed("nifti-zipped", "nifti", {"a.nii.gz": gzip.compress(single(), mtime=0)}, "a.nii.gz"),
        Seed("nifti-time-zipped", "nifti", {"a.nii.gz": gzip.compress(single(voxels((*SHAPE, 3))), mtime=0)}, "a.nii.gz"),
        Seed("nifti-pair", "nifti", {"a.hdr": header(SHAPE, pair=True), "a.img": voxels().tobytes("F")}, "a.hdr"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, syntax in (("explicit", ExplicitVRLittleEndian), ("implicit", ImplicitVRLittleEndian), ("big", ExplicitVRBigEndian)):
            found.append(_series_seed(Path(folder) / name, f"ct-{name}", syntax=syntax))
        found.append(_series_seed(Path(folder) / "mr", "mr-12-bit", modality="MR", change=_twelve_bits))
        for name, syntax in (("rle", _RLE), ("jpeg-ls", _JPEG_LS), ("jpeg-2000", _JPEG_2000)):
            found.append(_series_seed(Path(folder) / name, f"ct-{name}", change=_compressed(syntax)))
        path = enhanced(Path(folder) / "e.dcm", phantom(4, 12, 16)[[2, 0, 3, 1]], [_group(2), _group(0), _group(3), _group(1)])
        found.append(Seed("enhanced", "frames", {"e.dcm": path.read_bytes()}, "e.dcm"))
        for name, syntax in (("plain", ""), ("deflated", _DEFLATED), ("jpeg-ls", _JPEG_LS)):
            found.append(_picture_seed(Path(folder) / f"{name}.dcm", f"x-ray-{name}", syntax))
    return tuple(found)


def _group(place: int) -> Dataset:
    scale = item(RescaleSlope=1 + place, RescaleIntercept=-place, RescaleType="US")
    return functional_group((0.0, 0.0, 2.5 * place), PixelValueTransformationSequence=scale)


def _with_qform() -> bytes:
    half_turn = {"qform_code": 1, "quatern": (0.0, 1.0, 0.0), "qoffset": (10.0, -20.0, 5.0)}
    return single(scl_slope=2.0, scl_inter=-100.0, sform_code=0, pixdim=(-1.0, 1.5, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0), **half_turn)


def _series_seed(folder: Path, name: str, **options: object) -> Seed:
    series(folder, phantom(4, 12, 16), **options)  # type: ignore[arg-type]
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return Seed(name, "series", files, sorted(files)[1])


def _twelve_bits(dataset: Dataset, index: int) -> None:
    put_pixels(dataset, phantom(4, 12, 16)[index].astype(np.uint16) & 0xFFF, bits_stored=12)


def _compressed(syntax: str) -> Callable[[Dataset, int], None]:
    def change(dataset: Dataset, index: int) -> None:
        plane = phantom(4, 12, 16)[index].astype(np.uint16)
        put_pixels(dataset, plane)
        if syntax == _JPEG_2000:
            dataset.PixelData = encapsulate([imagecodecs.jpeg2k_encode(plane, level=0, reversible=True, codecformat="j2k")])
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        else:
            dataset.compress(syntax, generate_instance_uid=False)

    return change


def _picture_seed(path: Path, name: str, syntax: str) -> Seed:
    dataset = base("DX", "MRN0001", "2.25.400", "2.25.400.1")
    put_pixels(dataset, phantom(1, 24, 32)[0].astype(np.uint16), bits_stored=12)
    dataset.PixelSpacing = [0.2, 0.3]
    if syntax == _DEFLATED:
        dataset.file_meta.TransferSyntaxUID = syntax
    elif syntax:
        dataset.compress(syntax, generate_instance_uid=False)
    save(dataset, path)
    return Seed(name, "picture", {path.name: path.read_bytes()}, path.name)


def mutants(seed: int, count: int = COUNT) -> list[Mutant]:
    """`count` damaged scans, the same for the same seed: the bombs first, then every way of damage upon every seed in turn."""
    rng = np.random.default_rng(seed)
    made = [Mutant(f"{seed}-{name}", whole, {**whole.files, whole.target: content}) for name, whole, content in bombs(rng)]
    ways = _WAYS
    while len(made) < count:
        whole = seeds()[len(made) % len(seeds())]
        name, way = ways[int(rng.integers(len(ways)))]
        content = way(whole.content, rng)
        made.append(Mutant(f"{seed}-{len(made):04d}-{whole.name}-{name}", whole, {**whole.files, whole.target: content}))
    return made[:count]


def _truncated(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(1, len(content)))]


def _last_bytes_lost(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: -int(rng.integers(1, 40))]


def _flip(content: bytes, rng: np.random.Generator, start: int, end: int, count: int) -> bytes:
    changed = bytearray(content)
    for place in rng.integers(start, max(start + 1, end), count):
        changed[int(place)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _head_bit(content: bytes, rng: np.random.Generator) -> bytes:
    return _flip(content, rng, 0, _pixel_place(content), 1)


def _head_bits(content: bytes, rng: np.random.Generator) -> bytes:
    return _flip(content, rng, 0, _pixel_place(content), 12)


def _pixel_bit(content: bytes, rng: np.random.Generator) -> bytes:
    return _flip(content, rng, _pixel_place(content), len(content), 1)


def _any_bits(content: bytes, rng: np.random.Generator) -> bytes:
    return _flip(content, rng, 0, len(content), 6)


def _pixel_place(content: bytes) -> int:
    """Where the voxels begin, about: behind the last pixel tag, or NIfTI's header."""
    found = max(content.rfind(b"\xe0\x7f\x10\x00"), content.rfind(b"\x7f\xe0\x00\x10"))
    return found + 12 if found >= 0 else min(352, len(content) // 3)


def _bytes_removed(content: bytes, rng: np.random.Generator) -> bytes:
    place, length = int(rng.integers(len(content))), int(rng.integers(1, 64))
    return content[:place] + content[place + length :]


def _bytes_inserted(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(content)))
    return content[:place] + rng.bytes(int(rng.integers(1, 64))) + content[place:]


def _zeroed(content: bytes, rng: np.random.Generator) -> bytes:
    place, length = int(rng.integers(len(content))), int(rng.integers(1, 200))
    return content[:place] + bytes(len(content[place : place + length])) + content[place + length :]


def _junk_at_the_end(content: bytes, rng: np.random.Generator) -> bytes:
    return content + rng.bytes(int(rng.integers(1, 300)))


def _absurd_field(content: bytes, rng: np.random.Generator) -> bytes:
    """One field that means something says something else: zero, negative, huge, not a number."""
    return _absurd_dicom(content, rng) if content[128:132] == b"DICM" else _absurd_nifti(content, rng)


def _absurd_nifti(content: bytes, rng: np.random.Generator) -> bytes:
    zipped = content[:2] == b"\x1f\x8b"
    changed = bytearray(gzip.decompress(content) if zipped else content)
    version = 2 if changed[4:7] in (b"n+2", b"ni2") else 1
    order = "<" if struct.unpack_from("<i", changed)[0] in (348, 540) else ">"
    offset, form = FIELDS[sorted(FIELDS)[int(rng.integers(len(FIELDS)))]][version - 1]
    letter = form[-1]
    values = [0, 1, 2, 3, 4, -1, 30000] if letter in "hiq" else [0, 1, 2, 7, 255] if letter == "B" else _ABSURD_NUMBERS
    place = offset + struct.calcsize("=" + letter) * int(rng.integers(int(form[:-1] or 1)))
    struct.pack_into(order + letter, changed, place, values[int(rng.integers(len(values)))])
    return gzip.compress(bytes(changed), mtime=0) if zipped else bytes(changed)


_ABSURD_NUMBERS = [0.0, -1.0, 1e-9, 1e9, 1e30, float("nan"), float("inf"), 0.5, 1000.0]
_ABSURD_SHORTS = [0, 1, 3, 7, 8, 11, 12, 13, 15, 16, 17, 24, 32, 255, 1024, 16384, 30000, 65535]
_ABSURD_TEXTS = [b"0", b"-1", b"1e30", b"nan", b"", b"1\\1", b"999999999", b"2", b"1E-9", b"x", b"0.5"]
_SHORT_FIELDS = ((0x28, 0x10), (0x28, 0x11), (0x28, 0x100), (0x28, 0x101), (0x28, 0x102), (0x28, 0x103), (0x28, 0x02), (0x28, 0x06))
_TEXT_FIELDS = (
    (0x28, 0x1052), (0x28, 0x1053), (0x28, 0x30), (0x20, 0x32), (0x20, 0x37), (0x28, 0x08), (0x20, 0x13), (0x08, 0x60), (0x08, 0x08),
    (0x28, 0x04), (0x20, 0x0E), (0x02, 0x10), (0x08, 0x16),
)  # fmt: skip


def _absurd_dicom(content: bytes, rng: np.random.Generator) -> bytes:
    """The first element of that tag, overwritten in place: a text keeps its length, padded with spaces."""
    fields = [*((tag, True) for tag in _SHORT_FIELDS), *((tag, False) for tag in _TEXT_FIELDS)]
    for index in rng.permutation(len(fields)):
        (group, element), is_short = fields[int(index)]
        for order in ("<", ">"):
            place = content.find(struct.pack(order + "HH", group, element), 132)
            if place < 0:
                continue
            explicit = content[place + 4 : place + 6].isalpha()
            length = struct.unpack_from(order + ("H" if explicit else "I"), content, place + (6 if explicit else 4))[0]
            if is_short and length == 2:
                value = struct.pack(order + "H", _ABSURD_SHORTS[int(rng.integers(len(_ABSURD_SHORTS)))])
            elif not is_short and 0 < length < 200:
                value = _ABSURD_TEXTS[int(rng.integers(len(_ABSURD_TEXTS)))][:length].ljust(length)
            else:
                continue
            return content[: place + 8] + value + content[place + 8 + length :]
    return _any_bits(content, rng)


def _element_places(content: bytes) -> list[int]:
    """Where elements of the groups 0008 to 0028 and 7FE0 seem to begin."""
    known = (0x08, 0x10, 0x18, 0x20, 0x28, 0x7FE0)
    if content[128:132] != b"DICM":
        return []
    return [place for place in range(132, len(content) - 8, 2) if struct.unpack_from("<H", content, place)[0] in known]


def _tags_swapped(content: bytes, rng: np.random.Generator) -> bytes:
    places = _element_places(content)
    if len(places) < 2:
        return _any_bits(content, rng)
    one, other = (places[int(index)] for index in rng.choice(len(places), 2, replace=False))
    changed = bytearray(content)
    changed[one : one + 4], changed[other : other + 4] = content[other : other + 4], content[one : one + 4]
    return bytes(changed)


def _absurd_tag(content: bytes, rng: np.random.Generator) -> bytes:
    places = _element_places(content)
    if not places:
        return _any_bits(content, rng)
    changed = bytearray(content)
    place = places[int(rng.integers(len(places)))]
    changed[place : place + 4] = rng.bytes(4) if rng.integers(2) else struct.pack("<HH", 0xFFFE, int(rng.choice([0xE000, 0xE00D, 0xE0DD])))
    return bytes(changed)


def _huge_length(content: bytes, rng: np.random.Generator) -> bytes:
    places = _element_places(content)
    if not places:
        return _absurd_field(content, rng)
    place = places[int(rng.integers(len(places)))]
    length = int(rng.choice([0xFFFF, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF, 0x10000000]))
    long_form = content[place + 4 : place + 6] in (b"OW", b"OB", b"SQ", b"UN")
    changed = bytearray(content)
    if content[place + 4 : place + 6].isalpha() and not long_form:
        struct.pack_into("<H", changed, place + 6, length & 0xFFFF)
    else:
        struct.pack_into("<I", changed, place + (8 if long_form else 4), length)
    return bytes(changed)


def _rezipped(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage beneath the compression, so that checksums hold."""
    if content[:2] != b"\x1f\x8b":
        return _head_bit(content, rng)
    inner = gzip.decompress(content)
    way = (_truncated, _head_bit, _pixel_bit, _junk_at_the_end, _bytes_removed)[int(rng.integers(5))]
    return gzip.compress(way(inner, rng), mtime=0)


_WAYS: tuple[tuple[str, Callable[[bytes, np.random.Generator], bytes]], ...] = tuple(
    (way.__name__.strip("_"), way)
    for way in (
        _truncated, _last_bytes_lost, _head_bit, _head_bit, _head_bits, _pixel_bit, _any_bits, _bytes_removed, _bytes_inserted, _zeroed,
        _junk_at_the_end, _absurd_field, _absurd_field, _absurd_field, _tags_swapped, _absurd_tag, _huge_length, _rezipped,
    )
)  # fmt: skip


def bombs(rng: np.random.Generator) -> list[tuple[str, Seed, bytes]]:
    """(name, seed, content) of files that are small and want much: memory, time or the reader's stack."""
    plain, picture, zipped = (next(one for one in seeds() if one.name == name) for name in ("ct-explicit", "x-ray-plain", "nifti-zipped"))
    deflated, lossless = (next(one for one in seeds() if one.name == name) for name in ("x-ray-deflated", "x-ray-jpeg-ls"))
    j2k, rle = (next(one for one in seeds() if one.name == name) for name in ("ct-jpeg-2000", "ct-rle"))
    side = int(rng.integers(700, 800))
    return [
        ("nested", plain, _nested(plain.content, 50_000, defined=False)),
        ("nested-defined", picture, _nested(picture.content, 5_000, defined=True)),
        ("gzip-bomb", zipped, _zipped_zeros(single(), 3 * 2**30)),
        ("gzip-bomb-announced", zipped, _zipped_zeros(header((side, side, 800)) + bytes(4), side * side * 1600)),
        ("gzip-nested", zipped, gzip.compress(gzip.compress(bytes(2**26), mtime=0), mtime=0)),
        ("nifti-27-tb", zipped, gzip.compress(single(dim=(3, 30000, 30000, 30000, 1, 1, 1, 1)), mtime=0)),
        ("nifti-2-gb", zipped, gzip.compress(single(dim=(3, side, side, 1000, 1, 1, 1, 1)), mtime=0)),
        ("deflate-bomb", deflated, _deflated_zeros(deflated.content, 2**31)),
        ("rows-and-columns", picture, _short(_short(picture.content, 0x10, 16384), 0x11, 16384)),
        ("rle-rows-and-columns", rle, _short(_short(rle.content, 0x10, 16384), 0x11, 16384)),
        ("jpeg-ls-rows-and-columns", lossless, _short(_short(lossless.content, 0x10, 16384), 0x11, 16384)),
        ("jpeg-ls-30000-columns", lossless, _short(_jpeg_size(lossless.content, 30000, 30000), 0x11, 30000)),
        ("jpeg-ls-stream-60000", lossless, _jpeg_size(lossless.content, 60000, 60000)),
        ("jpeg-2000-stream-60000", j2k, _jpeg_2000_size(j2k.content, 60000)),
        ("pixel-length", picture, picture.content.replace(b"\x10\x00OW\0\0", b"\x10\x00OW\0\0\xf0\xff\xff\xff", 1)),
        ("private-4-gb", plain, _with_element(plain.content, b"\x09\0\x01\x10UN\0\0" + struct.pack("<I", 0xFFFFFFF0))),
    ]


def _with_element(content: bytes, element: bytes) -> bytes:
    """The element put before group 0010."""
    place = content.index(b"\x10\0\x10\0")
    return content[:place] + element + content[place:]


def _nested(content: bytes, depth: int, defined: bool) -> bytes:
    if not defined:
        return _with_element(content, b"\x09\0\x01\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * depth)
    inner = b""
    for _ in range(depth):
        inner = b"\x09\0\x01\x10SQ\0\0" + struct.pack("<I", len(inner) + 8) + b"\xfe\xff\0\xe0" + struct.pack("<I", len(inner)) + inner
    return _with_element(content, inner)


@lru_cache(maxsize=8)
def _zipped_zeros(head: bytes, count: int) -> bytes:
    """A gzip stream of `head` and about so many zeros."""
    pack = zlib.compressobj(wbits=-15)
    body = pack.compress(head) + pack.flush(zlib.Z_FULL_FLUSH)
    checksum, zeros = zlib.crc32(head), bytes(2**20)
    for _ in range(count // 2**20):
        checksum = zlib.crc32(zeros, checksum)
    checksum = zlib.crc32(zeros[: count % 2**20], checksum)
    size = struct.pack("<II", checksum, (len(head) + count) & 0xFFFFFFFF)
    return gzip.compress(b"", mtime=0)[:10] + body + _packed_zeros(count) + size


def _packed_zeros(count: int) -> bytes:
    """The end of a raw deflate stream of so many zeros: one packed block over and over, for speed."""
    pack = zlib.compressobj(9, wbits=-15)
    pack.compress(bytes(2**15))
    pack.flush(zlib.Z_FULL_FLUSH)
    block = pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)
    return block * (count // 2**20) + pack.compress(bytes(count % 2**20)) + pack.flush()


def _deflated_zeros(content: bytes, count: int) -> bytes:
    """The deflated file with a private element of zeros behind its pixels."""
    start = 132 + 12 + struct.unpack_from("<I", content, 140)[0]
    inner = zlib.decompress(content[start:], wbits=-15) + b"\xe1\x7f\x01\x10OB\0\0" + struct.pack("<I", count)
    pack = zlib.compressobj(wbits=-15)
    return content[:start] + pack.compress(inner) + pack.flush(zlib.Z_FULL_FLUSH) + _packed_zeros(count)


def _short(content: bytes, element: int, value: int) -> bytes:
    place = content.index(struct.pack("<HH", 0x28, element) + b"US\2\0") + 8
    return content[:place] + struct.pack("<H", value) + content[place + 2 :]


def _jpeg_size(content: bytes, rows: int, columns: int) -> bytes:
    """Rows and columns in the frame header of a JPEG-LS stream."""
    place = content.rindex(b"\xff\xf7") + 5
    return content[:place] + struct.pack(">HH", rows, columns) + content[place + 4 :]


def _jpeg_2000_size(content: bytes, side: int) -> bytes:
    """The SIZ marker of a JPEG 2000 stream: image and tile as large as said."""
    place = content.rindex(b"\xff\x4f\xff\x51") + 8
    return content[:place] + struct.pack(">IIIIII", side, side, 0, 0, side, side) + content[place + 24 :]

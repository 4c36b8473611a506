"""NIfTI files written byte by byte, each with what it means: voxels and affine, or that nobody can know."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHAPE = (7, 8, 9)
AFFINE = np.array([[-1.5, 0, 0, 10], [0, 2.0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1.0]])
# The same by quaternion: half a turn about z flips x and y, so y is flipped back by the third axis and qfac.
PIXDIM = (1.5, 2.0, 3.0)
TYPES = {
    "u1": 2, "i2": 4, "i4": 8, "f4": 16, "c8": 32, "f8": 64, "rgb": 128, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280,
    "rgba": 2304,
}  # fmt: skip
# field -> (offset, format) in NIfTI-1 and NIfTI-2
FIELDS = {
    "sizeof_hdr": ((0, "i"), (0, "i")), "dim": ((40, "8h"), (16, "8q")), "intent_code": ((68, "h"), (504, "i")),
    "datatype": ((70, "h"), (12, "h")), "bitpix": ((72, "h"), (14, "h")), "pixdim": ((76, "8f"), (104, "8d")),
    "vox_offset": ((108, "f"), (168, "q")), "scl_slope": ((112, "f"), (176, "d")), "scl_inter": ((116, "f"), (184, "d")),
    "xyzt_units": ((123, "B"), (500, "i")), "cal_max": ((124, "f"), (192, "d")), "cal_min": ((128, "f"), (200, "d")),
    "qform_code": ((252, "h"), (344, "i")), "sform_code": ((254, "h"), (348, "i")), "quatern": ((256, "3f"), (352, "3d")),
    "qoffset": ((268, "3f"), (376, "3d")), "srow": ((280, "12f"), (400, "12d")),
}  # fmt: skip


def voxels(shape: tuple[int, ...] = SHAPE, kind: str = "i2") -> np.ndarray:
    """No two slices alike; whole numbers of the type's range, at most 0 to 200 or -900 to 900."""
    low, high = (0, 200) if kind in ("u1", "u2", "u4", "u8") else (-100, 100) if kind == "i1" else (-900, 900)
    return np.random.default_rng(len(shape)).integers(low, high, shape).astype(kind)


def header(shape: tuple[int, ...], kind: str = "i2", version: int = 1, order: str = "<", pair: bool = False, **fields: object) -> bytes:
    """A header whose sform is AFFINE and whose qform is unset, unless `fields` say otherwise."""
    size = 348 if version == 1 else 540
    bits = {"rgb": 24, "rgba": 32}.get(kind) or np.dtype(kind).itemsize * 8
    said: dict[str, object] = {
        "sizeof_hdr": size, "dim": (len(shape), *shape, *[1] * (7 - len(shape))), "datatype": TYPES[kind], "bitpix": bits,
        "pixdim": (1.0, *PIXDIM, 1.0, 1.0, 1.0, 1.0), "vox_offset": 0 if pair else size + 4, "scl_slope": 1.0, "scl_inter": 0.0,
        "xyzt_units": 2 | 8, "sform_code": 1, "srow": tuple(AFFINE[:3].ravel()),
    }  # fmt: skip
    content = bytearray(size)
    for name, value in (said | fields).items():
        offset, form = FIELDS[name][version - 1]
        struct.pack_into(order + form, content, offset, *(value if isinstance(value, tuple) else (value,)))
    magic = b"ni%d\0" if pair else b"n+%d\0"
    content[344 if version == 1 else 4 : 348 if version == 1 else 8] = magic % version
    if version == 2:
        content[8:12] = b"\r\n\x1a\n"
    return bytes(content)


def single(array: np.ndarray | None = None, kind: str = "i2", order: str = "<", **fields: object) -> bytes:
    """A whole .nii file."""
    array = voxels(kind=kind) if array is None else array
    told = {"kind": kind, **fields}
    return header(array.shape, order=order, **told) + bytes(4) + array.astype(order + kind).tobytes("F")  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    """One file. array, affine: what it means, None where it cannot be known. code: how it must be refused; flag: what must be said."""

    name: str
    files: Callable[[], dict[str, bytes]]
    array: np.ndarray | None = None
    affine: np.ndarray | None = None
    code: str = ""
    flag: str = ""

    def write(self, folder: Path) -> Path:
        """Write the file, or the pair; returns the one to open."""
        folder.mkdir(parents=True, exist_ok=True)
        content = self.files()
        for name, data in content.items():
            (folder / name).write_bytes(data)
        return folder / next(iter(content))


def _right(name: str, files: Callable[[], bytes], array: np.ndarray | None = None, affine: np.ndarray = AFFINE, **more: str) -> Case:
    """A case that means something. file: its name; flag: what must be said about it."""
    file = more.pop("file", "a.nii")
    return Case(name, lambda: {file: files()}, voxels() if array is None else array, affine, **more)


def _refused(name: str, code: str, files: Callable[[], bytes], file: str = "a.nii") -> Case:
    return Case(name, lambda: {file: files()}, code=code)


def _flagged(name: str, flag: str, files: Callable[[], bytes]) -> Case:
    return Case(name, lambda: {"a.nii": files()}, flag=flag)


def _moved(x: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += x
    return affine


def _zoomed(factor: float) -> tuple[float, ...]:
    return tuple((AFFINE[:3] * factor).ravel())


def _pixdim(*lengths: float, qfac: float = 1.0) -> tuple[float, ...]:
    return (qfac, *lengths, 1.0, 1.0, 1.0, 1.0)


# qform: half a turn about y flips x and z; qfac -1 flips z back.
_QFORM = {"qform_code": 1, "quatern": (0.0, 1.0, 0.0), "qoffset": (10.0, -20.0, 5.0), "pixdim": _pixdim(*PIXDIM, qfac=-1.0)}
_NO_SFORM = {"sform_code": 0, "srow": (0.0,) * 12}
_SHEARED = AFFINE @ np.array([[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
_OBLIQUE = np.array([[1.2, -0.9, 0, 3], [0.9, 1.2, 0, 4], [0, 0, 3.0, 5], [0, 0, 0, 1.0]])
_NAN, _INF = float("nan"), float("inf")


def _with(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array[3, 4, 5] = value
    return array


def _pair(version: int = 1, zipped: bool = False) -> dict[str, bytes]:
    end, pack = (".gz", gzip.compress) if zipped else ("", bytes)
    head = header(SHAPE, version=version, pair=True)
    return {f"a.hdr{end}": pack(head), f"a.img{end}": pack(voxels().tobytes("F"))}


def _extended() -> bytes:
    extension = struct.pack("<ii", 32, 6) + b"a comment".ljust(24, b"\0")
    return header(SHAPE, vox_offset=384) + b"\1\0\0\0" + extension + voxels().tobytes("F")


def _flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 0x10
    return bytes(changed)


def _typed(kind: str) -> Case:
    return _right(f"voxels of type {kind}", lambda: single(kind=kind), voxels(kind=kind))


CASES = [
    # what it means is certain
    _right("plain", single),
    _right("zipped", lambda: gzip.compress(single()), file="a.nii.gz"),
    _right("zipped, named .nii", lambda: gzip.compress(single())),
    _right("plain, named .nii.gz", single, file="a.nii.gz"),
    _right("several gzip members", lambda: gzip.compress(single()[:500]) + gzip.compress(single()[500:]), file="a.nii.gz"),
    _right("zeros after the gzip stream", lambda: gzip.compress(single()) + bytes(100), file="a.nii.gz"),
    _right("big endian", lambda: single(order=">")),
    _right("NIfTI-2", lambda: single(version=2)),
    _right("NIfTI-2, big endian, zipped", lambda: gzip.compress(single(version=2, order=">")), file="a.nii.gz"),
    Case("pair", _pair, voxels(), AFFINE),
    Case("zipped pair", lambda: _pair(zipped=True), voxels(), AFFINE),
    Case("NIfTI-2 pair", lambda: _pair(version=2), voxels(), AFFINE),
    *(_typed(kind) for kind in ("u1", "i1", "u2", "i4", "u4", "i8", "f4", "f8")),
    _right("slope and intercept", lambda: single(scl_slope=2.5, scl_inter=-7.0), voxels() * 2.5 - 7),
    _right("negative slope", lambda: single(scl_slope=-2.0), voxels() * -2.0),
    _right("slope 0 means not scaled", lambda: single(scl_slope=0.0, scl_inter=7.0)),
    _right("intercept alone", lambda: single(scl_inter=-1024.0), voxels() - 1024.0),
    _right("cal_max and cal_min are for display", lambda: single(cal_max=100.0, cal_min=0.0)),
    _right("qform alone, qfac -1", lambda: single(**_QFORM, **_NO_SFORM)),
    _right("qform that agrees with sform", lambda: single(**_QFORM)),
    _right("oblique", lambda: single(srow=tuple(_OBLIQUE[:3].ravel()), pixdim=_pixdim(1.5, 1.5, 3.0)), affine=_OBLIQUE),
    _right("trailing axes of length 1", lambda: single(voxels()[..., None, None])),
    _right("four axes", lambda: single(voxels((*SHAPE, 3))), voxels((*SHAPE, 3))),
    _right("extension before the voxels", _extended),
    _right("a few zeros after the voxels", lambda: single() + bytes(3)),
    # certain, and worth a word
    _right("micrometres", lambda: single(xyzt_units=3, srow=_zoomed(1000), pixdim=_pixdim(1500, 2000, 3000)), flag="length_unit_converted"),
    _right("metres", lambda: single(xyzt_units=1, srow=_zoomed(0.001), pixdim=_pixdim(0.0015, 0.002, 0.003)), flag="length_unit_converted"),
    _right("no unit of length", lambda: single(xyzt_units=0), flag="length_unit_unknown"),
    _right("qform of another space", lambda: single(**{**_QFORM, "qform_code": 2, "qoffset": (99.0, 0.0, 0.0)}), flag="qform_differs"),
    _right("sheared", lambda: single(srow=tuple(_SHEARED[:3].ravel()), pixdim=_pixdim(1.5, 2, 3.0336)), affine=_SHEARED, flag="sheared"),
    _right("sform beside pixdim 0", lambda: single(pixdim=_pixdim(0, 0, 0)), flag="spacing_differs"),
    _right("sform beside negative pixdim", lambda: single(pixdim=_pixdim(-1.5, 2, 3)), flag="spacing_differs"),
    _right("fourth axis, no unit", lambda: single(voxels((*SHAPE, 3)), xyzt_units=2), voxels((*SHAPE, 3)), flag="fourth_axis_unstated"),
    # two readings, neither of them certain
    _flagged("pixdim contradicts sform", "spacing_differs", lambda: single(pixdim=_pixdim(1.0, 1.0, 1.0))),
    _refused("neither qform nor sform", "orientation_unknown", lambda: single(**_NO_SFORM)),
    _refused("qform 4 mm beside sform", "orientation_conflict", lambda: single(**{**_QFORM, "qoffset": (14.0, -20.0, 5.0)})),
    _refused("qform is the mirror of sform", "orientation_conflict", lambda: single(**{**_QFORM, "pixdim": _pixdim(*PIXDIM, qfac=1.0)})),
    _refused("slope is not a number", "rescale_invalid", lambda: single(scl_slope=_NAN)),
    _refused("slope is infinite", "rescale_invalid", lambda: single(scl_slope=_INF)),
    _refused("intercept is not a number", "rescale_invalid", lambda: single(scl_inter=_NAN)),
    _refused("intercept drowns the steps", "rescale_invalid", lambda: single(scl_inter=1e12)),
    _refused("type and bits disagree", "bad_header", lambda: single(bitpix=8)),
    _refused("three values per voxel", "dimensions", lambda: single(voxels((*SHAPE, 1, 3)))),
    _refused("one slice", "dimensions", lambda: single(voxels((7, 8, 1)))),
    # geometry that cannot be
    _refused("qform alone with pixdim 0", "absurd_spacing", lambda: single(**{**_QFORM, **_NO_SFORM, "pixdim": _pixdim(0, 2, 3)})),
    _refused("qform alone, negative pixdim", "absurd_spacing", lambda: single(**{**_QFORM, **_NO_SFORM, "pixdim": _pixdim(-1.5, 2, 3)})),
    _refused("qform is no rotation", "bad_affine", lambda: single(**{**_QFORM, **_NO_SFORM, "quatern": (2.0, 1.0, 0.0)})),
    _refused("qfac 5", "bad_affine", lambda: single(**{**_QFORM, **_NO_SFORM, "pixdim": _pixdim(*PIXDIM, qfac=5.0)})),
    _refused("sform is not a number", "bad_affine", lambda: single(srow=(_NAN, *_zoomed(1)[1:]))),
    _refused("sform is singular", "bad_affine", lambda: single(srow=(1.5, 1.5, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0))),
    _refused("origin a light year away", "bad_affine", lambda: single(srow=tuple(_moved(1e19)[:3].ravel()))),
    _refused("voxels of a metre", "absurd_spacing", lambda: single(srow=_zoomed(500))),
    _refused("orientation code 9", "bad_header", lambda: single(sform_code=9)),
    # voxels that are none
    _refused("one is not a number", "not_finite", lambda: single(_with(voxels(kind="f4"), _NAN), "f4")),
    _refused("one is infinite", "not_finite", lambda: single(_with(voxels(kind="f4"), -_INF), "f4")),
    _refused("one is beyond float32", "not_finite", lambda: single(_with(voxels(kind="f8"), 1e60), "f8")),
    _refused("scaled beyond float32", "not_finite", lambda: single(scl_slope=3e38)),
    _refused("all alike", "blank", lambda: single(np.full(SHAPE, 7, "i2"))),
    _refused("complex", "complex_values", lambda: single(voxels().astype("c8"), "c8")),
    _refused("RGB", "colour", lambda: header(SHAPE, "rgb") + bytes(4 + 3 * 7 * 8 * 9)),
    _refused("RGBA", "colour", lambda: header(SHAPE, "rgba") + bytes(4 + 4 * 7 * 8 * 9)),
    _refused("a type that does not exist", "bad_header", lambda: single(datatype=77)),
    # damage
    _refused("cut short", "truncated", lambda: single()[:-300]),
    _refused("one byte short", "truncated", lambda: single()[:-1]),
    _refused("cut in the header", "truncated", lambda: single()[:200]),
    _refused("header alone", "truncated", lambda: single()[:352]),
    _refused("zipped, cut short", "truncated", lambda: gzip.compress(single())[:-100], "a.nii.gz"),
    _refused("zipped, last byte cut", "truncated", lambda: gzip.compress(single())[:-1], "a.nii.gz"),
    _refused("cut, then zipped", "truncated", lambda: gzip.compress(single()[:-300]), "a.nii.gz"),
    _refused("gzip checksum", "corrupt_gzip", lambda: _flipped(gzip.compress(single()), -8), "a.nii.gz"),
    _refused("gzip length", "corrupt_gzip", lambda: _flipped(gzip.compress(single()), -3), "a.nii.gz"),
    _refused("gzip body", "corrupt_gzip", lambda: _flipped(gzip.compress(single()), 600), "a.nii.gz"),
    _refused("junk after the gzip stream", "corrupt_gzip", lambda: gzip.compress(single()) + b"junk" * 9, "a.nii.gz"),
    _refused("zipped twice", "unreadable", lambda: gzip.compress(gzip.compress(single())), "a.nii.gz"),
    _refused("bytes after the voxels", "pixel_length", lambda: single() + b"junk"),
    _refused("a slice more than dim says", "pixel_length", lambda: single(dim=(3, 7, 8, 8, 1, 1, 1, 1))),
    _refused("a slice less than dim says", "truncated", lambda: single(dim=(3, 7, 8, 10, 1, 1, 1, 1))),
    _refused("a fourth axis that dim[0] hides", "pixel_length", lambda: single(voxels((*SHAPE, 3)), dim=(3, 7, 8, 9, 3, 1, 1, 1))),
    _refused("27 TB by its header", "too_large", lambda: single(dim=(3, 30000, 30000, 30000, 1, 1, 1, 1))),
    _refused("190 MB by its header", "truncated", lambda: single(dim=(3, 1000, 1000, 95, 1, 1, 1, 1))),
    _refused("190 MB by its header, zipped", "truncated", lambda: gzip.compress(single(dim=(3, 1000, 1000, 95, 1, 1, 1, 1))), "a.nii.gz"),
    _refused("a gzip bomb behind a small header", "pixel_length", lambda: gzip.compress(single() + bytes(2**26)), "a.nii.gz"),
    _refused("a gzip bomb that its header announces", "blank", lambda: gzip.compress(
        header((1000, 1000, 16)) + bytes(4 + 2 * 16 * 10**6)), "a.nii.gz"),
    _refused("negative dimension", "dimensions", lambda: single(dim=(3, 7, -8, 9, 1, 1, 1, 1))),
    _refused("nine dimensions", "unreadable", lambda: single(dim=(9, 7, 8, 9, 1, 1, 1, 1))),
    _refused("voxels begin inside the header", "bad_header", lambda: single(vox_offset=0)),
    _refused("voxels begin nowhere", "bad_header", lambda: single(vox_offset=_NAN)),
    _refused("voxels begin too late", "bad_header", lambda: single(vox_offset=368)),
    _refused("voxels begin in an extension", "bad_header", lambda: _extended().replace(struct.pack("<f", 384), struct.pack("<f", 376), 1)),
    _refused("no magic", "analyze_format", lambda: single().replace(b"n+1\0", bytes(4), 1)),
    _refused("magic of a pair in a single file", "missing_pair", lambda: single().replace(b"n+1\0", b"ni1\0", 1)),
    _refused("header without voxels beside it", "missing_pair", lambda: header(SHAPE, pair=True), "a.hdr"),
    Case("pair, cut short", lambda: {**_pair(), "a.img": voxels().tobytes("F")[:-10]}, code="truncated"),
    Case("pair, voxels of another", lambda: {**_pair(), "a.img": voxels((9, 9, 9)).tobytes("F")}, code="pixel_length"),
]  # fmt: skip

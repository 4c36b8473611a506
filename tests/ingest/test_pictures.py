"""PNG, JPEG, TIFF and MedMNIST npz: grey values as stored, official splits kept."""

from __future__ import annotations

import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcl.ingest import IngestConfig, ingest, open_data, read_scans


def grey(rows: int = 20, columns: int = 30, kind: type = np.uint8) -> np.ndarray:
    top = np.iinfo(kind).max
    return np.random.default_rng(0).integers(0, top, (rows, columns)).astype(kind)


@pytest.mark.parametrize(("name", "kind"), [("a.png", np.uint8), ("a.png", np.uint16), ("a.tiff", np.uint8), ("a.tif", np.uint16)])
def test_grey_values_are_those_of_the_file(tmp_path: Path, name: str, kind: type) -> None:
    Image.fromarray(grey(kind=kind)).save(tmp_path / name)
    volume = read_scans(tmp_path / name, IngestConfig(modality="xray")).volumes[0]
    np.testing.assert_array_equal(volume.array[:, :, 0], grey(kind=kind).T)
    assert (volume.kind, volume.units, volume.modality, volume.array.dtype) == ("picture", "display", "xray", np.dtype(kind))


def test_colour_and_transparency(tmp_path: Path) -> None:
    colour = np.dstack([grey(), grey()[::-1], grey()[:, ::-1]])
    Image.fromarray(colour).save(tmp_path / "c.png")
    reading = read_scans(tmp_path / "c.png")
    assert reading.flags[0] == ("colour_to_grey", "modality_assumed")
    Image.fromarray(np.dstack([grey()] * 3 + [np.full_like(grey(), 255)])).save(tmp_path / "d.png")
    reading = read_scans(tmp_path / "d.png")
    assert reading.flags[0] == ("modality_assumed",)
    assert np.abs(reading.volumes[0].array[:, :, 0].T.astype(int) - grey()).max() <= 1


def test_a_turned_photograph_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(grey()).save(tmp_path / "a.jpg", exif=exif)
    assert read_scans(tmp_path / "a.jpg").volumes[0].array.shape == (20, 30, 1)


def test_broken_pictures(tmp_path: Path) -> None:
    Image.fromarray(grey(200, 300)).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "fake.png").write_bytes(content[:8] + b"\0\0\0\x0dJUNK" + bytes(200))
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "flat.png")
    Image.fromarray(grey(4, 4)).save(tmp_path / "tiny.png")
    found = {Path(one.path).name: one.reason for one in read_scans(tmp_path).ledger}
    assert found.pop("fake.png") in ("unreadable", "truncated")
    assert found == {"cut.png": "truncated", "flat.png": "blank", "tiny.png": "dimensions"}
    assert read_scans(tmp_path / "tiny.png", IngestConfig(budget_gib=1e-8)).ledger[0].reason == "too_large"


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(rows: int, columns: int, content: bytes, more: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    """A PNG written byte by byte. content: rows of pixels, each after a zero (no filter)."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", zlib.compress(content)) + more + png_chunk(b"IEND", b"")


def sixteen_bit(samples: int) -> bytes:
    content = np.dstack([grey(kind=np.uint16)] * samples).astype(">u2")
    return png(20, 30, b"".join(b"\0" + row.tobytes() for row in content), depth=16, colour={1: 0, 2: 4, 3: 2}[samples])


def test_what_does_not_get_into_a_grey_picture_is_said(tmp_path: Path) -> None:
    clear = np.full_like(grey(), 255)
    half = np.where(grey() > 127, 255, 0).astype(np.uint8)
    page = Image.fromarray(grey())
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[Image.fromarray(grey()[::-1].copy())])
    page.save(tmp_path / "moving.png", save_all=True, append_images=[Image.fromarray(grey()[::-1].copy())])
    page.convert("P").save(tmp_path / "palette.png")
    page.convert("CMYK").save(tmp_path / "print.tif")
    Image.fromarray(np.dstack([grey()] * 3 + [clear])).save(tmp_path / "clear.png")
    Image.fromarray(np.dstack([grey()] * 3 + [half])).save(tmp_path / "holes.png")
    for samples, name in ((1, "grey"), (2, "alpha"), (3, "colour")):
        (tmp_path / f"16-{name}.png").write_bytes(sixteen_bit(samples))
    reading = read_scans(tmp_path, IngestConfig(modality="xray"))
    flags = {Path(one.path).name: reading.flags[int(one.volume_id)] for one in reading.ledger}
    assert flags == {
        "pages.tif": ("first_of_several_pages",), "moving.png": ("first_of_several_pages",), "palette.png": (), "clear.png": (),
        "print.tif": ("colour_to_grey",), "holes.png": ("transparent_parts",), "16-grey.png": (),
        "16-alpha.png": ("reduced_to_8_bits", "transparent_parts"), "16-colour.png": ("reduced_to_8_bits",),
    }  # fmt: skip
    place = next(int(one.volume_id) for one in reading.ledger if one.path.endswith("16-grey.png"))
    np.testing.assert_array_equal(reading.volumes[place].array[:, :, 0], grey(kind=np.uint16).T)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_is_zero_is_turned_around(tmp_path: Path, kind: type) -> None:
    page = Image.fromarray(grey(kind=kind))
    page.save(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    place = content.index(struct.pack("<HHI", 262, 3, 1)) + 8
    content[place : place + 2] = b"\0\0"
    (tmp_path / "a.tif").write_bytes(content)
    (volume,) = read_scans(tmp_path / "a.tif").volumes
    np.testing.assert_array_equal(volume.array[:, :, 0], np.iinfo(kind).max - grey(kind=kind).T)


def test_one_bit(tmp_path: Path) -> None:
    Image.fromarray(grey() > 127).save(tmp_path / "a.tif", compression="group4")
    np.testing.assert_array_equal(read_scans(tmp_path / "a.tif").volumes[0].array[:, :, 0], (grey() > 127).T)


def test_bombs_want_no_memory(tmp_path: Path) -> None:
    whole = b"".join(b"\0" + row.tobytes() for row in grey())
    (tmp_path / "wide.png").write_bytes(png(12000, 12000, bytes(12001 * 50)))
    (tmp_path / "wider.png").write_bytes(png(20000, 20000, bytes(20001 * 50)))
    (tmp_path / "comment.png").write_bytes(png(20, 30, whole, more=png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**27)))))
    npz(tmp_path / "zeros.npz", train_images=items(3, 28, 28))
    content = (tmp_path / "zeros.npz").read_bytes()
    (tmp_path / "zeros.npz").write_bytes(content.replace(struct.pack("<I", 128 + 3 * 28 * 28), struct.pack("<I", 2**31)))
    start = _peak_mib()
    found = {Path(one.path).name: one.reason for one in read_scans(tmp_path).ledger}
    assert found == {"wide.png": "too_large", "wider.png": "too_large", "comment.png": "truncated", "zeros.npz": "too_large"}
    assert _peak_mib() - start < 300


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def items(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 255, (count, *shape), dtype=np.uint8)


def test_npz_pictures_volumes_and_several_labels(tmp_path: Path) -> None:
    labels = np.arange(6, dtype=np.uint8).reshape(3, 2) % 2
    npz(tmp_path / "flat.npz", train_images=items(3, 28, 28), train_labels=labels, test_images=items(2, 28, 28), test_labels=labels[:2])
    npz(tmp_path / "deep.npz", train_images=items(2, 9, 10, 11), train_labels=np.array([[0], [1]]))
    npz(tmp_path / "colour.npz", val_images=items(2, 28, 28, 3), val_labels=np.array([[0], [1]]))
    ingest(tmp_path, tmp_path / "out", jobs=0)
    data = open_data(tmp_path / "out")
    assert data.manifest["kind"].value_counts().to_dict() == {"picture": 7, "volume": 2}
    assert data.manifest["patient_key"].nunique() == 9
    assert data.manifest["split"].value_counts().to_dict() == {"train": 5, "test": 2, "val": 2}
    assert data.labels is not None
    assert {"label", "label_0", "label_1"} <= set(data.labels.columns)
    assert set(data.manifest["shape"]) == {(28, 28, 1), (9, 10, 11)}
    first = items(3, 28, 28)[0]
    assert any(np.array_equal(data.volume(name).array[:, :, 0], first.T) for name in data.manifest["volume_id"])


def test_npz_of_another_kind(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", weights=np.ones(3))
    npz(tmp_path / "b.npz", train_images=items(3, 28, 28), train_labels=np.ones(2))
    np.savez(tmp_path / "c.npz", train_images=np.array([{"a": 1}], dtype=object))
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 no zip")
    npz(tmp_path / "e.npz", train_images=items(3, 28, 28), train_labels=np.array([{"a": 1}] * 3, dtype=object))
    content = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "f.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "g.npz").write_bytes(content.replace(b"(3, 28, 28)", b"(3, 28, 99)", 1))
    found = {Path(one.path).name: one.reason for one in read_scans(tmp_path).ledger}
    assert found == {
        "a.npz": "npz_layout",
        "b.npz": "npz_layout",
        "c.npz": "unreadable",
        "d.npz": "unreadable",
        "e.npz": "unreadable",
        "f.npz": "unreadable",
        "g.npz": "unreadable",
    }


def test_real_medmnist(real_data: Path, tmp_path: Path) -> None:
    summary = ingest(real_data / "pneumoniamnist", tmp_path / "p", jobs=0)
    assert (summary.pictures, summary.labelled, summary.modalities) == (5856, 5856, {"xray": 5856})
    assert summary.splits == {"train": 4708, "val": 524, "test": 624}
    data = open_data(tmp_path / "p")
    labels = data.labels.merge(data.manifest, on="volume_id") if data.labels is not None else data.manifest
    assert labels.groupby("split")["label"].sum().to_dict() == {"train": 3494, "val": 389, "test": 390}
    across = data.manifest[data.manifest["duplicate_group"] > 0].groupby("duplicate_group")["split"].agg(set)
    assert {"train", "val"} in across.tolist()
    summary = ingest(real_data / "adrenalmnist3d" / "adrenalmnist3d_trainval.npz", tmp_path / "a", jobs=0)
    assert (summary.volumes, summary.modalities, summary.splits) == (1286, {"shape": 1286}, {"train": 1188, "val": 98})

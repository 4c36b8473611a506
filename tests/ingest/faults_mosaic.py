"""Siemens mosaics: slices as tiles of one plane, told by a private header."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from tests.ingest.faults import Known, affine_of, fault
from tests.ingest.faults_geometry import CORONAL
from tests.ingest.scanner import AXIAL, ORIGIN, base, phantom, put_pixels, save

SPACING = (3.0, 3.2, 4.5)
OBLIQUE = (0.9961947, 0.0871557, 0.0, -0.0859316, 0.9822025, 0.1666711)


def csa(tags: dict[str, list[str]]) -> bytes:
    """A CSA header, version 2, that holds these tags."""
    content = b"SV10\4\3\2\1" + struct.pack("<II", len(tags), 77)
    for name, words in tags.items():
        content += name.encode().ljust(64, b"\0") + struct.pack("<i", len(words)) + b"FD\0\0" + struct.pack("<iii", 3, 6, 77)
        for index in range(6):
            text = words[index].encode() + b"\0" if index < len(words) else b""
            content += struct.pack("<iiii", len(text), len(text), 77, len(text)) + text.ljust(-(-len(text) // 4) * 4, b"\0")
    return content


def mosaic(path: Path, pixels: np.ndarray, number: int = 1, turn: tuple[float, ...] = AXIAL, reverse: bool = False, *,
           header: bytes | None = None, normal: bool = True, newer: bool = True, gap: bool = True) -> Known:  # fmt: skip
    """Write one time point as a mosaic; reverse: slices follow each other against the normal of rows and columns."""
    count, rows, columns = pixels.shape
    side = int(np.ceil(np.sqrt(count)))
    plane = np.zeros((side * rows, side * columns), np.uint16)
    for index in range(count):
        top, left = index // side * rows, index % side * columns
        plane[top : top + rows, left : left + columns] = pixels[index]
    dataset = base("MR", "MRN0001", "2.25.600", f"2.25.600.{number}")
    put_pixels(dataset, plane, bits_stored=12)
    dataset.Manufacturer, dataset.ImageType = "SIEMENS", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.AcquisitionNumber = 3, number, number
    dataset.AcquisitionTime = f"1010{10 + number}.5"
    row, column = np.array(turn[:3]), np.array(turn[3:])
    across = np.cross(row, column) * (-1 if reverse else 1)
    corner = np.array(ORIGIN) - row * SPACING[0] * (side - 1) * columns / 2 - column * SPACING[1] * (side - 1) * rows / 2
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [f"{x:.8f}" for x in corner], [f"{x:.8f}" for x in turn]
    dataset.PixelSpacing, dataset.SliceThickness = [SPACING[1], SPACING[0]], 4.0
    if gap:
        dataset.SpacingBetweenSlices = SPACING[2]
    tags = {"EchoLinePosition": ["32"], "NumberOfImagesInMosaic": [str(count)]} | (
        {"SliceNormalVector": [f"{x:.8f}" for x in across]} if normal else {}
    )
    put_csa(dataset, csa(tags) if header is None else header)
    save(dataset, path)
    affine = affine_of(SPACING, ORIGIN, turn)
    affine[:3, 2] *= -1 if reverse else 1
    return Known(pixels.astype(np.float64), affine)


def put_csa(dataset: Dataset, content: bytes) -> None:
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", content + b"\0" * (len(content) % 2))
    block.add_new(0x08, "CS", "IMAGE NUM 4")


PIXELS = [phantom(7, 24, 32, seed=seed).astype(np.uint16) & 0x0FFF for seed in range(3)]
fault("a mosaic", "readable")(lambda folder: [mosaic(folder / "one", PIXELS[0])])
fault("an oblique mosaic", "readable")(lambda folder: [mosaic(folder / "one", PIXELS[0], turn=OBLIQUE)])
fault("a coronal mosaic", "readable")(lambda folder: [mosaic(folder / "one", PIXELS[0], turn=CORONAL)])
fault("a mosaic whose slices run against its normal", "readable")(
    lambda folder: [mosaic(folder / "one", PIXELS[0], turn=OBLIQUE, reverse=True)]
)
fault("a time series of mosaics", "several", flags=("split_by_time",))(
    lambda folder: [mosaic(folder / f"time{9 - time}", pixels, time + 1) for time, pixels in enumerate(PIXELS)]
)


def broken(name: str, **how: object) -> None:
    def write(folder: Path) -> list[Known]:
        mosaic(folder / "one", PIXELS[0], **how)  # type: ignore[arg-type]
        return []

    fault(name, "refuse", "mosaic")(write)


broken("a mosaic without the normal of its slices", normal=False)
broken("a mosaic without the distance of its slices", gap=False)
broken("a mosaic with a private header cut short", header=csa({"NumberOfImagesInMosaic": ["7"]})[:150])
broken("a mosaic with a private header of another version", header=csa({"NumberOfImagesInMosaic": ["7"]})[8:])
broken("a mosaic with an absurd private header", header=b"SV10\4\3\2\1" + b"\xff" * 400)

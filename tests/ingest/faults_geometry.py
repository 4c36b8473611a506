"""Faults of where slices lie and which of them belong together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from tests.ingest.faults import Known, affine_of, fault, slab
from tests.ingest.scanner import AXIAL, SPACING, base, change_to, item, phantom, put_pixels, save, series

CORONAL, SAGITTAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0), (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
SHUFFLED = (4, 1, 6, 0, 7, 2, 5, 3)
Z = [30 + SPACING[2] * index for index in range(8)]


def places(heights: list[float]) -> list[tuple[float, float, float]]:
    return [(-10.0, -20.0, height) for height in heights]


def set_each(field: str, values: Callable[[int], Any]) -> Callable[[Dataset, int], None]:
    return lambda dataset, index: setattr(dataset, field, values(index))


def drop(field: str) -> Callable[[Dataset, int], None]:
    return lambda dataset, _: delattr(dataset, field)


def plain(name: str, *, flags: tuple[str, ...] = (), **how: Any) -> None:
    """A readable series with something unusual about it."""
    fault(name, "readable", flags=flags)(lambda folder: [slab(folder, **how)])


def broken(name: str, reason: str, kind: str = "refuse", **how: Any) -> None:
    """A series that must be refused as a whole."""

    def write(folder: Path) -> list[Known]:
        series(folder, **how)
        return []

    fault(name, kind, reason)(write)  # type: ignore[arg-type]


def pair(name: str, field: str, *values: Any, flags: tuple[str, ...] = (), modality: str = "MR") -> None:
    """One series that holds several stacks at the same places, told apart by a field."""

    def write(folder: Path) -> list[Known]:
        return [
            slab(folder, phantom(seed=which), modality=modality, change=change_to(**{field: value}), first=8 * which)
            for which, value in enumerate(values)
        ]

    fault(name, "several", flags=flags)(write)


plain("nothing wrong")
plain("files in reverse", names=lambda index: f"{99 - index:03d}")
plain("file names shuffled", names=lambda index: f"{SHUFFLED[index]:03d}")
plain("no file name extension, deep folders", names=lambda index: f"a/{index % 3}/{index}")
plain("InstanceNumber reversed", change=set_each("InstanceNumber", lambda index: 8 - index))
plain("InstanceNumber shuffled", change=set_each("InstanceNumber", lambda index: SHUFFLED[index]))
plain("InstanceNumber absent", change=drop("InstanceNumber"))
plain("InstanceNumber the same", change=change_to(InstanceNumber=1))
plain("coronal", orientation=CORONAL)
plain("sagittal", orientation=SAGITTAL)
plain("feet first, prone", orientation=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
plain("slices written from top to bottom", positions=None, orientation=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
plain("anisotropic pixels", spacing=(0.4, 1.7, 3.0))
plain("frame of reference of every slice its own", change=set_each("FrameOfReferenceUID", lambda index: f"1.2.3.{index}"))
plain("positions rounded to 0.01 mm", positions=places([round(z + 0.004 * (-1) ** k, 3) for k, z in enumerate(Z)]))


@fault("oblique", "readable")
def oblique(folder: Path) -> list[Known]:
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    return [slab(folder, orientation=(*turn[:, 0], *turn[:, 1]))]


@fault("orientation jitters about a rounding border", "readable")
def jitter(folder: Path) -> list[Known]:
    turns = [np.arcsin(0.1235 + 2e-6 * (-1) ** index) for index in range(8)]
    across = [[0.0, np.cos(turn), np.sin(turn)] for turn in turns]
    middle = (1.0, 0.0, 0.0, 0.0, float(np.cos(np.arcsin(0.1235))), 0.1235)
    return [slab(folder, orientation=middle, change=set_each("ImageOrientationPatient", lambda index: [1, 0, 0, *across[index]]))]


@fault("pixel spacing jitters about a rounding border", "readable")
def spacing_jitter(folder: Path) -> list[Known]:
    return [
        slab(folder, spacing=(0.78125, 0.78125, 2.5), change=set_each("PixelSpacing", lambda index: [0.78125 + 2e-6 * (index % 2)] * 2))
    ]


@fault("one series in two folders, another in between", "readable")
def scattered(folder: Path) -> list[Known]:
    known = slab(folder, names=lambda index: f"{'ab'[index % 2]}/{index}")
    return [known, slab(folder / "a", phantom(seed=1), uid="2.25.101", names=lambda index: f"other{index}")]


broken("one slice missing", "missing_slices", pixels=phantom()[:7], positions=places(Z[:3] + Z[4:]))
broken("two slices missing", "missing_slices", pixels=phantom()[:6], positions=places(Z[:2] + Z[3:5] + Z[6:]))
broken("three slices in a row missing", "missing_slices", pixels=phantom()[:5], positions=places(Z[:2] + Z[5:]))
broken("distance grows", "variable_spacing", positions=places([30 + 2.5 * k + 0.05 * k * k for k in range(8)]))
broken("thin and thick slices", "variable_spacing", positions=places([30.0, 31, 32, 33, 38.3, 43.6, 48.9, 54.2]))
broken("a slice moved in its plane", "shifted_slices", positions=[(-10.0 + 3 * (k == 4), -20.0, z) for k, z in enumerate(Z)])
broken("no positions", "no_geometry", change=drop("ImagePositionPatient"))
broken("no orientation", "no_geometry", change=drop("ImageOrientationPatient"))
broken("no pixel spacing", "no_geometry", change=drop("PixelSpacing"))
broken("orientation that is none", "no_geometry", change=change_to(ImageOrientationPatient=[1, 0, 0, 0.7, 0.7, 0]))
broken("pixel spacing of 0", "no_geometry", change=change_to(PixelSpacing=[0, 0.8]))
broken("a single slice", "single_slice", "policy", pixels=phantom(1))
broken("derived images", "derived", "policy", change=change_to(ImageType=["DERIVED", "SECONDARY", "MPR"]))
broken("secondary captures", "secondary_capture", "policy", change=change_to(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT"))
broken("text burned in", "burned_in_annotation", "policy", change=change_to(BurnedInAnnotation="YES"))


@fault("the same file twice", "readable", "duplicate_slice")
def same_twice(folder: Path) -> list[Known]:
    series(folder / "again", phantom()[3:4], positions=places(Z[3:4]), first=3)
    return [slab(folder)]


@fault("a slice exported twice under two names", "readable", "duplicate_slice")
def copied(folder: Path) -> list[Known]:
    series(folder / "again", phantom()[3:5], positions=places(Z[3:5]), first=20)
    return [slab(folder)]


@fault("two different slices at one place", "refuse", "ambiguous_positions")
def two_at_one_place(folder: Path) -> list[Known]:
    series(folder, phantom())
    series(folder, phantom(seed=1)[3:4], positions=places(Z[3:4]), first=20)
    return []


@fault("two different images under one UID", "refuse", "conflicting_copies")
def conflict(folder: Path) -> list[Known]:
    series(folder / "a", phantom())
    series(folder / "b", phantom(seed=1)[3:4], positions=places(Z[3:4]), first=3)
    return []


def tilt(name: str, turn: tuple[float, ...], step: tuple[float, ...]) -> None:
    """Slices that lie slanted to the direction in which they follow each other."""

    def field(lps: np.ndarray) -> np.ndarray:
        return 1500 + 400 * np.sin(lps[..., 0] / 9) + 300 * np.cos(lps[..., 1] / 7) + 200 * np.sin(lps[..., 2] / 11)

    def write(folder: Path) -> list[Known]:
        affine = affine_of(orientation=turn)
        affine[:3, 2] = np.array(step) * (-1, -1, 1)
        z, y, x = np.mgrid[0:10, 0:40, 0:36]
        world = (np.stack([x, y, z], -1) @ affine[:3, :3].T + affine[:3, 3]) * (-1, -1, 1)
        pixels = np.rint(field(world)).astype(np.int16)
        positions = [tuple(np.array([-10.0, -20.0, 30.0]) + np.array(step) * index) for index in range(10)]
        series(folder, pixels, orientation=turn, positions=positions)  # type: ignore[arg-type]
        return [Known(pixels - 1024.0, affine, field=lambda lps: field(lps) - 1024)]

    fault(name, "readable", flags=("gantry_tilt_corrected",))(write)


TILT = np.deg2rad(15)
tilt("gantry tilt of 15 degrees", (1, 0, 0, 0, float(np.cos(TILT)), float(np.sin(TILT))), (0.0, 0.0, 2.5))
tilt("gantry tilt of -6 degrees", (1, 0, 0, 0, float(np.cos(TILT / 2.5)), -float(np.sin(TILT / 2.5))), (0.0, 0.0, 2.5))
tilt("slices that drift sideways", AXIAL, (0.5, 0.0, 2.5))

pair("two echo times", "EchoTime", 10, 20)
pair("two echo numbers", "EchoNumbers", 1, 2)
pair("two b-values", "DiffusionBValue", 0.0, 800.0)
pair("three diffusion directions", "DiffusionGradientOrientation", [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
pair("magnitude and phase", "ImageType", ["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])
pair("real and imaginary parts", "ComplexImageComponent", "REAL", "IMAGINARY")
pair("two patients of one SeriesInstanceUID", "PatientID", "MRN0001", "MRN0002", modality="CT")
pair("two frames of reference", "FrameOfReferenceUID", "1.2.3", "1.2.4", modality="CT")
pair("two kernels", "ConvolutionKernel", "B30f", "B70f", modality="CT")
pair("two tube voltages", "KVP", 80, 140, modality="CT")
pair("time points by number", "TemporalPositionIdentifier", 1, 2, 3, flags=("split_by_time",))
pair("time points by acquisition", "AcquisitionNumber", 1, 2, 3, flags=("split_by_time",))
pair("heart phases by trigger time", "TriggerTime", 0, 40, 80, flags=("split_by_time",))
pair("inversion times", "InversionTime", 100, 500, 900, flags=("split_by_time",))
pair("time points by InstanceNumber alone", "SeriesDescription", "x", "x", flags=("split_by_time",))


@fault("time points by the clock, InstanceNumber shuffled", "several", flags=("split_by_time",))
def by_the_clock(folder: Path) -> list[Known]:
    order = np.random.default_rng(0).permutation(16)

    def change(which: int) -> Callable[[Dataset, int], None]:
        def stamp(dataset: Dataset, index: int) -> None:
            dataset.InstanceNumber = int(order[8 * which + index])
            dataset.AcquisitionTime = f"1010{10 + 20 * which + index}.5"

        return stamp

    return [slab(folder, phantom(seed=which), modality="MR", change=change(which), first=8 * which) for which in range(2)]


@fault("time points and nothing that tells them apart", "refuse", "ambiguous_positions")
def shuffled_times(folder: Path) -> list[Known]:
    order = np.random.default_rng(0).permutation(16)
    for which in range(2):
        number = set_each("InstanceNumber", lambda index, which=which: int(order[8 * which + index]))
        series(folder, phantom(seed=which), modality="MR", change=number, first=8 * which)
    return []


@fault("time points with empty end slices", "several", flags=("split_by_time",))
def empty_ends(folder: Path) -> list[Known]:
    pixels = [phantom(seed=which) for which in range(3)]
    for one in pixels:
        one[0] = 0
    return [
        slab(folder, one, modality="MR", change=change_to(TemporalPositionIdentifier=which), first=8 * which)
        for which, one in enumerate(pixels)
    ]


@fault("three orientations in one series", "several")
def three_ways(folder: Path) -> list[Known]:
    return [
        slab(folder, phantom(5, seed=which), orientation=turn, first=5 * which)
        for which, turn in enumerate((AXIAL, CORONAL, SAGITTAL))
    ]  # fmt: skip


@fault("a localizer inside the series", "policy", "localizer")
def localizer(folder: Path) -> list[Known]:
    series(folder, phantom(1), orientation=CORONAL, change=change_to(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), first=20)
    return [slab(folder)]


@fault("one slice of another orientation in the series", "policy", "single_slice")
def stray(folder: Path) -> list[Known]:
    series(folder, phantom(1), orientation=SAGITTAL, first=20)
    return [slab(folder)]


@fault("two matrix sizes", "several")
def two_sizes(folder: Path) -> list[Known]:
    return [slab(folder), slab(folder, phantom(8, 24, 20), first=8)]


@fault("two pixel spacings", "several")
def two_spacings(folder: Path) -> list[Known]:
    return [slab(folder), slab(folder, phantom(seed=1), spacing=(0.5, 0.5, 2.5), first=8)]


@fault("two kernels, one half a slice above the other", "several")
def interleaved(folder: Path) -> list[Known]:
    sharp, soft = (change_to(ConvolutionKernel=kernel) for kernel in ("B70f", "B30f"))
    return [slab(folder, change=soft), slab(folder, phantom(seed=1), change=sharp, origin=(-10.0, -20.0, 31.25), first=8)]


@fault("two acquisitions, one above the other", "several", flags=("split_by_acquisition",))
def apart(folder: Path) -> list[Known]:
    first, second = (change_to(AcquisitionNumber=number) for number in (1, 2))
    return [slab(folder, change=first), slab(folder, phantom(seed=1), origin=(-10.0, -20.0, 91.7), change=second, first=8)]


@fault("objects that are no images beside it", "policy", "structured_report", "segmentation_object", "radiotherapy_object",
       "key_objects", "presentation_state")  # fmt: skip
def no_images(folder: Path) -> list[Known]:
    for number, (modality, sop) in enumerate(
        [("SR", "88.33"), ("SEG", "66.4"), ("RTSTRUCT", "481.3"), ("RTDOSE", "481.2"), ("KO", "88.59"), ("PR", "11.1")]
    ):
        dataset = base("CT", "MRN0001", "2.25.100", f"2.25.55.{number}")
        dataset.Modality = modality
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.{sop}"
        if modality in ("SEG", "RTDOSE"):
            put_pixels(dataset, phantom(1)[0])
        dataset.ContentSequence = [item(TextValue="nothing")]
        save(dataset, folder / f"object{number}")
    return [slab(folder)]

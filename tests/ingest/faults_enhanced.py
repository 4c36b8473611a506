"""Faults of enhanced multi-frame objects: CT, MR and PET whose geometry and scaling are told frame by frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from tests.ingest.faults import Kind, Known, affine_of, fault
from tests.ingest.faults_geometry import CORONAL, SAGITTAL
from tests.ingest.scanner import AXIAL, ORIGIN, SPACING, Change, enhanced, functional_group, item, phantom

Frames = list[tuple[np.ndarray, Dataset]]


def scale(slope: float = 1.0, intercept: float = 0.0, kind: str = "US") -> Dataset:
    return item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType=kind)


def stack(pixels: np.ndarray, turn: tuple[float, ...] = AXIAL, scaling: Dataset | None = None, **macros: Dataset) -> Frames:
    """Planes with their functional groups, in order."""
    across = np.cross(turn[:3], turn[3:])
    macros["PixelValueTransformationSequence"] = scaling or scale()
    return [
        (plane, functional_group(tuple(np.array(ORIGIN) + across * SPACING[2] * index), turn, **macros))
        for index, plane in enumerate(pixels)
    ]  # fmt: skip


def write_frames(folder: Path, frames: Frames, modality: str = "MR", change: Change | None = None) -> None:
    """One file with these frames in random order."""
    order = np.random.default_rng(0).permutation(len(frames))
    folder.mkdir(parents=True, exist_ok=True)
    planes = np.stack([frames[place][0] for place in order]).astype(np.uint16)
    enhanced(folder / "frames", planes, [frames[place][1] for place in order], modality, change)


def readable(name: str, modality: str, real: Any, frames: Frames, *, flags: tuple[str, ...] = (), units: str = "arbitrary") -> None:
    def write(folder: Path) -> list[Known]:
        write_frames(folder, frames, modality)
        return [Known(np.asarray(real, np.float64), affine_of())]

    fault(name, "readable", flags=flags, units=units)(write)


def several(name: str, parts: list[Frames], turns: tuple[tuple[float, ...], ...] = (), flags: tuple[str, ...] = ()) -> None:
    """One file that holds several stacks, its frames in random order."""

    def write(folder: Path) -> list[Known]:
        write_frames(folder, [frame for part in parts for frame in part])
        where = [affine_of(orientation=turn) for turn in turns] or [affine_of()] * len(parts)
        return [Known(np.stack([plane for plane, _ in part]).astype(np.float64), affine) for part, affine in zip(parts, where, strict=True)]

    fault(name, "several", flags=flags)(write)


def broken(name: str, reason: str, frames: Frames, kind: Kind = "refuse", change: Change | None = None) -> None:
    def write(folder: Path) -> list[Known]:
        write_frames(folder, frames, change=change)
        return []

    fault(name, kind, reason)(write)


PLANES = [phantom(6, seed=seed) for seed in range(3)]
SLOPES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5)


def of_time(**macro: Any) -> list[Frames]:
    """Three time points; the keyword is a sequence, its value the field of it that tells the time."""
    ((sequence, field),) = macro.items()
    return [stack(planes, **{sequence: item(**{field: 1 + 40 * which})}) for which, planes in enumerate(PLANES)]


each = [frame for index, slope in enumerate(SLOPES) for frame in [stack(PLANES[0], scaling=scale(slope, 3.0))[index]]]
readable("enhanced MR, frames shuffled, a slope for every frame", "MR", PLANES[0] * np.array(SLOPES)[:, None, None] + 3, each)
readable("enhanced CT", "CT", PLANES[0] - 1024.0, stack(PLANES[0], scaling=scale(1, -1024, "HU")), units="HU")
readable("enhanced CT without rescale", "CT", PLANES[0], stack(PLANES[0]), flags=("no_hounsfield_rescale",))
readable("enhanced PET", "PT", PLANES[0] * 0.5, stack(PLANES[0], scaling=scale(0.5)), flags=("no_suv",))
derived = item(FrameType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"])
original = item(FrameType=["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"])
mixed = stack(PLANES[0], MRImageFrameTypeSequence=original) + stack(PLANES[1], MRImageFrameTypeSequence=derived)
readable("enhanced MR with a derived map among its frames", "MR", PLANES[0], mixed)

several(
    "enhanced, two stacks by name",
    [stack(planes, FrameContentSequence=item(StackID=name)) for planes, name in zip(PLANES[:2], "12", strict=True)],
)
several(
    "enhanced, three orientations",
    [stack(planes, turn) for planes, turn in zip(PLANES, (AXIAL, CORONAL, SAGITTAL), strict=True)],
    (AXIAL, CORONAL, SAGITTAL),
)
several(
    "enhanced, two echo times",
    [stack(planes, MREchoSequence=item(EffectiveEchoTime=time)) for planes, time in zip(PLANES[:2], (5.0, 10.0), strict=True)],
)
several(
    "enhanced, two b-values",
    [stack(planes, MRDiffusionSequence=item(DiffusionBValue=b)) for planes, b in zip(PLANES[:2], (0.0, 800.0), strict=True)],
)
several("enhanced, magnitude and phase", [
    stack(planes, MRImageFrameTypeSequence=item(FrameType=["ORIGINAL", "PRIMARY", "ANGIO", "NONE"], ComplexImageComponent=part))
    for planes, part in zip(PLANES[:2], ("MAGNITUDE", "PHASE"), strict=True)
])  # fmt: skip
several("enhanced, time points by index", of_time(FrameContentSequence="TemporalPositionIndex"), flags=("split_by_time",))
several("enhanced, time points by offset", of_time(TemporalPositionSequence="TemporalPositionTimeOffset"), flags=("split_by_time",))
several("enhanced, heart phases", of_time(CardiacSynchronizationSequence="NominalCardiacTriggerDelayTime"), flags=("split_by_time",))
broken("enhanced, times and nothing that tells them apart", "ambiguous_positions", [frame for planes in PLANES for frame in stack(planes)])

broken("enhanced, a frame missing", "missing_slices", stack(PLANES[0])[:3] + stack(PLANES[0])[4:])
broken("enhanced, a slope of 0 in one frame", "rescale_slope_zero", stack(PLANES[0])[:5] + stack(PLANES[0], scaling=scale(0.0))[5:])
broken("enhanced, all frames derived", "derived", stack(PLANES[0], MRImageFrameTypeSequence=derived), "policy")


def fewer_groups(dataset: Dataset, _: int) -> None:
    dataset.PerFrameFunctionalGroupsSequence = list(dataset.PerFrameFunctionalGroupsSequence)[:-1]


def no_groups(dataset: Dataset, _: int) -> None:
    del dataset.PerFrameFunctionalGroupsSequence


def no_place(dataset: Dataset, _: int) -> None:
    for group in dataset.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence


broken("enhanced, fewer groups than frames", "bad_header", stack(PLANES[0]), change=fewer_groups)
broken("enhanced without functional groups", "no_geometry", stack(PLANES[0]), change=no_groups)
broken("enhanced without positions", "no_geometry", stack(PLANES[0]), change=no_place)

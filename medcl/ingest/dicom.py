"""The door to DICOM: groups of frames to volumes, single frames to pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from medcl.foundation.types import Units, Volume
from medcl.ingest.burned_in import text_flags
from medcl.ingest.dicom_frames import PICTURE_MODALITIES, modality_of, read_frames, shows_phase
from medcl.ingest.dicom_header import Frame, quiet_pydicom
from medcl.ingest.dicom_pixels import grey_values, real_values, stored_values
from medcl.ingest.dicom_series import Stack, stacks
from medcl.ingest.dicom_tilt import straighten, tilt_degrees
from medcl.ingest.ledger import Fate, Refused
from medcl.ingest.records import Facts, Identity, Outcome, Scan, Source, describe
from medcl.ingest.settings import IngestConfig

_STORAGE = ("bits_allocated", "bits_stored", "high_bit", "signed", "photometric", "float_type", "has_modality_lut")


def is_picture(frame: Frame) -> bool:
    """Whether a frame stands alone (X-ray, ultrasound) and is not stacked."""
    return frame.header.modality in PICTURE_MODALITIES


def read_group(frames: list[Frame], config: IngestConfig, flags: tuple[str, ...] = ()) -> Outcome:
    """Volumes of one group of frames (see dicom_series.group). Never raises Refused: every file gets its fate.

    flags: doubts about the whole group, added to every volume.
    """
    outcome = Outcome()
    try:
        found, dropped = _ordered(frames, config)
        scans = [_volume_scan(stack, config, flags) for stack in found]
    except Refused as refusal:
        outcome.fates = [_blame(path, refusal) for path in _paths(frames)]
        return outcome
    outcome.scans = scans
    used = {frame.header.path for stack in found for frame in stack.frames}
    for stack, scan in zip(found, scans, strict=True):
        outcome.fates += [Fate(path, "ok", volume=scan.identity.volume) for path in _paths(stack.frames)]
    outcome.fates += [Fate(drop.frame.header.path, drop.reason) for drop in dropped if drop.frame.header.path not in used]
    return outcome


def _blame(path: str, refusal: Refused) -> Fate:
    """The file that broke the stack gets the reason, the others point to it; a flaw of the whole stack is everyone's."""
    if refusal.path and refusal.path != path:
        return Fate(path, "stack_broken")
    return Fate(path, refusal.reason, refusal.detail)


def read_pictures(frames: list[Frame], config: IngestConfig) -> Iterator[Scan]:
    """One picture per frame of a file. Raises Refused. What is burned into the first frame is taken to be in all of them."""
    burned: tuple[str, ...] = ()
    for frame in frames:
        volume, flags = _picture(frame)
        burned = text_flags(volume.array) if frame is frames[0] else burned
        identity = _identity([frame], f"{frame.header.instance or frame.header.relative}#{frame.number}")
        facts = _facts(frame, frame.number, (*frame.header.flags, *flags, *burned))
        yield describe(volume, identity, _source([frame], volume, config, 0), facts)


def read_again(source: Source, config: IngestConfig) -> Volume:
    """The volume that `source` describes, from its files."""
    config = config.model_copy(
        update={"tilt": source.detail["tilt"], "keep_derived": True, "keep_localizers": True, "keep_burned_in": True}
    )
    with quiet_pydicom():
        by_path = {path: read_frames(path, path, config) for path in source.paths}
    frames = [by_path[source.paths[place]][number] for place, number in source.detail["frames"]]
    if source.detail["kind"] == "picture":
        return _picture(frames[0])[0]
    found, _ = stacks(frames, _digest)
    return _volume(found[0], config)[0]


def _ordered(frames: list[Frame], config: IngestConfig) -> tuple[list[Stack], list[Any]]:
    if len(frames) == 1:
        raise Refused("single_slice")
    found, dropped = stacks(frames, _digest)
    _check_agreement(frames)
    for stack in found:
        if len(stack.frames) < config.min_slices:
            raise Refused("too_few_slices", f"{len(stack.frames)} slices")
        if any(stack.shear_mm) and config.tilt == "refuse":
            raise Refused("gantry_tilt", f"{tilt_degrees(stack):.2f} degrees")
    return found, dropped


def _check_agreement(frames: list[Frame]) -> None:
    """Raise Refused where one slice is stored or scaled in another way than its companions: a damaged header, as a rule."""
    first = frames[0].header
    for frame in frames:
        pixels, known = frame.header.pixels, frame.header.facts
        storage = [name for name in _STORAGE if getattr(pixels, name) != getattr(first.pixels, name)]
        scaling = [name for name in ("hounsfield", "suv_factor") if known[name] != first.facts[name]]
        if storage or scaling:
            raise Refused("inconsistent_headers", ", ".join(storage + scaling))


def _volume_scan(stack: Stack, config: IngestConfig, group_flags: tuple[str, ...]) -> Scan:
    volume, flags = _volume(stack, config)
    first = stack.frames[0]
    names = sorted(f"{frame.header.instance or frame.header.relative}#{frame.number}" for frame in stack.frames)
    identity = _identity(stack.frames, hashlib.sha256("\n".join(names).encode()).hexdigest())
    phase = ("phase_image",) if shows_phase(first) else ()
    facts = _facts(first, stack.time_index, (*first.header.flags, *stack.flags, *flags, *group_flags, *phase))
    if any(stack.shear_mm):
        facts.sequence["gantry_tilt_deg"] = round(tilt_degrees(stack), 3)
    return describe(volume, identity, _source(stack.frames, volume, config, stack.time_index), facts)


def _volume(stack: Stack, config: IngestConfig) -> tuple[Volume, list[str]]:
    values = voxels(stack)
    if values.max() == values.min():
        raise Refused("blank")
    header = stack.frames[0].header
    units, flags = _units(stack)
    if units == "SUV" and header.facts["suv_factor"] != 1.0:
        values = (values * np.float32(header.facts["suv_factor"])).astype(np.float32)
    affine = stack.affine
    if any(stack.shear_mm) and config.tilt == "correct":
        values, affine = straighten(values, stack)
        flags.append("gantry_tilt_corrected")
    elif any(stack.shear_mm):
        flags.append("sheared")
    return Volume(values, affine, modality_of(header), units), flags


def voxels(stack: Stack) -> np.ndarray:
    """(columns, rows, slices) values in the header's units, each slice rescaled by its own slope and intercept."""
    first = _slice(stack.frames[0])
    whole = np.empty((len(stack.frames), *first.shape), dtype=first.dtype)
    for index, frame in enumerate(stack.frames):
        values = first if index == 0 else _slice(frame)
        if values.dtype != whole.dtype:
            whole = whole.astype(np.float32)
        whole[index] = values
    return whole.transpose(2, 1, 0)


def _slice(frame: Frame) -> np.ndarray:
    try:
        return real_values(stored_values(frame), frame)
    except Refused as refusal:
        refusal.path = frame.header.path
        raise


def _units(stack: Stack) -> tuple[Units, list[str]]:
    header = stack.frames[0].header
    if header.modality == "CT":
        # CT scanners scale every slice alike; PET and MR do not
        flags = ["rescale_varies"] if len({(frame.slope, frame.intercept) for frame in stack.frames}) > 1 else []
        return ("HU", flags) if header.facts["hounsfield"] else ("arbitrary", [*flags, "no_hounsfield_rescale"])
    if header.modality == "PT":
        return ("SUV", []) if header.facts["suv_factor"] else ("arbitrary", ["no_suv"])
    return "arbitrary", []


def _picture(frame: Frame) -> tuple[Volume, tuple[str, ...]]:
    values, flags = grey_values(frame)
    if values.max() == values.min():
        raise Refused("blank")
    spacing = frame.spacing or (1.0, 1.0)
    affine = np.diag([spacing[1], spacing[0], 1.0, 1.0])
    flags = flags if frame.spacing else (*flags, "spacing_unknown")
    return Volume(np.ascontiguousarray(values.T)[:, :, None], affine, modality_of(frame.header), "display", "picture"), flags


def _digest(frame: Frame) -> bytes:
    """Hash of a frame's pixels and scaling."""
    content = np.ascontiguousarray(_slice(frame))
    return hashlib.sha256(repr((content.shape, frame.slope, frame.intercept)).encode() + content.tobytes()).digest()


def _identity(frames: Iterable[Frame], volume: str) -> Identity:
    first = next(iter(frames))
    patient = first.header.patient
    who = patient.id or "/".join(filter(None, (patient.name, patient.birth_date))) or patient.study
    turn = tuple(round(number, 2) + 0.0 for number in first.orientation)
    stack = repr((patient.series, first.image_type, first.echo, first.b_value, first.stack, first.parameters, turn, first.spacing))
    series = patient.series or first.header.relative
    more = {"date": patient.study_date, "birth_date": patient.birth_date, "site": patient.site}
    return Identity(who, patient.study or who, series, patient.accession, first.header.relative, stack, volume, patient.words, **more)


def _facts(frame: Frame, time_index: int, flags: Iterable[str]) -> Facts:
    known = frame.header.facts
    return Facts(
        known["body_part"], dict(known["sequence"]), time_index, known["age_years"], known["sex"], known["scanner"], flags=tuple(flags)
    )


def _source(frames: Iterable[Frame], volume: Volume, config: IngestConfig, time_index: int) -> Source:
    frames = list(frames)
    paths = _paths(frames)
    places = [[paths.index(frame.header.path), frame.number] for frame in frames]
    return Source("dicom", tuple(paths), {"frames": places, "tilt": config.tilt, "kind": volume.kind, "time": time_index})


def _paths(frames: Iterable[Frame]) -> list[str]:
    return list(dict.fromkeys(frame.header.path for frame in frames))

"""From the files met to units of work: DICOM headers first, in parallel, then groups; masks and tables told apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medcl.foundation.progress import Progress
from medcl.ingest.hints import Hint, from_name, is_mask_name, laid_over
from medcl.ingest.ledger import Fate, Refused
from medcl.ingest.readers import DICOM_GROUP, DICOM_PICTURE, MASK, NIFTI, NPZ, PICTURE, Unit
from medcl.ingest.settings import IngestConfig
from medcl.ingest.sources import Met, Survey
from medcl.ingest.tables import Table
from medcl.ingest.workers import in_processes

if TYPE_CHECKING:
    from medcl.ingest.dicom_header import Frame

HEADERS_PER_TASK = 64
_FATES_BY_KIND = {"empty": "empty_file", "other": "not_an_image", "table": "not_an_image"}


@dataclass
class Plan:
    """Units to read, and the files whose fate is already known."""

    units: list[Unit] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)


@dataclass(frozen=True)
class HeaderTask:
    """Some DICOM files whose headers one process reads."""

    files: tuple[Met, ...]
    config: IngestConfig


def plan(found: Survey, tables: Sequence[Table], config: IngestConfig, jobs: int, progress: Progress) -> Plan:
    """Read DICOM headers, group them, and make a unit of every other file that is an image or a mask."""
    result = Plan(fates=list(found.fates))
    given = {os.path.realpath(table.path) for table in tables}
    by_kind: dict[str, list[Met]] = {}
    for met in found.files:
        by_kind.setdefault(met.kind, []).append(met)
    for kind, reason in _FATES_BY_KIND.items():
        for met in by_kind.get(kind, []):
            result.fates.append(Fate(met.path, "table" if os.path.realpath(met.path) in given else reason))
    _plan_dicom(by_kind.get("dicom", []), result, config, jobs, progress)
    _plan_nifti(by_kind.get("nifti", []), result, tables)
    _plan_pictures(by_kind.get("picture", []), result, tables)
    result.units += [Unit(NPZ, (met,), hint=Hint()) for met in by_kind.get("npz", [])]
    return result


def read_headers(task: HeaderTask) -> tuple[list[Frame], list[Fate]]:
    """Frames and fates of some DICOM files. Never raises."""
    from medcl.ingest.dicom_frames import read_frames

    frames: list[Frame] = []
    fates: list[Fate] = []
    for met in task.files:
        try:
            frames += read_frames(met.path, met.relative, task.config)
        except Refused as refusal:
            fates.append(Fate(met.path, refusal.reason, refusal.detail))
        except PermissionError:
            fates.append(Fate(met.path, "no_permission"))
        except Exception as error:  # one bad file must not stop the others; the code says that this one is ours
            fates.append(Fate(met.path, "unreadable" if isinstance(error, OSError | RecursionError) else "internal", type(error).__name__))
    return frames, fates


def _dead_headers(task: HeaderTask) -> tuple[list[Frame], list[Fate]]:
    return [], [Fate(met.path, "decoder_died") for met in task.files]


def _plan_dicom(files: list[Met], result: Plan, config: IngestConfig, jobs: int, progress: Progress) -> None:
    if not files:
        return
    from medcl.ingest.dicom import is_picture
    from medcl.ingest.dicom_series import group

    frames = _frames_of(files, result, config, jobs, progress)
    met_of = {met.path: met for met in files}
    pictures: dict[str, list[Frame]] = {}
    slices: list[Frame] = []
    for frame in sorted(frames, key=lambda one: (one.header.relative, one.number)):
        if is_picture(frame):
            pictures.setdefault(frame.header.path, []).append(frame)
        else:
            slices.append(frame)
    for path, shots in pictures.items():
        result.units.append(Unit(DICOM_PICTURE, (met_of[path],), tuple(shots)))
    for members in group(slices):
        paths = dict.fromkeys(frame.header.path for frame in members)
        result.units.append(Unit(DICOM_GROUP, tuple(met_of[path] for path in paths), tuple(members)))


def _frames_of(files: list[Met], result: Plan, config: IngestConfig, jobs: int, progress: Progress) -> list[Frame]:
    tasks = [HeaderTask(tuple(files[at : at + HEADERS_PER_TASK]), config) for at in range(0, len(files), HEADERS_PER_TASK)]
    frames: list[Frame] = []
    alone: list[HeaderTask] = []
    for index, (some, fates) in progress.track(in_processes(read_headers, tasks, jobs, _dead_headers), len(tasks), "reading headers"):
        if any(fate.reason == "decoder_died" for fate in fates) and len(tasks[index].files) > 1:
            alone += [HeaderTask((met,), config) for met in tasks[index].files]
            continue
        frames += some
        result.fates += fates
    for _, (some, fates) in in_processes(read_headers, alone, min(jobs, 1), _dead_headers):
        frames += some
        result.fates += fates
    return frames


def _plan_nifti(files: list[Met], result: Plan, tables: Sequence[Table]) -> None:
    paths = {met.path for met in files}
    for met in files:
        base, suffix = os.path.splitext(met.path.removesuffix(".gz"))
        zipped = ".gz" if met.path.endswith(".gz") else ""
        if suffix.lower() == ".img" and f"{base}.hdr{zipped}" in paths:
            result.fates.append(Fate(met.path, "ok", "the voxels of its .hdr"))
            continue
        reader = MASK if is_mask_name(met.relative) else NIFTI
        result.units.append(Unit(reader, (met,), hint=hint_of(met, tables)[0]))


def _plan_pictures(files: list[Met], result: Plan, tables: Sequence[Table]) -> None:
    naming = [table for table in tables if "file" in table.roles]
    for met in files:
        hint, named = hint_of(met, naming)
        if naming and not named:
            result.fates.append(Fate(met.path, "not_in_table"))
            continue
        result.units.append(Unit(PICTURE, (met,), hint=hint))


def hint_of(met: Met, tables: Sequence[Table]) -> tuple[Hint, bool]:
    """What the tables' rows, else the name, say about a file; and whether a table names it."""
    hint, named = from_name(met.relative), False
    for table in tables:
        rows = table.rows_for_file(met.path, met.relative)
        if rows:
            hint, named = laid_over(hint, table.hint(rows[0])), True
    return hint, named

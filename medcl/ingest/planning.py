"""From the files met to units of work: DICOM headers first, in parallel, then groups; masks and tables told apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from medcl.foundation.errors import UserError
from medcl.foundation.progress import Progress
from medcl.ingest.hints import Hint, from_name, is_mask_name, laid_over
from medcl.ingest.ledger import Fate, Refused
from medcl.ingest.readers import DICOM_GROUP, DICOM_PICTURE, DICOM_REPORT, MASK, NIFTI, NPZ, PICTURE, Unit
from medcl.ingest.records import Identity
from medcl.ingest.settings import Columns, IngestConfig
from medcl.ingest.sources import Met, Survey
from medcl.ingest.tables import Table, read_rows
from medcl.ingest.workers import Workers, give_time

if TYPE_CHECKING:
    from medcl.ingest.dicom_header import Frame

HEADERS_PER_TASK = 64
_FATES_BY_KIND = {"empty": "empty_file", "other": "not_an_image", "table": "not_an_image"}


@dataclass
class Plan:
    """Units to read, and the files whose fate is already known. damaged: series that lost a file to a refusal."""

    units: list[Unit] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class HeaderTask:
    """Some DICOM files whose headers one process reads."""

    files: tuple[Met, ...]
    config: IngestConfig


def plan(found: Survey, tables: Sequence[Table], config: IngestConfig, workers: Workers, progress: Progress) -> Plan:
    """Read DICOM headers, group them, and make a unit of every other file that is an image or a mask.

    BIDS' participants.tsv is read for age and sex wherever it lies among the sources.
    """
    result = Plan(fates=list(found.fates))
    tables = [*tables, *_participants(found.files)]
    given = {os.path.realpath(table.path) for table in tables}
    by_kind: dict[str, list[Met]] = {}
    for met in found.files:
        by_kind.setdefault(met.kind, []).append(met)
    for kind, reason in _FATES_BY_KIND.items():
        for met in by_kind.get(kind, []):
            result.fates.append(Fate(met.path, "table" if os.path.realpath(met.path) in given else reason))
    _plan_dicom(by_kind.get("dicom", []), result, config, workers, progress)
    _plan_nifti(by_kind.get("nifti", []), result, tables)
    _plan_pictures(by_kind.get("picture", []), result, tables)
    result.units += [Unit(NPZ, (met,), hint=Hint()) for met in by_kind.get("npz", [])]
    return result


@dataclass
class Headers:
    """What a HeaderTask came to. damaged: series that a refused file says it belongs to."""

    frames: list[Frame] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)


def read_headers(task: HeaderTask) -> Headers:
    """Frames and fates of some DICOM files. Never raises."""
    from medcl.ingest.dicom_header import quiet_pydicom

    result = Headers()
    with quiet_pydicom():
        for met in task.files:
            _read_header(met, task.config, result)
    return result


def _read_header(met: Met, config: IngestConfig, result: Headers) -> None:
    from medcl.ingest.dicom_frames import read_frames

    try:
        give_time(os.path.getsize(met.path))
        result.frames += read_frames(met.path, met.relative, config)
    except Refused as refusal:
        result.fates.append(Fate(met.path, refusal.reason, refusal.detail))
        result.damaged |= {refusal.series} if refusal.series else set()
    except PermissionError:
        result.fates.append(Fate(met.path, "no_permission"))
    except Exception as error:  # one bad file must not stop the others; the code says that this one is ours
        known = isinstance(error, OSError | RecursionError)
        result.fates.append(Fate(met.path, "unreadable" if known else "internal", type(error).__name__))


def _dead_headers(task: HeaderTask) -> Headers:
    return Headers(fates=[Fate(met.path, "decoder_died") for met in task.files])


def _plan_dicom(files: list[Met], result: Plan, config: IngestConfig, workers: Workers, progress: Progress) -> None:
    if not files:
        return
    from medcl.ingest.dicom import is_picture
    from medcl.ingest.dicom_series import group

    frames = _frames_of(files, result, config, workers, progress)
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
        flags = ("series_lost_a_file",) if members[0].header.patient.series in result.damaged else ()
        result.units.append(Unit(DICOM_GROUP, tuple(met_of[path] for path in paths), tuple(members), flags=flags))


def _frames_of(files: list[Met], result: Plan, config: IngestConfig, workers: Workers, progress: Progress) -> list[Frame]:
    tasks = [HeaderTask(tuple(files[at : at + HEADERS_PER_TASK]), config) for at in range(0, len(files), HEADERS_PER_TASK)]
    done: list[Headers] = []
    alone: list[HeaderTask] = []
    for index, headers in progress.track(workers.work(read_headers, tasks, _dead_headers), len(tasks), "reading headers"):
        if any(fate.reason == "decoder_died" for fate in headers.fates) and len(tasks[index].files) > 1:
            alone += [HeaderTask((met,), config) for met in tasks[index].files]
        else:
            done.append(headers)
    done += [headers for _, headers in workers.work(read_headers, alone, _dead_headers)]
    met_of = {met.path: met for met in files}
    for headers in done:
        result.units += [Unit(DICOM_REPORT, (met_of[fate.path],)) for fate in headers.fates if fate.reason == "structured_report"]
        result.fates += [fate for fate in headers.fates if fate.reason != "structured_report"]
        result.damaged |= headers.damaged
    return [frame for headers in done for frame in headers.frames]


def _plan_nifti(files: list[Met], result: Plan, tables: Sequence[Table]) -> None:
    met_of = {met.path: met for met in files}
    halves = {header: met_of.pop(data) for header, data in ((met.path, _data_path(met.path)) for met in files) if data in met_of}
    for met in met_of.values():
        both = (met, halves[met.path]) if met.path in halves else (met,)
        reader = MASK if is_mask_name(met.relative) else NIFTI
        result.units.append(Unit(reader, both, hint=hint_of(met, tables)[0]))


def _data_path(path: str) -> str:
    """Where the voxels of a .hdr lie; empty for any other file."""
    zipped = path[-3:] if path.lower().endswith(".gz") else ""
    base, suffix = os.path.splitext(path.removesuffix(zipped))
    return f"{base}{'.img' if suffix == '.hdr' else '.IMG'}{zipped}" if suffix.lower() == ".hdr" else ""


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
            continue
        _, rows = table.rows_for(Identity(hint.patient, hint.study))
        if rows and "file" not in table.roles:
            hint = laid_over(replace(table.hint(rows[0]), modality=""), hint)
    return hint, named


def _participants(files: Sequence[Met]) -> list[Table]:
    found = []
    for met in files:
        if os.path.basename(met.path).lower() == "participants.tsv":
            with suppress(UserError):
                found.append(read_rows(met.path, Columns(), ("patient",), "BIDS"))
    return found

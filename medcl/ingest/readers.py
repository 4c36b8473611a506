"""Which reader reads what: units of work that end in scans and a fate for every file, whatever the files hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from medcl.foundation.errors import UserError
from medcl.foundation.types import Volume
from medcl.ingest.duplicates import pixel_hash
from medcl.ingest.hints import Hint
from medcl.ingest.journal import key_of, worth_keeping
from medcl.ingest.ledger import Fate, Refused
from medcl.ingest.masks import Mask
from medcl.ingest.plain import to_text
from medcl.ingest.records import Outcome, Scan, Source, Written
from medcl.ingest.settings import IngestConfig
from medcl.ingest.sources import Met
from medcl.ingest.workers import give_memory, give_time

if TYPE_CHECKING:
    from medcl.ingest.dicom_header import Frame

DICOM_GROUP, DICOM_PICTURE, NIFTI, MASK, PICTURE, NPZ = "dicom_group", "dicom_picture", "nifti", "mask", "picture", "npz"
DICOM_REPORT = "dicom_report"


@dataclass(frozen=True)
class Unit:
    """What one process reads in one go: a DICOM series, or one file (.hdr and .img: both) of another kind.

    headers: a text per DICOM file, see headers.py; frames: the same, taken up.
    """

    reader: str
    files: tuple[Met, ...]
    headers: tuple[str, ...] = ()
    frames: tuple[Frame, ...] = ()
    hint: Hint = field(default_factory=Hint)
    flags: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What its result is kept under: all that it depends on but the settings. Headers follow from the files."""
        return key_of(self.reader, repr(self.hint), *self.flags, *(met.key for met in self.files))


@dataclass
class UnitResult:
    """Scans, fates and, of a mask, its grid; of a structured report, its text."""

    outcome: Outcome
    mask: Mask | None = None
    report: Written | None = None


def read_unit(unit: Unit, config: IngestConfig, keep_voxels: bool = False) -> UnitResult:
    """Read one unit. Never raises: what goes wrong becomes the fate of its files."""
    try:
        parts = parts_of(unit)
    except Exception as error:
        return refused(unit, "internal", type(error).__name__)
    return joined([_read_part(part, config, keep_voxels) for part in parts])


def read_as_text(unit: Unit, config: IngestConfig) -> tuple[str, bool]:
    """`read_unit` as a line for the journal, small whatever the volumes' size; and whether to keep it for another run."""
    result = read_unit(unit, config)
    return to_text(result), worth_keeping(fate.reason for fate in result.outcome.fates)


def parts_of(unit: Unit) -> list[Unit]:
    """What fails by itself: a part for each group of a series' frames (see dicom_series.group); any other unit is one."""
    if not unit.headers:
        return [unit]
    from medcl.ingest.dicom_series import group
    from medcl.ingest.headers import frames_of

    frames = frames_of(unit.headers)
    met_of = {met.path: met for met in unit.files}
    found = [frames] if unit.reader == DICOM_PICTURE else group(frames)
    paths = [dict.fromkeys(frame.header.path for frame in members) for members in found]
    return [
        replace(unit, files=tuple(met_of[path] for path in own), headers=(), frames=tuple(members))
        for own, members in zip(paths, found, strict=True)
    ]


def joined(results: Sequence[UnitResult]) -> UnitResult:
    """The results of a unit's parts as its own; only a unit of one part can be a mask or a report."""
    scans = [scan for result in results for scan in result.outcome.scans]
    fates = [fate for result in results for fate in result.outcome.fates]
    return UnitResult(Outcome(scans, fates), results[0].mask, results[0].report)


def _read_part(unit: Unit, config: IngestConfig, keep_voxels: bool) -> UnitResult:
    try:
        size = sum(os.path.getsize(met.path) for met in unit.files)
        give_time(size)
        give_memory(size)
        result = _result(unit, config, keep_voxels)
    except Refused as refusal:
        return refused(unit, refusal.reason, refusal.detail)
    except PermissionError:
        return refused(unit, "no_permission")
    except MemoryError:
        return refused(unit, "too_large", "out of memory")
    except Exception as error:  # one bad file must not stop the others; the code says that this one is ours
        return refused(unit, "internal", type(error).__name__)
    if not keep_voxels:
        result.outcome.scans = [scan.without_voxels() for scan in result.outcome.scans]
    return result


def refused(unit: Unit, reason: str, detail: str = "") -> UnitResult:
    """The same fate for all files of a unit."""
    return UnitResult(Outcome(fates=[Fate(met.path, reason, detail) for met in unit.files]))


def read_again(source: Source, config: IngestConfig) -> Volume:
    """The volume, picture or mask that a row of private/sources.parquet describes. Raises Refused."""
    if source.reader == "nifti":
        from medcl.ingest import nifti

        return nifti.read_again(source, config)
    if source.reader == "mask":
        from medcl.ingest import nifti

        return nifti.read_mask(source.paths[0], config)
    if source.reader == "dicom":
        from medcl.ingest import dicom

        return dicom.read_again(source, config)
    if source.reader == "picture":
        from medcl.ingest import picture

        return picture.read_again(source, config)
    if source.reader == "medmnist":
        from medcl.ingest import medmnist

        return medmnist.read_again(source, config)
    raise UserError(f"unknown reader '{source.reader}'; the folder was written by another version, run `medcl ingest` again")


def _result(unit: Unit, config: IngestConfig, keep_voxels: bool) -> UnitResult:
    if unit.reader == DICOM_REPORT:
        from medcl.ingest.dicom_report import read_report

        fate = Fate(unit.files[0].path, "structured_report")
        return UnitResult(Outcome(fates=[fate]), report=read_report(fate.path))
    return _mask(unit, config) if unit.reader == MASK else UnitResult(_scans(unit, config, keep_voxels))


def _mask(unit: Unit, config: IngestConfig) -> UnitResult:
    from medcl.ingest import nifti

    met = unit.files[0]
    volume = nifti.read_mask(met.path, config)
    other = tuple(half.path for half in unit.files[1:])
    return UnitResult(Outcome(), Mask(met.path, met.relative, volume.array.shape, volume.affine, pixel_hash(volume), other))


def _scans(unit: Unit, config: IngestConfig, keep_voxels: bool) -> Outcome:
    if unit.reader == DICOM_GROUP:
        from medcl.ingest import dicom

        return dicom.read_group(list(unit.frames), config, unit.flags)
    outcome = Outcome()
    for scan in _reader_of(unit, config)():
        outcome.scans.append(scan if keep_voxels else scan.without_voxels())
        give_time(os.path.getsize(unit.files[0].path))
    detail = f"{len(outcome.scans)} volumes" if len(outcome.scans) > 1 else ""
    first = outcome.scans[0].identity.volume if outcome.scans else ""
    outcome.fates = [Fate(one.path, "ok", detail, volume=first) for one in unit.files]
    return outcome


def _reader_of(unit: Unit, config: IngestConfig) -> Callable[[], Iterator[Scan]]:
    met = unit.files[0]
    hint = unit.hint if unit.hint.modality else replace(unit.hint, modality=config.modality or "")
    if unit.reader == NIFTI:
        from medcl.ingest import nifti

        return lambda: nifti.read_scans(met.path, met.relative, hint, config)
    if unit.reader == NPZ:
        from medcl.ingest import medmnist

        return lambda: medmnist.read_scans(met.path, met.relative, hint, config)
    if unit.reader == PICTURE:
        from medcl.ingest import picture

        return lambda: iter([picture.read_scan(met.path, met.relative, hint, config)])
    from medcl.ingest import dicom

    return lambda: dicom.read_pictures(list(unit.frames), config)

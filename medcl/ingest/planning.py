"""From the files met to units of work: DICOM headers first, in parallel, then groups; masks and tables told apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from medcl.foundation.errors import UserError
from medcl.foundation.progress import Progress
from medcl.ingest.hints import Hint, from_name, is_mask_name, laid_over
from medcl.ingest.journal import Journal, worth_keeping
from medcl.ingest.ledger import Fate
from medcl.ingest.readers import DICOM_GROUP, DICOM_PICTURE, DICOM_REPORT, MASK, NIFTI, NPZ, PICTURE, Unit
from medcl.ingest.records import Identity
from medcl.ingest.settings import Columns, IngestConfig
from medcl.ingest.sources import Met, Survey
from medcl.ingest.tables import Table, read_rows
from medcl.ingest.workers import Workers

HEADERS_PER_TASK = 64
_FATES_BY_KIND = {"empty": "empty_file", "other": "not_an_image", "table": "not_an_image"}


@dataclass
class Plan:
    """Units to read, and the files whose fate is already known."""

    units: Units
    fates: list[Fate] = field(default_factory=list)


def plan(found: Survey, tables: Sequence[Table], config: IngestConfig, workers: Workers, progress: Progress, journal: Journal) -> Plan:
    """Read the DICOM headers that the journal lacks, and make a unit of every series and every other image or mask.

    BIDS' participants.tsv is read for age and sex wherever it lies among the sources. Headers wait in the journal: what
    stays in memory is the number of each DICOM file, and the hint of each other one.
    """
    result = Plan(Units(journal), list(found.fates))
    for table in tables:
        table.meet(met.path for met in found.files)
    participants = _participants(found.files)
    given = {os.path.realpath(table.path) for table in [*tables, *participants]}
    by_kind: dict[str, list[Met]] = {}
    for met in found.files:
        by_kind.setdefault(met.kind, []).append(met)
    for kind, reason in _FATES_BY_KIND.items():
        for met in by_kind.get(kind, []):
            result.fates.append(Fate(met.path, "table" if os.path.realpath(met.path) in given else reason))
    _plan_dicom(by_kind.get("dicom", []), result, config, workers, progress)
    _plan_nifti(by_kind.get("nifti", []), result, tables, participants)
    _plan_pictures(by_kind.get("picture", []), result, tables)
    for met in by_kind.get("npz", []):
        result.units.add(Unit(NPZ, (met,), hint=Hint()))
    return result


class Units(Sequence[Unit]):
    """The units of a plan, each completed by its headers from the journal when it is asked for."""

    def __init__(self, journal: Journal, bare: Sequence[Unit] = ()) -> None:
        self.journal = journal
        self._bare = list(bare)

    def __len__(self) -> int:
        return len(self._bare)

    def __getitem__(self, index: int) -> Unit:  # type: ignore[override]
        unit = self._bare[index]
        if unit.reader not in (DICOM_GROUP, DICOM_PICTURE):
            return unit
        return replace(unit, headers=tuple(self.journal.get(met.key) for met in unit.files))

    def add(self, unit: Unit) -> None:
        """Put one more at the end."""
        self._bare.append(unit)

    def only(self, indices: Sequence[int]) -> Units:
        """Some of them."""
        return Units(self.journal, [self._bare[index] for index in indices])

    def keys(self) -> list[str]:
        """What each unit's result is kept under."""
        return [unit.key for unit in self._bare]


def _plan_dicom(files: list[Met], result: Plan, config: IngestConfig, workers: Workers, progress: Progress) -> None:
    if not files:
        return
    from medcl.ingest.headers import Brief, brief_of

    journal = result.units.journal
    _read_missing(files, journal, config, workers, progress)
    damaged: set[str] = set()
    series: dict[str, list[Met]] = {}
    name_of: dict[str, str] = {}
    for met in sorted(files, key=lambda one: one.relative):
        brief: Brief = brief_of(journal.get(met.key))
        if brief.reason == "structured_report":
            result.units.add(Unit(DICOM_REPORT, (met,)))
        elif brief.reason:
            result.fates.append(Fate(met.path, brief.reason, brief.detail))
            damaged |= {brief.series} - {""}
        elif brief.picture:
            result.units.add(Unit(DICOM_PICTURE, (met,)))
        else:
            series.setdefault(brief.who, []).append(met)
            name_of[brief.who] = brief.series
    for who, members in series.items():
        flags = ("series_lost_a_file",) if name_of[who] in damaged else ()
        result.units.add(Unit(DICOM_GROUP, tuple(members), flags=flags))


def _read_missing(files: list[Met], journal: Journal, config: IngestConfig, workers: Workers, progress: Progress) -> None:
    """Put the headers of every file into the journal. Where a chunk kills its process, its files are tried one by one."""
    from medcl.ingest.headers import dead_headers, read_headers

    missing = [met for met in files if met.key not in journal]
    chunks = [tuple(missing[at : at + HEADERS_PER_TASK]) for at in range(0, len(missing), HEADERS_PER_TASK)]
    read = partial(read_headers, config=config)
    alone: list[tuple[Met, ...]] = []
    for index, texts in progress.track(workers.work(read, chunks, _nothing), len(chunks), "reading headers"):
        if texts is None:
            alone += [(met,) for met in chunks[index]]
        else:
            _keep(chunks[index], texts, journal)
    for index, texts in workers.work(read, alone, dead_headers):
        _keep(alone[index], texts, journal)


def _nothing(_: object) -> list[str] | None:
    return None


def _keep(files: Sequence[Met], texts: Sequence[str], journal: Journal) -> None:
    from medcl.ingest.headers import brief_of

    for met, text in zip(files, texts, strict=True):
        journal.put(met.key, text, keep=worth_keeping([brief_of(text).reason]))


def _plan_nifti(files: list[Met], result: Plan, tables: Sequence[Table], participants: Sequence[Table]) -> None:
    """participants: of BIDS; each speaks of what lies below its folder, as two data sets may each have a sub-01."""
    met_of = {met.path: met for met in files}
    halves = {header: met_of.pop(data) for header, data in ((met.path, _data_path(met.path)) for met in files) if data in met_of}
    for met in met_of.values():
        both = (met, halves[met.path]) if met.path in halves else (met,)
        reader = MASK if is_mask_name(met.relative) else NIFTI
        own = [table for table in participants if met.path.startswith(os.path.join(table.path.parent, ""))]
        result.units.add(Unit(reader, both, hint=hint_of(met, [*tables, *own])[0]))


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
        result.units.add(Unit(PICTURE, (met,), hint=hint))


def hint_of(met: Met, tables: Sequence[Table]) -> tuple[Hint, bool]:
    """What the tables' rows, else the name, say about a file; and whether a table names it."""
    hint, named = from_name(met.relative), False
    for table in tables:
        rows = table.rows_for_file(met.path)
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

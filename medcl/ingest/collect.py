"""Sources to scans: the part that ingest, convert and read_scans share."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import medcl
from medcl.foundation.progress import Progress
from medcl.ingest.journal import Journal
from medcl.ingest.ledger import Fate
from medcl.ingest.masks import Attached, Mask, attach
from medcl.ingest.plain import from_text, schema_of, to_text
from medcl.ingest.planning import Units, plan
from medcl.ingest.readers import Unit, UnitResult, joined, parts_of, read_as_text, read_unit, refused
from medcl.ingest.records import Scan, Written
from medcl.ingest.settings import IngestConfig
from medcl.ingest.sources import survey
from medcl.ingest.tables import Table
from medcl.ingest.workers import Workers

# What the readers and their libraries take by themselves; a volume needs a few times its own size while it is built.
_CHILD_BYTES = 4 * 2**30


def child_bytes(config: IngestConfig) -> int:
    """The address space that a reading process may take."""
    return _CHILD_BYTES + 6 * config.budget_bytes


@dataclass
class Collection:
    """Everything that was read: scans in a fixed order, their masks, one fate per file.

    names: of all files, relative to their sources. reports: texts of structured reports. Both are private. What grows with the
    files: a name, a key and a fate each (about 1 kB), and 2 kB for each scan. Headers stay on disk.
    """

    scans: list[Scan] = field(default_factory=list)
    masks: list[Attached] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)
    files: int = 0
    names: tuple[str, ...] = ()
    reports: list[Written] = field(default_factory=list)

    def mark_reports(self, paths: set[str]) -> None:
        """Let these structured reports count as used: they were joined to scans."""
        self.fates = [replace(fate, reason="report") if fate.path in paths else fate for fate in self.fates]


def collect(
    sources: Sequence[str | Path],
    tables: Sequence[Table],
    config: IngestConfig,
    jobs: int,
    progress: Progress,
    *,
    dask: str | None = None,
    keep_voxels: bool = False,
    journal: Callable[[], Path] | None = None,
) -> Collection:
    """Find, plan and read. The result does not depend on `jobs`, nor on the order in which files are found, nor on what
    an earlier run had read already.

    jobs: number of reading processes, 0 for this one (needed to keep voxels). dask: see Workers. journal: gives the file
    where results are kept as they come, asked for once the sources are found; None: they are kept in memory. Raises
    UserError for a source that is not there.
    """
    found = survey([os.path.abspath(source) for source in sources] if dask else sources)  # workers elsewhere start in other folders
    whole = Collection(files=len(found.files) + len(found.fates), names=tuple(met.relative for met in found.files))
    masks: list[Mask] = []
    with (
        Journal(journal() if journal else None, _basis(config)) as kept,
        Workers(jobs, child_bytes(config), dask) as workers,
    ):
        planned = plan(found, tables, config, workers, progress, kept)
        whole.fates += planned.fates
        for result in _results(planned.units, kept, config, workers, progress, keep_voxels):
            whole.scans += result.outcome.scans
            whole.fates += result.outcome.fates
            masks += [mask for mask in (result.mask,) if mask is not None]
            whole.reports += [report for report in (result.report,) if report is not None]
        kept.forget_unasked()
    whole.scans.sort(key=_place)
    _drop_copies(whole)
    _refuse_conflicts(whole)
    volume_of = {index: scan.identity.volume for index, scan in enumerate(whole.scans)}
    whole.masks, mask_fates = attach(masks, whole.scans, volume_of)
    whole.fates = _one_per_file(whole.fates + mask_fates)
    return whole


def _basis(config: IngestConfig) -> str:
    """What a kept result stands on besides its files: this version, and the settings that readers look at."""
    from medcl.ingest.headers import SCHEMA

    settings = config.model_dump(mode="json", exclude={"split", "columns", "label_columns", "label_name", "reports"})
    return "\n".join([medcl.__version__, SCHEMA, schema_of(UnitResult), json.dumps(settings, sort_keys=True)])


def _place(scan: Scan) -> tuple[str | int, ...]:
    """What scans are ordered by: their pixels, then who they are; the file's name, which means nothing, comes last."""
    identity = scan.identity
    return scan.pixel_hash, identity.patient, identity.study, identity.volume, scan.facts.time_index, identity.file


def _results(
    units: Units, journal: Journal, config: IngestConfig, workers: Workers, progress: Progress, keep_voxels: bool
) -> Iterator[UnitResult]:
    """The result of every unit, in their order, whatever order they are finished in."""
    if keep_voxels:
        work = workers.work(partial(read_unit, config=config, keep_voxels=True), units, _dead)
        yield from (result for _, result in sorted(work, key=lambda pair: pair[0]))
        return
    keys = units.keys()
    todo = [index for index, key in enumerate(keys) if key not in journal]
    work = workers.work(partial(read_as_text, config=config), units.only(todo), _nothing)
    killers = []
    for place, answer in progress.track(work, len(units), "reading volumes", done=len(units) - len(todo)):
        if answer is None:
            killers.append(todo[place])
        else:
            journal.put(keys[todo[place]], *answer)
    for index in killers:
        parts = parts_of(units[index])
        found = dict(workers.work(partial(read_unit, config=config), parts, _dead))
        journal.put(keys[index], to_text(joined([found[place] for place in range(len(parts))])), keep=False)
    yield from (from_text(UnitResult, journal.get(key)) for key in keys)


def _nothing(_: Unit) -> tuple[str, bool] | None:
    return None


def _dead(part: Unit) -> UnitResult:
    return refused(part, "decoder_died")


def _drop_copies(whole: Collection) -> None:
    """Of pixel-identical volumes of one patient keep the first (they are sorted); items of one file are left alone."""
    kept: dict[tuple[str, str, str], Scan] = {}
    copies: dict[str, Scan] = {}
    scans = []
    for scan in whole.scans:
        first = kept.setdefault((scan.identity.patient, scan.pixel_hash, scan.kind), scan)
        if first is scan or first.source.paths == scan.source.paths:
            scans.append(scan)
        else:
            copies[scan.identity.volume] = first
    whole.scans = scans
    still_used = {path for scan in scans for path in scan.source.paths}
    for index, fate in enumerate(whole.fates):
        if fate.volume in copies and fate.path not in still_used:
            whole.fates[index] = Fate(fate.path, "duplicate_volume", volume=copies[fate.volume].identity.volume)


def _refuse_conflicts(whole: Collection) -> None:
    """Volumes that have one name (the same instances of one patient) and differ: nothing says which is the true one."""
    names = Counter((scan.identity.patient, scan.identity.volume, scan.facts.time_index) for scan in whole.scans)
    torn = {(patient, volume) for (patient, volume, _), count in names.items() if count > 1}
    refused = [scan for scan in whole.scans if (scan.identity.patient, scan.identity.volume) in torn]
    whole.scans = [scan for scan in whole.scans if (scan.identity.patient, scan.identity.volume) not in torn]
    paths = {path for scan in refused for path in scan.source.paths} - {path for scan in whole.scans for path in scan.source.paths}
    whole.fates = [Fate(fate.path, "conflicting_copies") if fate.reason == "ok" and fate.path in paths else fate for fate in whole.fates]


def _one_per_file(fates: list[Fate]) -> list[Fate]:
    """One fate per path: a file with several frames may have met several ends; that it was used counts most."""
    order = {"ok": 0, "mask": 0, "table": 0}
    chosen: dict[str, Fate] = {}
    for fate in fates:
        before = chosen.get(fate.path)
        if before is None or order.get(fate.reason, 1) < order.get(before.reason, 1):
            chosen[fate.path] = fate
    return [chosen[path] for path in sorted(chosen)]

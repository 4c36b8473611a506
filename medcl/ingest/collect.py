"""Sources to scans: the part that ingest, convert and read_scans share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from medcl.foundation.progress import Progress
from medcl.ingest.ledger import Fate
from medcl.ingest.masks import Attached, Mask, attach
from medcl.ingest.planning import plan
from medcl.ingest.readers import UnitResult, read_unit, refused
from medcl.ingest.records import Scan
from medcl.ingest.settings import IngestConfig
from medcl.ingest.sources import survey
from medcl.ingest.tables import Table
from medcl.ingest.workers import Workers

if TYPE_CHECKING:
    from medcl.ingest.dicom_report import Written

# What the readers and their libraries take by themselves; a volume needs a few times its own size while it is built.
_CHILD_BYTES = 4 * 2**30


@dataclass
class Collection:
    """Everything that was read: scans in a fixed order, their masks, one fate per file.

    names: of all files, relative to their sources. reports: texts of structured reports. Both are private.
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
) -> Collection:
    """Find, plan and read. The result does not depend on `jobs` nor on the order in which files are found.

    jobs: number of reading processes, 0 for this one (needed to keep voxels). dask: see Workers. Raises UserError for a source that is
    not there.
    """
    found = survey([os.path.abspath(source) for source in sources] if dask else sources)  # workers elsewhere start in other folders
    results: dict[int, UnitResult] = {}
    with Workers(jobs, _CHILD_BYTES + 6 * config.budget_bytes, dask) as workers:
        planned = plan(found, tables, config, workers, progress)
        read = partial(read_unit, config=config, keep_voxels=keep_voxels)
        work = workers.work(read, planned.units, lambda unit: refused(unit, "decoder_died"))
        results.update(progress.track(work, len(planned.units), "reading volumes"))
    whole = Collection(
        fates=list(planned.fates), files=len(found.files) + len(found.fates), names=tuple(met.relative for met in found.files)
    )
    masks: list[Mask] = []
    for index in range(len(planned.units)):
        whole.scans += results[index].outcome.scans
        whole.fates += results[index].outcome.fates
        masks += [mask for mask in (results[index].mask,) if mask is not None]
        whole.reports += [report for report in (results[index].report,) if report is not None]
    whole.scans.sort(key=lambda scan: (scan.pixel_hash, scan.identity.file, scan.identity.volume))
    _drop_copies(whole)
    volume_of = {index: scan.identity.volume for index, scan in enumerate(whole.scans)}
    whole.masks, mask_fates = attach(masks, whole.scans, volume_of)
    whole.fates = _one_per_file(whole.fates + mask_fates)
    return whole


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


def _one_per_file(fates: list[Fate]) -> list[Fate]:
    """One fate per path: a file with several frames may have met several ends; that it was used counts most."""
    order = {"ok": 0, "mask": 0, "table": 0}
    chosen: dict[str, Fate] = {}
    for fate in fates:
        before = chosen.get(fate.path)
        if before is None or order.get(fate.reason, 1) < order.get(before.reason, 1):
            chosen[fate.path] = fate
    return [chosen[path] for path in sorted(chosen)]

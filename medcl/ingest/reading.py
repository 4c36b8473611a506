"""`medcl.read_scans`: scans into memory, without writing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medcl.foundation.progress import Silent
from medcl.foundation.types import Volume
from medcl.ingest.collect import collect
from medcl.ingest.ledger import LedgerEntry, entry
from medcl.ingest.records import Scan
from medcl.ingest.settings import IngestConfig


@dataclass(frozen=True)
class Reading:
    """What was read. A ledger entry's `volume_id` is the place of its volume in `volumes`, as text.

    flags: one tuple per volume, the doubts that the manifest would show. A file that holds several volumes (4D NIfTI,
    npz) points to its first.
    """

    volumes: list[Volume]
    ledger: list[LedgerEntry]
    flags: list[tuple[str, ...]]


def read_scans(source: str | Path | Sequence[str | Path], settings: IngestConfig | None = None) -> Reading:
    """Read a folder, a file, a glob or a list of them, in this process: DICOM, NIfTI, PNG/JPEG/TIFF, MedMNIST npz.

    Volumes come in the order of their files' names, time points in their order. Files that are not used are in
    `.ledger` with their reason; nothing is raised for them. Raises UserError for a source that is not there.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    whole = collect(sources, (), settings or IngestConfig(), 0, Silent(), keep_voxels=True)
    first_file: dict[tuple[str, str, str], str] = {}
    for scan in whole.scans:
        first_file[_stack(scan)] = min(scan.identity.file, first_file.get(_stack(scan), scan.identity.file))
    scans = sorted(whole.scans, key=lambda scan: (first_file[_stack(scan)], *_stack(scan), scan.facts.time_index, scan.identity.volume))
    place = {scan.identity.volume: str(index) for index, scan in reversed(list(enumerate(scans)))}
    entries = [entry(fate, fate.path, place.get(fate.volume, "")) for fate in whole.fates]
    volumes = [scan.volume for scan in scans if scan.volume is not None]
    return Reading(volumes, entries, [scan.facts.flags for scan in scans])


def _stack(scan: Scan) -> tuple[str, str, str]:
    """What the time points of one series share."""
    return scan.identity.patient, scan.identity.series, scan.identity.stack

"""`medcl convert`: what ingest would use, as NIfTI, one file per volume (4D where time runs), and the ledger."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcl.foundation.files import write_whole
from medcl.foundation.progress import Progress, Silent
from medcl.foundation.types import Volume
from medcl.ingest import manifest
from medcl.ingest.assemble import ledger_entries, ledger_row, nothing_usable, volume_ids, write_private
from medcl.ingest.collect import collect
from medcl.ingest.ledger import count_reasons, explain_counts
from medcl.ingest.privacy import Hasher, keep_or_make_key, make_private
from medcl.ingest.readers import read_again
from medcl.ingest.records import Scan
from medcl.ingest.settings import IngestConfig


@dataclass(frozen=True)
class Converted:
    """What convert wrote. `counts`: for `--json`; `lines`: for a person."""

    files: int
    written: int
    volumes: int
    reasons: dict[str, int]

    @property
    def counts(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def lines(self) -> list[str]:
        """What a person sees at the end."""
        lines = [f"{self.files} files met, {self.volumes} volumes and pictures in {self.written} NIfTI files"]
        return [*lines, "not used:", *explain_counts(self.reasons)] if self.reasons else lines


def convert(
    sources: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    settings: IngestConfig | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    key: bytes | None = None,
) -> Converted:
    """Write `<volume_id>.nii.gz` files and ledger.parquet into `out`.

    Values are in the volume's units, whole numbers stay whole. private/sources.parquet says which file came from where.
    Raises DataError (exit 3) where nothing was usable.
    """
    config, progress, out = settings or IngestConfig(), progress or Silent(), Path(out)
    sources = [sources] if isinstance(sources, str | Path) else list(sources)
    whole = collect(sources, (), config, jobs, progress)
    if not whole.scans:
        raise nothing_usable(whole)
    hasher = Hasher(keep_or_make_key(make_private(out), key))
    ids = volume_ids(whole.scans, hasher)
    series = _series(whole.scans)
    for members in progress.track(series, len(series), "writing"):
        volumes = [read_again(whole.scans[index].source, config) for index in members]
        write_nifti(out / f"{ids[members[0]]}.nii.gz", volumes)
    entries = ledger_entries(whole, ids, hasher)
    manifest.write_rows(out / manifest.LEDGER, map(ledger_row, entries), manifest.LEDGER_COLUMNS)
    write_private(out, whole, ids, {}, (), entries, hasher)
    return Converted(len(entries), len(series), len(ids), count_reasons(entries, "skipped", "refused"))


def write_nifti(path: Path, volumes: Sequence[Volume]) -> None:
    """Write one volume, or the time points of one, as .nii.gz with the same bytes every time."""
    from medcl.ingest.nifti import nifti_bytes

    content = gzip.compress(nifti_bytes(volumes), compresslevel=4, mtime=0)
    write_whole(path, lambda partial: _write_bytes(partial, content))


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _series(scans: Sequence[Scan]) -> list[list[int]]:
    """Indices of scans that make one file: the time points of one series on one grid, in order; else each alone."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    for index, scan in enumerate(scans):
        grid = (scan.shape, np.round(scan.affine, 3).tobytes())
        timed = "split_by_time" in scan.facts.flags or scan.source.reader == "nifti"
        own = "" if timed else scan.identity.volume
        groups[(scan.identity.patient, scan.identity.series, scan.identity.stack, scan.kind, *grid, own)].append(index)
    ordered = [sorted(members, key=lambda index: scans[index].facts.time_index) for members in groups.values()]
    return sorted(ordered, key=lambda members: members[0])

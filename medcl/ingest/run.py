"""`medcl ingest`: scans, reports and labels in, a DATA folder without identifiers out."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from medcl.foundation.errors import UserError
from medcl.foundation.files import CARD, write_card, write_text
from medcl.foundation.progress import Progress, Silent
from medcl.ingest import manifest
from medcl.ingest.assemble import (
    label_table,
    ledger_entries,
    ledger_row,
    manifest_rows,
    masks_hash,
    near_groups,
    nothing_usable,
    splits_of,
    volume_ids,
    write_or_remove,
    write_private,
)
from medcl.ingest.collect import Collection, child_bytes, collect
from medcl.ingest.journal import JOURNAL
from medcl.ingest.labels import join_labels, label_columns, merged, npz_labels
from medcl.ingest.ledger import LedgerEntry, count_reasons, explain_counts
from medcl.ingest.overview import OVERVIEW, overview_page, thumbnails
from medcl.ingest.privacy import Hasher, keep_or_make_key, make_private
from medcl.ingest.records import Scan
from medcl.ingest.reports import Report, join_reports
from medcl.ingest.settings import IngestConfig
from medcl.ingest.tables import Table, read_rows, table_of
from medcl.ingest.to_nifti import convert

__all__ = ["IngestConfig", "Summary", "convert", "ingest"]


@dataclass(frozen=True)
class Summary:
    """What ingest came to. `reasons`: files per code of those skipped or refused; `lines`: for a person to read."""

    files: int
    used: int
    skipped: int
    refused: int
    volumes: int
    pictures: int
    patients: int
    masks: int
    reports: int
    labelled: int
    series: int = 0
    modalities: dict[str, int] = field(default_factory=dict)
    spacings_mm: dict[str, str] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    report_flags: dict[str, int] = field(default_factory=dict)
    out: str = ""

    @property
    def lines(self) -> list[str]:
        """What a person sees at the end."""
        counts = ", ".join(f"{number} {name}" for name, number in self.modalities.items())
        lines = [
            f"{self.files} files: {self.used} used, {self.skipped} skipped, {self.refused} refused",
            f"{self.volumes} volumes and {self.pictures} pictures in {self.series} series of {self.patients} patients ({counts})",
            "median spacing in mm: " + ", ".join(f"{name} {spacing}" for name, spacing in self.spacings_mm.items()),
            f"{self.masks} masks, {self.reports} reports, {self.labelled} with labels; "
            + ", ".join(f"{number} {name}" for name, number in self.splits.items()),
        ]
        if "unknown" in self.modalities and len(self.modalities) > 1:
            lines += [
                f"{self.modalities['unknown']} unknown: no recipe takes them; put `modality: ct`, say, into --settings, and ingest again"
            ]
        if self.reasons:
            lines += [f"not used (which files: {Path(self.out) / manifest.FILES}, by `file_key` of the ledger):"]
            lines += explain_counts(self.reasons)
        if self.flags:
            lines += ["to review (column `flags`): " + ", ".join(f"{number} {name}" for name, number in self.flags.items())]
        if self.report_flags:
            lines += ["of the reports: " + ", ".join(f"{number} {name}" for name, number in self.report_flags.items())]
        return [*lines, f"to look at before going on: {Path(self.out) / OVERVIEW}"]

    @property
    def counts(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "out"}


def ingest(
    sources: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    reports: str | Path | None = None,
    labels: str | Path | None = None,
    settings: IngestConfig | None = None,
    jobs: int = 1,
    dask: str | None = None,
    progress: Progress | None = None,
    key: bytes | None = None,
    images: bool = True,
) -> Summary:
    """Read every file of the sources and write manifest, ledger, reports, labels, private/ and last the card to `out`.

    The same line again reads only files that are new or changed since: also after a kill, at whatever moment.

    jobs: reading processes; 0 reads in this very process (quicker for a few files, but a file that crashes a codec takes
    the process with it). dask: address of a Dask scheduler whose workers read instead (they must see the sources under the
    same paths). key: the hash key; by default that of `out`, or a fresh one. images: whether overview.html shows
    thumbnails.
    Raises UserError for what was given wrongly, DataError (exit 3) where nothing was usable.
    """
    config, progress, out = settings or IngestConfig(), progress or Silent(), Path(out)
    sources = [sources] if isinstance(sources, str | Path) else list(sources)
    if any(Path(source).absolute() == out.absolute() for source in sources):
        raise UserError(f"--out {out}: is one of the sources; choose a folder of its own")
    report_table = read_rows(reports, config.columns, ("text", "findings", "impression"), "--reports") if reports else None
    label_table = read_rows(labels, config.columns, ("file", "patient", "study", "accession"), "--labels") if labels else None
    names = label_columns(label_table, config.label_columns) if label_table else ()
    extras = _Extras(report_table, label_table, names)
    was_there = out.exists()
    whole = collect(sources, extras.tables, config, jobs, progress, dask=dask, journal=lambda: make_private(out) / JOURNAL)
    if not whole.scans:
        if not was_there:
            shutil.rmtree(out)
        raise nothing_usable(whole)
    private = make_private(out)
    hasher = Hasher(keep_or_make_key(private, key))
    (out / CARD).unlink(missing_ok=True)
    draw = partial(thumbnails, config=config, jobs=jobs, most_bytes=child_bytes(config), dask=dask, progress=progress)
    return _write(out, whole, extras, config, hasher, draw if images else lambda scans, rows: {})


@dataclass(frozen=True)
class _Extras:
    report_table: Table | None
    label_table: Table | None
    label_names: tuple[str, ...]

    @property
    def tables(self) -> list[Table]:
        return [table for table in (self.report_table, self.label_table) if table is not None]

    def report_tables(self, whole: Collection) -> list[Table]:
        """Where reports come from: the table that was given, then DICOM structured reports."""
        given = [self.report_table] if self.report_table else []
        return [*given, table_of([report.row() for report in whole.reports])] if whole.reports else given


def _write(
    out: Path,
    whole: Collection,
    extras: _Extras,
    config: IngestConfig,
    hasher: Hasher,
    draw: Callable[[Sequence[Scan], Sequence[Mapping[str, Any]]], dict[int, str]],
) -> Summary:
    scans = whole.scans
    ids = volume_ids(scans, hasher)
    found_reports = join_reports(extras.report_tables(whole), scans, hasher, config.reports)
    whole.mark_reports({report.path for report in found_reports if report.path})
    found_labels = npz_labels(scans, config.label_name)
    if extras.label_table:
        found_labels = merged(found_labels, join_labels(extras.label_table, scans, extras.label_names))
    masks = {attached.scan: hasher("mask", attached.mask.relative) for attached in whole.masks}
    near = near_groups(scans)
    splits = splits_of(scans, found_labels, extras.tables, near, config)
    rows = manifest_rows(scans, ids, found_reports, splits, near, hasher)
    entries = ledger_entries(whole, ids, hasher)
    manifest.write_rows(out / manifest.MANIFEST, rows, manifest.MANIFEST_COLUMNS)
    manifest.write_rows(out / manifest.LEDGER, map(ledger_row, entries), manifest.LEDGER_COLUMNS)
    write_or_remove(out / manifest.REPORTS, [report.row() for report in found_reports], manifest.REPORT_COLUMNS)
    label_rows, label_schema = label_table(ids, found_labels, masks)
    write_or_remove(out / manifest.LABELS, label_rows, label_schema)
    write_private(out, whole, ids, masks, extras.tables, entries, hasher)
    summary = _summary(out, entries, rows, found_reports, found_labels, masks)
    numbers = {name: value for name, value in summary.counts.items() if isinstance(value, int)}
    write_text(out / OVERVIEW, overview_page(rows, entries, numbers, draw(scans, rows)))
    used = manifest.digests(out, manifest.MANIFEST, manifest.LABELS, manifest.REPORTS) | {"masks": masks_hash(whole, masks, hasher)}
    _write_card(out, summary, rows, label_schema, config, used)
    return summary


def _summary(
    out: Path,
    entries: Sequence[LedgerEntry],
    rows: Sequence[Mapping[str, Any]],
    reports: Sequence[Report],
    labels: Mapping[int, Any],
    masks: Mapping[int, str],
) -> Summary:
    statuses = Counter(one.status for one in entries)
    kinds = Counter(row["kind"] for row in rows)
    return Summary(
        files=len(entries),
        used=statuses["used"],
        skipped=statuses["skipped"],
        refused=statuses["refused"],
        volumes=kinds["volume"],
        pictures=kinds["picture"],
        patients=len({row["patient_key"] for row in rows}),
        masks=len(masks),
        reports=len(reports),
        labelled=len(labels),
        series=len({row["series_key"] for row in rows}),
        modalities=dict(Counter(row["modality"] for row in rows).most_common()),
        spacings_mm=_spacings(rows),
        splits=dict(Counter(row["split"] for row in rows).most_common()),
        reasons=count_reasons(entries, "skipped", "refused"),
        flags=dict(sorted(Counter(flag for row in rows for flag in row["flags"]).items())),
        report_flags=_report_flags(reports),
        out=str(out),
    )


def _report_flags(reports: Sequence[Report]) -> dict[str, int]:
    """How many reports have each flag; `nearly_the_same`: how many share their words with another."""
    counts = Counter(flag for report in reports for flag in report.flags)
    counts["nearly_the_same"] = sum(report.text_group > 0 for report in reports)
    counts["normal_and_nearly_the_same"] = sum(report.text_group > 0 and "normal" in report.flags for report in reports)
    return {name: number for name, number in sorted(counts.items()) if number}


def _spacings(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Modality -> the median along x, y, z of its scans that say it."""
    of: dict[str, list[Sequence[float]]] = {}
    for row in rows:
        of.setdefault(row["modality"], []).extend([row["spacing_mm"]] if manifest.says_spacing(row) else [])
    return {name: " x ".join(f"{median(axis):.3g}" for axis in zip(*found, strict=True)) or "not said" for name, found in of.items()}


def _write_card(
    out: Path,
    summary: Summary,
    rows: Sequence[Mapping[str, Any]],
    label_schema: Mapping[str, Any],
    config: IngestConfig,
    tables: Mapping[str, str],
) -> None:
    """tables: hashes of all that a later stage uses. It names DATA by its card, so that what changes there must change here."""
    corpus = hashlib.sha256("\n".join(sorted(row["pixel_hash"] for row in rows)).encode()).hexdigest()
    counts = {name: value for name, value in summary.counts.items() if isinstance(value, int)}
    write_card(
        out,
        "data",
        inputs={"pixels": corpus},
        settings=config.model_dump(mode="json"),
        counts=counts,
        corpus_hash=corpus,
        tables=tables,
        modalities=dict(sorted(summary.modalities.items())),
        splits=dict(sorted(summary.splits.items())),
        reasons=summary.reasons,
        flags=summary.flags,
        report_flags=summary.report_flags,
        labels=[name for name in label_schema if name not in ("volume_id", "mask_id")],
        columns={name: meaning for name, (_, meaning) in manifest.MANIFEST_COLUMNS.items()},
        notes=["Head scans can identify a person by the face. Scrubbing of report text follows rules and misses things: review it."],
    )

"""`medcl ingest`: scans, reports and labels in, a DATA folder without identifiers out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcl.foundation.errors import DataError
from medcl.foundation.files import CARD, write_card
from medcl.foundation.progress import Progress, Silent
from medcl.ingest import manifest
from medcl.ingest.collect import Collection, collect
from medcl.ingest.duplicates import groups_of_equals
from medcl.ingest.labels import Value, join_labels, label_columns, merged, npz_labels
from medcl.ingest.ledger import LedgerEntry, count_reasons, entry, explain_counts
from medcl.ingest.privacy import Hasher, cap_age, keep_or_make_key, make_private
from medcl.ingest.records import Scan
from medcl.ingest.reports import Report, join_reports
from medcl.ingest.settings import IngestConfig
from medcl.ingest.split import split_patients
from medcl.ingest.tables import Table, read_csv


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
    modalities: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    out: str = ""

    @property
    def lines(self) -> list[str]:
        """What a person sees at the end."""
        counts = ", ".join(f"{number} {name}" for name, number in self.modalities.items())
        lines = [
            f"{self.files} files: {self.used} used, {self.skipped} skipped, {self.refused} refused",
            f"{self.volumes} volumes and {self.pictures} pictures of {self.patients} patients ({counts})",
            f"{self.masks} masks, {self.reports} reports, {self.labelled} with labels; "
            + ", ".join(f"{number} {name}" for name, number in self.splits.items()),
        ]
        if self.reasons:
            lines += ["not used:", *explain_counts(self.reasons)]
        if self.flags:
            lines += ["to review (column `flags`): " + ", ".join(f"{number} {name}" for name, number in self.flags.items())]
        return lines

    def as_json(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def ingest(
    sources: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    reports: str | Path | None = None,
    labels: str | Path | None = None,
    settings: IngestConfig | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    key: bytes | None = None,
) -> Summary:
    """Read every file of the sources and write manifest, ledger, reports, labels, private/ and last the card to `out`.

    jobs: reading processes; 0 reads in this very process (quicker for a few files, but a file that crashes a codec takes
    the process with it). key: the hash key; by default that of `out`, or a fresh one.
    Raises UserError for what was given wrongly, DataError (exit 3) where nothing was usable.
    """
    config, progress, out = settings or IngestConfig(), progress or Silent(), Path(out)
    sources = [sources] if isinstance(sources, str | Path) else list(sources)
    report_table = read_csv(reports, config.columns, ("text", "findings", "impression"), "--reports") if reports else None
    label_table = read_csv(labels, config.columns, ("file", "patient", "study", "accession"), "--labels") if labels else None
    names = label_columns(label_table, config.label_columns) if label_table else ()
    tables = [table for table in (report_table, label_table) if table is not None]
    whole = collect(sources, tables, config, jobs, progress)
    if not whole.scans:
        raise nothing_usable(whole)
    private = make_private(out)
    hasher = Hasher(keep_or_make_key(private, key))
    (out / CARD).unlink(missing_ok=True)
    return _write(out, whole, _Extras(report_table, label_table, names), config, hasher)


def nothing_usable(whole: Collection) -> DataError:
    """The error that says what was met instead."""
    entries = [entry(fate, "") for fate in whole.fates]
    lines = explain_counts(count_reasons(entries)) or ["        no files at all"]
    return DataError("\n".join([f"nothing usable among {whole.files} files:", *lines]))


@dataclass(frozen=True)
class _Extras:
    report_table: Table | None
    label_table: Table | None
    label_names: tuple[str, ...]


def _write(out: Path, whole: Collection, extras: _Extras, config: IngestConfig, hasher: Hasher) -> Summary:
    scans = whole.scans
    ids = volume_ids(scans, hasher)
    found_reports = join_reports(extras.report_table, scans, hasher) if extras.report_table else []
    found_labels = npz_labels(scans, config.label_name)
    if extras.label_table:
        found_labels = merged(found_labels, join_labels(extras.label_table, scans, extras.label_names))
    masks = {attached.scan: hasher("mask", attached.mask.relative) for attached in whole.masks}
    splits = splits_of(scans, found_labels, config)
    rows = manifest_rows(scans, ids, found_reports, splits, hasher)
    entries = ledger_entries(whole, ids, hasher)
    manifest.write_table(out / manifest.MANIFEST, manifest.table(rows, manifest.MANIFEST_COLUMNS))
    manifest.write_table(out / manifest.LEDGER, manifest.table(map(_ledger_row, entries), manifest.LEDGER_COLUMNS))
    _write_or_remove(out / manifest.REPORTS, [report.row() for report in found_reports], manifest.REPORT_COLUMNS)
    label_rows, label_schema = _label_table(ids, found_labels, masks)
    _write_or_remove(out / manifest.LABELS, label_rows, label_schema)
    manifest.write_table(out / manifest.SOURCES, manifest.table(_source_rows(whole, ids, masks), manifest.SOURCE_COLUMNS))
    summary = _summary(out, entries, rows, found_reports, found_labels, masks)
    _write_card(out, summary, rows, label_schema, config)
    return summary


def volume_ids(scans: Sequence[Scan], hasher: Hasher) -> list[str]:
    """The volume_id of every scan: a keyed hash of what names it in the hospital's own words."""
    return [hasher("volume", scan.identity.patient, scan.identity.volume, str(scan.facts.time_index)) for scan in scans]


def manifest_rows(
    scans: Sequence[Scan], ids: Sequence[str], reports: Sequence[Report], splits: Sequence[str], hasher: Hasher
) -> list[dict[str, Any]]:
    """One row per scan, in the order of the scans."""
    report_of = {index: report.report_id for report in reports for index in report.scans}
    groups = groups_of_equals(scan.pixel_hash for scan in scans)
    rows = []
    for index, scan in enumerate(scans):
        identity, facts = scan.identity, scan.facts
        rows.append(
            {
                "volume_id": ids[index],
                "patient_key": hasher("patient", identity.patient),
                "study_key": hasher("study", identity.patient, identity.study),
                "series_key": hasher("series", identity.patient, identity.series, identity.stack),
                "modality": scan.modality,
                "kind": scan.kind,
                "shape": list(scan.shape),
                "spacing_mm": [round(length, 6) for length in scan.spacing_mm],
                "orientation": scan.orientation,
                "units": scan.units,
                "body_part": facts.body_part,
                "sequence": json.dumps(facts.sequence, sort_keys=True),
                "time_index": facts.time_index,
                "age_years": cap_age(facts.age_years),
                "sex": facts.sex,
                "report_id": report_of.get(index, ""),
                "split": splits[index],
                "pixel_hash": scan.pixel_hash,
                "duplicate_group": groups.get(index, 0),
                "flags": sorted({*facts.flags, *(["duplicate_pixels"] if index in groups else [])}),
            }
        )
    return rows


def splits_of(scans: Sequence[Scan], labels: Mapping[int, Mapping[str, Value]], config: IngestConfig) -> list[str]:
    """The split that the data bring, where they do; else one drawn by patient."""
    if all(scan.facts.split for scan in scans):
        return [scan.facts.split for scan in scans]
    names = {name for values in labels.values() for name in values}
    name = config.split.stratify or (names.pop() if len(names) == 1 else "")
    strata = [str(labels.get(index, {}).get(name, "")) for index in range(len(scans))]
    few = len(set(strata)) <= max(2, len(scans) // 4)
    patients, hashes = [scan.identity.patient for scan in scans], [scan.pixel_hash for scan in scans]
    return split_patients(patients, hashes, strata if few else [""] * len(scans), config.split)


def ledger_entries(whole: Collection, ids: Sequence[str], hasher: Hasher) -> list[LedgerEntry]:
    """One entry per file, in the order of the keyed hashes."""
    id_of = {scan.identity.volume: ids[index] for index, scan in reversed(list(enumerate(whole.scans)))}
    entries = [entry(fate, hasher("file", fate.path), id_of.get(fate.volume, "")) for fate in whole.fates]
    return sorted(entries, key=lambda one: one.file_key)


def _ledger_row(one: LedgerEntry) -> dict[str, Any]:
    return {name: getattr(one, name) for name in manifest.LEDGER_COLUMNS}


def _write_or_remove(path: Path, rows: list[dict[str, Any]], columns: Mapping[str, tuple[str, str]]) -> None:
    """Write the table, or take away what an earlier run left."""
    if rows:
        manifest.write_table(path, manifest.table(rows, columns))
    else:
        path.unlink(missing_ok=True)


def _label_table(
    ids: Sequence[str], labels: Mapping[int, Mapping[str, Value]], masks: Mapping[int, str]
) -> tuple[list[dict[str, Any]], dict[str, tuple[str, str]]]:
    names = list(dict.fromkeys(name for values in labels.values() for name in values))
    kinds = {
        name: "number" if all(isinstance(values[name], float) for values in labels.values() if name in values) else "text" for name in names
    }
    columns = {"volume_id": ("text", "the volume that the labels describe")} | {name: (kinds[name], "label") for name in sorted(names)}
    columns |= {"mask_id": ("text", "its mask, or empty")} if masks else {}
    rows = []
    for index in sorted({*labels, *masks}):
        values = labels.get(index, {})
        row: dict[str, Any] = {"volume_id": ids[index]} | {name: values.get(name) for name in sorted(names)}
        rows.append(row | ({"mask_id": masks.get(index, "")} if masks else {}))
    return rows, columns


def _source_rows(whole: Collection, ids: Sequence[str], masks: Mapping[int, str]) -> list[dict[str, Any]]:
    rows = []
    for item_id, scan in zip(ids, whole.scans, strict=True):
        detail = json.dumps(scan.source.detail, sort_keys=True)
        rows.append(_source_row(item_id, scan.source.reader, scan.source.paths, detail, scan.pixel_hash))
    for attached in whole.masks:
        rows.append(_source_row(masks[attached.scan], "mask", (attached.mask.path,), "{}", attached.mask.pixel_hash))
    return rows


def _source_row(item_id: str, reader: str, paths: tuple[str, ...], detail: str, pixel_hash: str) -> dict[str, Any]:
    return {"item_id": item_id, "reader": reader, "paths": list(paths), "detail": detail, "pixel_hash": pixel_hash}


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
        modalities=dict(Counter(row["modality"] for row in rows).most_common()),
        splits=dict(Counter(row["split"] for row in rows).most_common()),
        reasons=count_reasons(entries, "skipped", "refused"),
        flags=dict(sorted(Counter(flag for row in rows for flag in row["flags"]).items())),
        out=str(out),
    )


def _write_card(
    out: Path, summary: Summary, rows: Sequence[Mapping[str, Any]], label_schema: Mapping[str, Any], config: IngestConfig
) -> None:
    corpus = hashlib.sha256("\n".join(sorted(row["pixel_hash"] for row in rows)).encode()).hexdigest()
    counts = {name: value for name, value in summary.as_json().items() if isinstance(value, int)}
    write_card(
        out,
        "data",
        inputs={"pixels": corpus},
        settings=config.model_dump(mode="json"),
        counts=counts,
        corpus_hash=corpus,
        modalities=summary.modalities,
        splits=summary.splits,
        reasons=summary.reasons,
        flags=summary.flags,
        labels=[name for name in label_schema if name not in ("volume_id", "mask_id")],
        columns={name: meaning for name, (_, meaning) in manifest.MANIFEST_COLUMNS.items()},
        notes=["Head scans can identify a person by the face. Scrubbing of report text follows rules and misses things: review it."],
    )

"""Scans, reports and labels to the rows of a DATA folder's tables: the step at which identities become keyed hashes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcl.foundation.errors import DataError
from medcl.ingest import manifest
from medcl.ingest.collect import Collection
from medcl.ingest.duplicates import groups_of_equals, groups_of_near
from medcl.ingest.identifiers import identifier_rows
from medcl.ingest.labels import Value
from medcl.ingest.ledger import LedgerEntry, count_reasons, entry, explain_counts
from medcl.ingest.privacy import Hasher, cap_age, study_days
from medcl.ingest.records import Scan
from medcl.ingest.reports import Report
from medcl.ingest.settings import IngestConfig
from medcl.ingest.split import beside_equals, split_patients
from medcl.ingest.tables import Table


def nothing_usable(whole: Collection) -> DataError:
    """The error that says what was met instead."""
    entries = [entry(fate, "") for fate in whole.fates]
    lines = explain_counts(count_reasons(entries)) or ["        no files at all"]
    return DataError("\n".join([f"nothing usable among {whole.files} files:", *lines]))


def volume_ids(scans: Sequence[Scan], hasher: Hasher) -> list[str]:
    """The volume_id of every scan: a keyed hash of what names it in the hospital's own words."""
    return [hasher("volume", scan.identity.patient, scan.identity.volume, str(scan.facts.time_index)) for scan in scans]


def geometry_hash(shape: Sequence[int], affine: np.ndarray, hasher: Hasher) -> str:
    """Names where voxels lie in the world: what `pixel_hash` leaves out."""
    return hasher("geometry", json.dumps([list(shape), (np.round(affine, 6) + 0.0).tolist()]))


def masks_hash(whole: Collection, masks: Mapping[int, str], hasher: Hasher) -> str:
    """Names all masks: labels.parquet has their ids, which stay where a mask is drawn anew."""
    attached = [(masks[one.scan], one.mask) for one in whole.masks]
    return hasher("masks", *sorted(f"{name} {mask.pixel_hash} {geometry_hash(mask.shape, mask.affine, hasher)}" for name, mask in attached))


def near_groups(scans: Sequence[Scan]) -> dict[int, int]:
    """Index of a scan -> the number of its group of near-duplicates, see groups_of_near."""
    series = [f"{scan.identity.patient}\0{scan.identity.series}" for scan in scans]
    return groups_of_near([scan.near_hash for scan in scans], [scan.pixel_hash for scan in scans], series)


def manifest_rows(
    scans: Sequence[Scan],
    ids: Sequence[str],
    reports: Sequence[Report],
    splits: Sequence[str],
    near: Mapping[int, int],
    hasher: Hasher,
) -> list[dict[str, Any]]:
    """One row per scan, in the order of the scans."""
    report_of = {index: report.report_id for report in reports for index in report.scans}
    groups = groups_of_equals(scan.pixel_hash for scan in scans)
    days = study_days([(scan.identity.patient, scan.identity.date) for scan in scans])
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
                "study_day": days[index],
                "age_years": cap_age(facts.age_years),
                "sex": facts.sex,
                "scanner": facts.scanner,
                "site": hasher("site", identity.site) if identity.site else "",
                "report_id": report_of.get(index, ""),
                "split": splits[index],
                "pixel_hash": scan.pixel_hash,
                "geometry_hash": geometry_hash(scan.shape, scan.affine, hasher),
                "duplicate_group": groups.get(index, 0),
                "near_hash": scan.near_hash,
                "near_duplicate_group": near.get(index, 0),
                "flags": sorted(
                    {*facts.flags, *["duplicate_pixels"] * (index in groups), *["near_duplicate"] * (index in near)},
                ),
            }
        )
    return rows


def splits_of(
    scans: Sequence[Scan],
    labels: Mapping[int, Mapping[str, Value]],
    tables: Sequence[Table],
    near: Mapping[int, int],
    config: IngestConfig,
) -> list[str]:
    """The split that the data or a table bring; else one drawn by patient. A patient's scans never part.

    A scan of which nothing says it goes where its equals are: a copy of a test image is not trained on. Raises DataError
    where what was brought puts one patient into two splits.
    """
    brought = [_brought_split(scan, tables) for scan in scans]
    by_patient: dict[str, set[str]] = defaultdict(set)
    for scan, part in zip(scans, brought, strict=True):
        by_patient[scan.identity.patient] |= part
    torn = sum(len(parts) > 1 for parts in by_patient.values())
    if torn:
        raise DataError(f"{torn} patients are in more than one of train, val and test; correct the column that gives the split")
    patients, hashes = [scan.identity.patient for scan in scans], [scan.pixel_hash for scan in scans]
    known = beside_equals([next(iter(by_patient[patient]), "") for patient in patients], patients, hashes, near)
    if all(known):
        return known
    names = {name for values in labels.values() for name in values}
    name = config.split.stratify or (names.pop() if len(names) == 1 else "")
    strata = [str(labels.get(index, {}).get(name, "")) for index in range(len(scans))]
    few = len(set(strata)) <= max(2, len(scans) // 4)
    drawn = split_patients(patients, hashes, strata if few else [""] * len(scans), config.split, near)
    return [part or other for part, other in zip(known, drawn, strict=True)]


def _brought_split(scan: Scan, tables: Sequence[Table]) -> set[str]:
    if scan.facts.split:
        return {scan.facts.split}
    for table in tables:
        if "split" in table.roles:
            rows = table.rows_for_file(scan.source.paths[0]) or table.rows_for(scan.identity)[1]
            if rows:
                return {table.hint(row).split for row in rows} - {""}
    return set()


def ledger_entries(whole: Collection, ids: Sequence[str], hasher: Hasher) -> list[LedgerEntry]:
    """One entry per file, in the order of the keyed hashes."""
    id_of = {scan.identity.volume: ids[index] for index, scan in reversed(list(enumerate(whole.scans)))}
    entries = [entry(fate, hasher("file", fate.path), id_of.get(fate.volume, "")) for fate in whole.fates]
    return sorted(entries, key=lambda one: one.file_key)


def ledger_row(one: LedgerEntry) -> dict[str, Any]:
    """The row of ledger.parquet."""
    return {name: getattr(one, name) for name in manifest.LEDGER_COLUMNS}


def write_or_remove(path: Path, rows: list[dict[str, Any]], columns: Mapping[str, tuple[str, str]]) -> None:
    """Write the table, or take away what an earlier run left."""
    if rows:
        manifest.write_rows(path, rows, columns)
    else:
        path.unlink(missing_ok=True)


def label_table(
    ids: Sequence[str], labels: Mapping[int, Mapping[str, Value]], masks: Mapping[int, str]
) -> tuple[list[dict[str, Any]], dict[str, tuple[str, str]]]:
    """Rows and columns of labels.parquet: volume_id, one column per label, mask_id where there are masks."""
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


def source_rows(whole: Collection, ids: Sequence[str], masks: Mapping[int, str]) -> list[dict[str, Any]]:
    """Rows of private/sources.parquet: how to read every volume and mask again."""
    rows = []
    for item_id, scan in zip(ids, whole.scans, strict=True):
        detail = json.dumps(scan.source.detail, sort_keys=True)
        rows.append(source_row(item_id, scan.source.reader, scan.source.paths, detail, scan.pixel_hash))
    for attached in whole.masks if masks else []:
        rows.append(source_row(masks[attached.scan], "mask", (attached.mask.path,), "{}", attached.mask.pixel_hash))
    return rows


def write_private(
    out: Path,
    whole: Collection,
    ids: Sequence[str],
    masks: Mapping[int, str],
    tables: Sequence[Table],
    entries: Sequence[LedgerEntry],
    hasher: Hasher,
) -> None:
    """Write what only private/ may hold: where every volume came from, which file a key stands for, and every identifier that was met."""
    manifest.write_rows(out / manifest.SOURCES, source_rows(whole, ids, masks), manifest.SOURCE_COLUMNS)
    files = ({name: getattr(one, name) for name in manifest.FILE_COLUMNS} for one in entries)
    manifest.write_rows(out / manifest.FILES, files, manifest.FILE_COLUMNS)
    identifiers = identifier_rows(whole, tables, hasher)
    manifest.write_rows(out / manifest.IDENTIFIERS, identifiers, manifest.IDENTIFIER_COLUMNS)


def source_row(item_id: str, reader: str, paths: tuple[str, ...], detail: str, pixel_hash: str) -> dict[str, Any]:
    """One such row."""
    return {"item_id": item_id, "reader": reader, "paths": list(paths), "detail": detail, "pixel_hash": pixel_hash}

"""The tables of a DATA folder: which columns they have, what each means, and nothing else gets in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcl.foundation.errors import DataError, UserError
from medcl.foundation.files import sha256_of_files, sync_folder

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MANIFEST = "manifest.parquet"
LEDGER = "ledger.parquet"
REPORTS = "reports.parquet"
LABELS = "labels.parquet"
SOURCES = "private/sources.parquet"
IDENTIFIERS = "private/identifiers.parquet"
FILES = "private/files.parquet"

ROWS_AT_ONCE, BATCHES_PER_FILE = 65_536, 16

# column -> (type, meaning). `text[]` and friends are lists.
MANIFEST_COLUMNS: dict[str, tuple[str, str]] = {
    "volume_id": ("text", "keyed hash; what every other table points to"),
    "patient_key": ("text", "keyed hash of the patient; splits and draws are made by it"),
    "study_key": ("text", "keyed hash of the study"),
    "series_key": ("text", "keyed hash of the series; volumes of one time series share it"),
    "modality": ("text", "ct, mr, pet, xray, mammography, ultrasound, shape, ... or unknown"),
    "kind": ("text", "volume or picture (z = 1)"),
    "shape": ("integer[]", "voxels along x, y, z of the array as read"),
    "spacing_mm": ("number[]", "distance between neighbouring voxels along x, y, z; 1 where a picture does not say"),
    "orientation": ("text", "directions in which the array axes grow, e.g. RAS"),
    "units": ("text", "HU, SUV, arbitrary or display"),
    "body_part": ("text", "from a closed vocabulary, empty where unknown"),
    "sequence": ("text", "acquisition numbers as a JSON object: repetition_time_ms, echo_time_ms, kvp, ..."),
    "time_index": ("integer", "place in a time series, 0 where there is none"),
    "age_years": ("number", "capped at 89; missing where unknown"),
    "sex": ("text", "F, M, O or empty"),
    "report_id": ("text", "the paired report in reports.parquet, or empty"),
    "split": ("text", "train, val or test; by patient"),
    "pixel_hash": ("text", "hash of shape and values in RAS order; not keyed, so that leaks between data sets can be found"),
    "geometry_hash": ("text", "keyed hash of shape and affine, to 0.000001 mm: two such hashes, two places or sizes of the voxels"),
    "duplicate_group": ("integer", "volumes with one number above 0 have identical pixels"),
    "near_hash": ("text", "perceptual hash: v or p and 256 bits, not keyed; few bits differ between guises of one scan; may be empty"),
    "near_duplicate_group": ("integer", "volumes with one number above 0 look like one scan in several guises"),
    "study_day": ("integer", "days from the patient's first study among these; missing where a date is not known"),
    "scanner": ("text", "who made it, one word of a closed list; empty where unknown"),
    "site": ("text", "keyed hash of the institution; empty where unknown"),
    "flags": ("text[]", "doubts for a person to review, stable codes"),
}
LEDGER_COLUMNS: dict[str, tuple[str, str]] = {
    "file_key": ("text", "keyed hash of the file's path inside its source"),
    "status": ("text", "used, skipped or refused"),
    "reason": ("text", "stable code, see medcl.ingest.ledger.REASONS"),
    "detail": ("text", "numbers that explain the reason; never a value of the file's text"),
    "volume_id": ("text", "the volume it went into (the first, where it holds several), or empty"),
}
REPORT_COLUMNS: dict[str, tuple[str, str]] = {
    "report_id": ("text", "keyed hash"),
    "study_key": ("text", "keyed hash of the study (of the patient or file, where the table names no study)"),
    "text": ("text", "the whole report, scrubbed"),
    "findings": ("text", "its Findings section, or empty"),
    "impression": ("text", "its Impression section, or empty"),
    "technique": ("text", "its Technique section, or empty"),
    "comparison": ("text", "its Comparison section, or empty"),
    "sides": ("text", 'JSON: numbers of the sentences of `text` that name a side, as {"left": [0], "right": [2], "both": [3]}'),
    "text_group": ("integer", "reports with one number above 0 say nearly the same in the same words"),
    "language": ("text", "en, de, fr, es or empty"),
    "flags": ("text[]", "doubts and what was scrubbed, stable codes"),
}
SOURCE_COLUMNS: dict[str, tuple[str, str]] = {
    "item_id": ("text", "a volume_id or a mask_id"),
    "reader": ("text", "which reader made it"),
    "paths": ("text[]", "files it is made of; bytes of a name that are no UTF-8 as U+10FF80 to U+10FFFF"),
    "detail": ("text", "JSON for the reader"),
    "pixel_hash": ("text", "what must come out again"),
}
FILE_COLUMNS: dict[str, tuple[str, str]] = {
    "file_key": ("text", "as in the ledger"),
    "path": ("text", "the file; bytes of its name that are no UTF-8 as U+10FF80 to U+10FFFF"),
}
IDENTIFIER_COLUMNS: dict[str, tuple[str, str]] = {
    "fingerprint": ("text", "keyed hash, by which an audit names it"),
    "kind": ("text", "patient, accession, study, series, name, date or file"),
    "value": ("text", "the identifier itself, as it was met"),
}


_OF_FILES = {"path", "paths", "value"}
_TO_THE_END = {0xDC00 + byte: 0x10FF00 + byte for byte in range(128, 256)}  # what Python makes of such a byte -> a private character
_BACK = {there: here for here, there in _TO_THE_END.items()}


def says_spacing(row: Mapping[str, Any]) -> bool:
    """Whether a row's spacing is the scan's: pictures that do not say theirs have 1."""
    return row["kind"] != "picture" or set(row["spacing_mm"]) != {1}


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]) -> pa.Table:
    """A typed table of exactly these columns. Raises KeyError for an unknown or missing one: the schema is closed."""
    import pyarrow as pa

    rows = list(rows)
    for row in rows:
        if row.keys() != columns.keys():
            raise KeyError(f"columns {sorted(row.keys() ^ columns.keys())} do not fit the schema")
    return pa.Table.from_pylist([{name: _in_unicode(name, value) for name, value in row.items()} for row in rows], schema=_schema(columns))


def _in_unicode(column: str, value: Any) -> Any:
    """Names of files are bytes, and `Müller` of an older system is no UTF-8: such bytes go to the end of Unicode, and come back."""
    if column in _OF_FILES:
        return value.translate(_TO_THE_END) if isinstance(value, str) else [one.translate(_TO_THE_END) for one in value]
    return value


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]) -> None:
    """Write rows as parquet, whole or not at all, 65,536 of them in memory at a time.

    Up to 1,048,576 rows are one file; more are a folder of that name with as many in each part, which pandas and pyarrow
    read alike. Raises KeyError as `table` does.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        parts = _write_parts(partial, iter(rows), columns)
        if path.is_dir() or len(parts) > 1:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        os.replace(parts[0] if len(parts) == 1 else partial, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_parts(folder: Path, rows: Iterator[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]) -> list[Path]:
    """At least one file, without rows where there are none."""
    import pyarrow.parquet as pq

    parts: list[Path] = []
    batch = list(islice(rows, ROWS_AT_ONCE))
    while batch or not parts:
        parts.append(folder / f"part-{len(parts):05d}.parquet")
        with open(parts[-1], "wb") as file:
            with pq.ParquetWriter(file, _schema(columns)) as writer:
                for _ in range(BATCHES_PER_FILE):
                    writer.write_table(table(batch, columns))
                    batch = list(islice(rows, ROWS_AT_ONCE))
                    if not batch:
                        break
            file.flush()
            os.fsync(file.fileno())
    return parts


def digests(folder: Path, *names: str) -> dict[str, str]:
    """Name -> SHA-256 of the table as it lies in the folder; tables that are not there have none."""
    found = {}
    for name in names:
        path = folder / name
        if path.exists():
            files = [part.relative_to(folder).as_posix() for part in path.iterdir()] if path.is_dir() else [name]
            found[Path(name).stem] = sha256_of_files(folder, files)
    return found


def read_table(path: Path) -> pd.DataFrame:
    """Read parquet into pandas. Raises UserError where the file is missing, DataError where it is damaged."""
    import pandas as pd

    if not Path(path).exists():
        raise UserError(f"{path}: missing; the folder is damaged, run `medcl ingest` again")
    frame = read_parquet(path)
    for name in ("shape", "spacing_mm", "flags", "paths"):
        if name in frame.columns:
            frame[name] = [tuple(value) for value in frame[name]]
    for name in _OF_FILES & set(frame.columns):
        values = [_as_named(value) for value in frame[name]]
        frame[name] = pd.Series(values, index=frame.index, dtype=object)
    return frame


def _as_named(value: Any) -> Any:
    return value.translate(_BACK) if isinstance(value, str) else tuple(one.translate(_BACK) for one in value)


def _schema(columns: Mapping[str, tuple[str, str]]) -> pa.Schema:
    import pyarrow as pa

    kinds = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64()}
    fields = []
    for name, (kind, meaning) in columns.items():
        base = kinds[kind.removesuffix("[]")]
        fields.append(pa.field(name, pa.list_(base) if kind.endswith("[]") else base, metadata={"meaning": meaning}))
    return pa.schema(fields)


def read_parquet(path: Path) -> pd.DataFrame:
    """Read any table as it is. Raises DataError naming the file where it is damaged."""
    import pandas as pd
    import pyarrow as pa

    try:
        return pd.read_parquet(path)
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path}: damaged, it cannot be read as a table ({type(error).__name__}); restore it or make its folder again"
        ) from None

"""A store whose DATA has changed: volumes that are still the same stay as they were prepared, only the others are prepared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcl.foundation.files import CARD, read_json, write_json
from medcl.ingest.manifest import read_parquet
from medcl.store.volume_store import INDEX, PREPARED
from medcl.store.work import ARRAYS, scan_hash

if TYPE_CHECKING:
    import pandas as pd

PARTS = "parts"
_KEPT = "kept.json"
_LISTS = ("shape", "spacing_mm", "affine", "checksums", "frame", "mask_checksums", "mask_frame", "body_box", "mask_boxes")


def keep_what_stays(out: Path, manifest: pd.DataFrame, has_mask: set[str]) -> int | None:
    """Make the records of `out`, whole or not, records for this manifest; those of other volumes go. Returns how many stay.

    A volume stays where its id is the same and what decides how it is prepared. Not where it has a mask, which may have been drawn
    anew, nor where its pool also holds a volume that is gone or has changed: what leaves DATA leaves the store. Returns None and
    changes nothing where no id is in both: these are other data.
    """
    known = {record["volume_id"]: record for record in _records(out)}
    rows = {str(row["volume_id"]): (number, scan_hash(row)) for number, row in enumerate(manifest.to_dict("records"))}
    if not known.keys() & rows.keys():
        return None
    used = {volume: record for volume, record in known.items() if record["status"] == "used"}
    same = {volume for volume, record in used.items() if volume in rows and rows[volume][1] == record["columns"].get("scan_hash")}
    stale = {record["columns"].get("file") for volume, record in used.items() if volume not in same}
    stay = [
        {**used[volume], "row": rows[volume][0]}
        for volume in used
        if volume in same - has_mask and used[volume]["columns"]["file"] not in stale and not used[volume]["columns"]["mask_file"]
    ]
    (out / PARTS).mkdir(exist_ok=True)
    written = [int(path.name[:7]) for path in (out / ARRAYS).glob("[0-9]*") if path.name[:7].isdigit()]
    write_json(out / PARTS / _KEPT, {"first": max(written, default=-1) + 1, "records": stay})
    for path in (out / PARTS).glob("[0-9]*.json"):
        path.unlink()
    return len(stay)


def kept(out: Path) -> tuple[int, list[dict[str, Any]]]:
    """The number of the first new task, and the records that stay: 0 and none in a store that is made for the first time."""
    path = out / PARTS / _KEPT
    content = read_json(path) if path.is_file() else {"first": 0, "records": []}
    return content["first"], content["records"]


def parts(out: Path) -> Iterator[dict[str, Any]]:
    """Every record so far, in no order."""
    yield from kept(out)[1]
    for path in (out / PARTS).glob("[0-9]*.json"):
        yield from read_json(path)


def remove_unused(out: Path, index: pd.DataFrame) -> None:
    """Delete the arrays that no row points to."""
    used = {*index["file"], *index["mask_file"]}
    for path in (out / ARRAYS).iterdir():
        if f"{ARRAYS}/{path.name}" not in used:
            path.unlink()


def _records(out: Path) -> Iterator[dict[str, Any]]:
    """What is prepared already: by the index of a whole store, by the parts of one that was begun."""
    if not (out / CARD).is_file():
        yield from parts(out)
        return
    index = read_parquet(out / INDEX)
    is_of_this_medcl = {*PREPARED} <= {*index.columns}
    for row in index.to_dict("records"):
        own = {name: row[name] for name in PREPARED} | {name: np.asarray(row[name]).tolist() for name in _LISTS} if is_of_this_medcl else {}
        yield {"row": -1, "volume_id": row["volume_id"], "status": "used", "reason": "", "detail": "", "columns": own}

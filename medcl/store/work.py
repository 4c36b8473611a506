"""One task of `prepare`, in whatever process it runs: read, make standard, write, and tell what became of each volume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from medcl.foundation import geometry
from medcl.foundation.errors import DataError
from medcl.foundation.side_by_side import begin_child
from medcl.store.arrays import write_array, write_pool
from medcl.store.body import body_box
from medcl.store.plan import Task
from medcl.store.recipe import Recipe
from medcl.store.resample import keep_small_labels, nearest_on_grid
from medcl.store.standard import BAD_SCAN, Prepared, Refused, as_integers, prepare_volume

ARRAYS = "arrays"
# Raised whenever the same scan and recipe become other voxels. 2: body crops of CT reach the body's low side.
_PREPARATION = 2
# Manifests of an earlier medcl have no `geometry_hash`: spacing, shape and orientation say less, but most of it.
_DECIDING = ("pixel_hash", "geometry_hash", "shape", "spacing_mm", "orientation", "units", "modality", "kind")


@dataclass(frozen=True)
class Context:
    """What every task needs. data: an opened DATA folder; out: the store's folder."""

    data: Any
    out: Path
    recipe: Recipe

    @cached_property
    def mask_ids(self) -> dict[str, str]:
        """volume_id -> mask_id, for the volumes that have a mask (the first, where there are several)."""
        labels = self.data.labels
        if labels is None or not {"volume_id", "mask_id"} <= set(labels.columns):
            return {}
        named = labels.dropna(subset=["mask_id"]).drop_duplicates("volume_id")
        return {str(volume): str(mask) for volume, mask in zip(named["volume_id"], named["mask_id"], strict=True) if str(mask)}


def scan_hash(said: Mapping[Any, Any]) -> str:
    """Names all that decides what a manifest's row becomes, the way of preparing included: where it differs, it is prepared again."""
    found = [_PREPARATION, *(np.asarray(said[name]).tolist() for name in _DECIDING if name in said)]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:32]


_context: Context | None = None


def begin_worker(context: Context) -> None:
    """Called once in every worker process."""
    global _context
    begin_child()
    _context = context


def do_task_in_worker(task: Task) -> tuple[int, list[dict[str, Any]]]:
    """`do_numbered_task` with the context this process was begun with."""
    assert _context is not None
    return do_numbered_task(_context, task)


def do_numbered_task(context: Context, task: Task) -> tuple[int, list[dict[str, Any]]]:
    """The task's number, and `do_task`."""
    return task.number, do_task(context, task)


def do_task(context: Context, task: Task) -> list[dict[str, Any]]:
    """Prepare and write the task's volumes. Returns one JSON-able record per volume, in their order.

    A record has `row` (in the manifest), `volume_id`, `status` (used | refused), `reason` (ledger code), `detail`, and for used
    volumes `columns` (what goes into the index).
    """
    records, images, masks = [], [], []
    for row in task.rows:
        record, image, mask = _prepare_row(context, row)
        records.append(record)
        if image is not None:
            images.append((record, image))
        if mask is not None:
            masks.append((record, mask))
    folder, stem = context.out / ARRAYS, f"{task.number:07d}"
    _write(folder, stem, "", images, task.pooled)
    _write(folder, f"{stem}-mask", "mask_", masks, task.pooled)
    return records


def _write(folder: Path, stem: str, prefix: str, items: list[tuple[dict[str, Any], np.ndarray]], pooled: bool) -> None:
    if not items:
        return
    name = f"{stem}.pool" if pooled else f"{stem}.b2nd"
    places = write_pool(folder / name, [array for _, array in items]) if pooled else [(-1, *write_array(folder / name, items[0][1]))]
    for (record, _), (offset, size, checksums, *frame) in zip(items, places, strict=True):
        where = {"file": f"{ARRAYS}/{name}", "offset": offset, "nbytes": size, "checksums": checksums, "frame": [*chain(*frame)]}
        record["columns"] |= {f"{prefix}{key}": value for key, value in where.items()}


def _prepare_row(context: Context, row: int) -> tuple[dict[str, Any], np.ndarray | None, np.ndarray | None]:
    said = context.data.manifest.iloc[row].to_dict()
    volume_id = str(said["volume_id"])
    record: dict[str, Any] = {"row": row, "volume_id": volume_id, "status": "refused", "reason": "", "detail": ""}
    try:
        prepared = prepare_volume(context.data.volume(volume_id), context.recipe)
        mask, detail = _mask_on_grid(context, volume_id, prepared)
    except Refused as refusal:
        return record | {"reason": refusal.code, "detail": str(refusal)}, None, None
    except BAD_SCAN as error:
        return record | {"reason": "unreadable", "detail": _safe_detail(error, volume_id)}, None, None
    raw, columns = _encode(prepared, context.recipe)
    columns |= {"body_box": _numbers([body_box(prepared.array, prepared.affine, context.recipe)]), "mask_boxes": _mask_boxes(mask)}
    columns["scan_hash"] = scan_hash(said)
    return record | {"status": "used", "detail": detail, "columns": columns}, raw, mask


def _safe_detail(error: Exception, volume_id: str) -> str:
    """A message may name a path, and a path may name a patient: only what speaks of the volume by its key is kept."""
    message = str(error)
    return message if isinstance(error, DataError) and message.startswith(volume_id) else f"could not be read ({type(error).__name__})"


def _encode(prepared: Prepared, recipe: Recipe) -> tuple[np.ndarray, dict[str, Any]]:
    dtype, slope, intercept = recipe.storage()
    raw = as_integers(prepared.array, dtype, slope, intercept)
    columns = {
        "shape": [int(n) for n in raw.shape],
        "spacing_mm": list(geometry.spacing_mm(prepared.affine)),
        "orientation": geometry.orientation(prepared.affine) if recipe.kind == "volume" else "",
        "units": recipe.stored_units,
        "affine": [float(value) for value in prepared.affine.ravel()],
        "dtype": dtype,
        "slope": slope,
        "intercept": intercept,
        "background": prepared.background,
        "center": prepared.center,
        "spread": prepared.spread,
        "mask_file": "",
        "mask_offset": -1,
        "mask_nbytes": 0,
        "mask_checksums": [],
        "mask_frame": [],
    }
    return raw, columns


def _mask_boxes(mask: np.ndarray | None) -> list[int]:
    """Boxes around every label of a mask, in the order of the labels."""
    found = [] if mask is None else ndimage.find_objects(mask)
    return _numbers([[(edge.start, edge.stop) for edge in box] for box in found if box is not None])


def _numbers(boxes: list[list[tuple[int, int]]]) -> list[int]:
    return [int(number) for box in boxes for edge in box for number in edge]


def _mask_on_grid(context: Context, volume_id: str, prepared: Prepared) -> tuple[np.ndarray | None, str]:
    """The mask, and what the ledger says of it: a label that is gone would make its volume one without the finding."""
    mask_id = context.mask_ids.get(volume_id)
    if mask_id is None:
        return None, ""
    mask = context.data.mask(mask_id)
    labels = np.rint(np.asarray(mask.array)).astype(np.int64)
    if labels.min() < 0 or labels.max() > 255:
        raise Refused("wrong_mask", f"mask labels from {labels.min()} to {labels.max()}: expected 0 to 255")
    labels, affine, (x, y, z) = labels.astype(np.uint8), np.asarray(mask.affine, dtype=float), prepared.array.shape
    on_grid = nearest_on_grid(labels, affine, (x, y, z), prepared.affine)
    lost = keep_small_labels(labels, affine, on_grid, prepared.affine)
    return on_grid, f"mask labels without a voxel in the store: {', '.join(map(str, lost))}" if lost else ""

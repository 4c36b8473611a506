"""MedMNIST npz files, 2D and 3D: every item is its own patient, the official split is kept."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from medcl.foundation.types import Kind, Units, Volume
from medcl.ingest.grey import LUMINANCE
from medcl.ingest.growth import refuse_growth
from medcl.ingest.hints import Hint
from medcl.ingest.ledger import Refused
from medcl.ingest.records import Facts, Identity, Scan, Source, describe
from medcl.ingest.settings import IngestConfig

SPLITS = ("train", "val", "test")
_KNOWN = {
    "pneumoniamnist": "xray", "chestmnist": "xray", "breastmnist": "ultrasound", "organamnist": "ct", "organcmnist": "ct",
    "organsmnist": "ct", "organmnist3d": "ct", "nodulemnist3d": "ct", "fracturemnist3d": "ct", "adrenalmnist3d": "shape",
    "vesselmnist3d": "shape",
}  # fmt: skip


def read_scans(path: str, relative: str, hint: Hint, config: IngestConfig) -> Iterator[Scan]:
    """Yield one scan per item of train, val and test. Raises Refused for another layout."""
    check_layout(path, config.budget_bytes)
    for split in SPLITS:
        images = _images(path, split)
        if images is None:
            continue
        labels = _labels(path, split, len(images))
        kind = kind_of(images)
        modality = hint.modality or _known_modality(path)
        detail = {"modality": modality, "units": config.units or ("display" if kind == "picture" else "arbitrary"), "kind": kind}
        flags = () if modality != "unknown" else ("modality_unknown",)
        for index in range(len(images)):
            name = f"{relative}#{split}{index}"
            volume = _volume(images[index], detail)
            label = tuple(float(value) for value in np.ravel(labels[index])) if labels is not None else ()
            facts = Facts(split=split, label=label, flags=flags)
            source = Source("medmnist", (path,), {**detail, "split": split, "index": index})
            yield describe(volume, Identity(name, name, name, file=relative, stack=name, volume=name), source, facts)


def read_again(source: Source, config: IngestConfig) -> Volume:
    """The item that `source` describes; the file's arrays stay in memory for the next one."""
    images = _kept_images(source.paths[0], source.detail["split"])
    return _volume(images[int(source.detail["index"])], source.detail)


def kind_of(images: np.ndarray) -> Kind:
    """`volume` for (n, x, y, z), `picture` for (n, rows, columns) and (n, rows, columns, 3)."""
    if images.ndim == 4 and images.shape[-1] != 3:
        return "volume"
    if images.ndim in (3, 4):
        return "picture"
    raise Refused("npz_layout", f"{images.ndim} axes")


def check_layout(path: str, budget: int) -> None:
    """Raise Refused where the npz is damaged, too large, or not laid out like MedMNIST."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            # Binary shapes shrink to less than a two-hundredth.
            refuse_growth(sum(sizes.values()), os.path.getsize(path), harmless=3 * 2**28)
            damaged = archive.testzip() if sum(sizes.values()) <= 8 * budget else None
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError):
        raise Refused("unreadable") from None
    if max(sizes.values(), default=0) > 8 * budget:
        raise Refused("too_large", f"{max(sizes.values())} bytes")
    if damaged:
        raise Refused("unreadable", "checksum")
    if not any(f"{split}_images.npy" in sizes for split in SPLITS):
        raise Refused("npz_layout", f"{len(sizes)} arrays")


def _known_modality(path: str) -> str:
    name = os.path.basename(path).lower()
    return next((modality for known, modality in _KNOWN.items() if name.startswith(known)), "unknown")


def _array(path: str, name: str) -> np.ndarray | None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if name not in archive.files:
                return None
            array = archive[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise Refused("unreadable", type(error).__name__) from None
    if array.dtype.kind not in "iuf":
        raise Refused("npz_layout", f"type {array.dtype.kind}")
    return array


def _images(path: str, split: str) -> np.ndarray | None:
    images = _array(path, f"{split}_images")
    if images is not None:
        kind_of(images)
    return images


def _labels(path: str, split: str, count: int) -> np.ndarray | None:
    labels = _array(path, f"{split}_labels")
    if labels is not None and len(labels) != count:
        raise Refused("npz_layout", f"{len(labels)} labels for {count} images")
    return labels


@lru_cache(maxsize=2)
def _kept_images(path: str, split: str) -> np.ndarray:
    images = _images(path, split)
    if images is None:
        raise Refused("npz_layout")
    return images


def _volume(image: np.ndarray, detail: dict[str, Any]) -> Volume:
    kind: Kind = detail["kind"]
    units: Units = detail["units"]
    if kind == "volume":
        return Volume(image, np.eye(4), detail["modality"], units)
    grey = image if image.ndim == 2 else np.rint(image.astype(np.float32) @ LUMINANCE).astype(np.uint8)
    return Volume(np.ascontiguousarray(grey.T)[:, :, None], np.eye(4), detail["modality"], units, "picture")

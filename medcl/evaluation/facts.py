"""What a study writes beside its numbers: `study.json`, the embedding map and the sheet of neighbours."""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

import medcl
from medcl.evaluation.knn import nearest
from medcl.evaluation.linear import principal_components

FACTS = "study.json"
MAP = "embedding_map.json"
NEIGHBOURS = "neighbours.json"
THUMBNAIL = 72
_LIBRARIES = ("torch", "numpy", "scipy", "monai")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {"medcl": medcl.__version__, "python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def embedding_map(embeddings: Mapping[str, np.ndarray], train: np.ndarray, shown: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """Test cases on the two leading components of the training cases, for every initialisation.

    embeddings: name -> (rows, dim); train, shown: rows; label: (shown,) class numbers.
    """
    content: dict[str, Any] = {"label": label.tolist(), "inits": {}}
    for name, rows in embeddings.items():
        mean, directions = principal_components(rows[train], 2)
        if directions.shape[1] == 2:
            centred = np.asarray(rows[shown], dtype=np.float64) - mean
            spread = np.var(np.asarray(rows[train], dtype=np.float64) - mean, axis=0).sum()
            explained = [float(np.var((rows[train] - mean) @ direction) / spread) for direction in directions.T]
            x, y = ((centred @ direction).round(4).tolist() for direction in directions.T)
            content["inits"][name] = {"x": x, "y": y, "explained": explained}
    return content


def neighbour_sheet(
    embeddings: Mapping[str, np.ndarray], train: np.ndarray, test: np.ndarray, label: np.ndarray, *, queries: int = 4, neighbours: int = 5
) -> dict[str, Any]:
    """For a few test cases (classes in turn) the training cases that each initialisation holds closest.

    label: (rows,) class numbers. Pictures are added by `add_pictures`.
    """
    by_class = [test[label[test] == own] for own in np.unique(label[test])]
    asked = [int(rows[place]) for place in range(queries) for rows in by_class if place < len(rows)][:queries]
    found = {name: train[nearest(rows[train], rows[asked], neighbours)].tolist() for name, rows in embeddings.items()}
    shown = sorted({*asked, *(row for lists in found.values() for one in lists for row in one)})
    return {"queries": asked, "inits": found, "label": {str(row): int(label[row]) for row in shown}, "side": THUMBNAIL, "pictures": {}}


def add_pictures(sheet: dict[str, Any], pictures: Mapping[int, np.ndarray]) -> None:
    """Put small grey pictures (rows, columns) of network values into a sheet."""
    for row, picture in pictures.items():
        sheet["pictures"][str(row)] = base64.b64encode(thumbnail(picture).tobytes()).decode()


def thumbnail(picture: np.ndarray, side: int = THUMBNAIL) -> np.ndarray:
    """A square uint8 picture: centred on black, contrast stretched between the 1st and 99th percentile."""
    from scipy.ndimage import zoom

    low, high = np.percentile(picture, (1, 99))
    scaled = np.clip((picture - low) / max(high - low, 1e-6), 0, 1)
    factor = side / max(scaled.shape)
    small = np.asarray(zoom(scaled, factor, order=1, grid_mode=True, mode="nearest"))[:side, :side]
    square = np.zeros((side, side))
    top, left = ((side - length) // 2 for length in small.shape)
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return (255 * np.clip(square, 0, 1)).astype(np.uint8)


def part_facts(patient: np.ndarray, label: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """How many cases and patients a part of the split holds, and of which class."""
    per_class = [int((label == own).sum()) for own in range(len(classes))]
    return {"cases": len(patient), "patients": len(np.unique(patient)), "per_class": per_class}

"""`DATA/overview.html`: what a person looks at before trusting a DATA folder; no identifier, and pictures only where asked."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np

from medcl.foundation import geometry
from medcl.foundation.pages import render_page
from medcl.foundation.progress import Progress
from medcl.foundation.types import Volume
from medcl.ingest.doubts import DOUBTS, may_hold_text
from medcl.ingest.ledger import REASONS, LedgerEntry
from medcl.ingest.manifest import says_spacing
from medcl.ingest.readers import read_again
from medcl.ingest.records import Scan, Source
from medcl.ingest.settings import IngestConfig
from medcl.ingest.workers import Workers

OVERVIEW = "overview.html"
PER_MODALITY = 12
_EXAMPLES = 3
_BINS = 16
_PIXELS = 168
_SLICED = 1.3  # an axis this much coarser than head to foot is the one across which slices were taken
Rows = Sequence[Mapping[str, Any]]


def overview_page(rows: Rows, entries: Iterable[LedgerEntry], numbers: Mapping[str, int], pictures: Mapping[int, str]) -> str:
    """The page. rows: of the manifest; numbers: words -> counts for its head; pictures: row -> data URI, see `thumbnails`."""
    modalities = [name for name, _ in Counter(row["modality"] for row in rows).most_common()]
    flags = Counter(flag for row in rows for flag in row["flags"])
    return render_page(
        "medcl.ingest",
        "overview.html",
        title="What ingest found",
        numbers=numbers,
        modalities=[
            _modality(name, [(place, row) for place, row in enumerate(rows) if row["modality"] == name], pictures) for name in modalities
        ],
        reasons=_reasons(entries),
        flags=[(flag, count, DOUBTS.get(flag, "")) for flag, count in sorted(flags.items(), key=lambda pair: (-pair[1], pair[0]))],
        thumbnails=len(pictures),
    )


def thumbnails(
    scans: Sequence[Scan], rows: Rows, config: IngestConfig, jobs: int, most_bytes: int, dask: str | None, progress: Progress
) -> dict[int, str]:
    """Row -> a middle slice as a data URI, for up to 12 scans of each modality, spread over the manifest.

    Scans that may have text burned in are left out. They are read again in disposable processes; one that fails is
    left out too.
    """
    chosen: list[int] = []
    for modality in dict.fromkeys(row["modality"] for row in rows):
        fit = [at for at, row in enumerate(rows) if row["modality"] == modality and not may_hold_text(row["flags"])]
        chosen += fit[:: max(1, -(-len(fit) // PER_MODALITY))]
    sources = [scans[place].source for place in chosen]
    with Workers(jobs, most_bytes, dask) as workers:
        work = workers.work(partial(thumbnail, config=config), sources, _none)
        return {chosen[place]: uri for place, uri in progress.track(work, len(chosen), "drawing the overview") if uri}


def thumbnail(source: Source, config: IngestConfig) -> str:
    """A middle slice of one scan as a PNG data URI; empty where it cannot be read."""
    from PIL import Image

    try:
        plane, (wide, high) = middle_slice(read_again(source, config))
    except Exception:  # whatever it is, the scan has its row and its fate already
        return ""
    low, most = np.percentile(plane, [1, 99])
    grey = np.uint8(255 * np.clip((plane - low) / max(float(most - low), 1e-6), 0, 1))
    scale = _PIXELS / max(wide, high)
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    stream = BytesIO()
    Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _none(_: Source) -> str:
    return ""


def middle_slice(volume: Volume) -> tuple[np.ndarray, tuple[float, float]]:
    """(rows, columns) float32 of the middle slice of the plane it was taken in, head or front up, the patient's right on
    the left; and its width and height in mm.
    """
    array, affine = volume.array, volume.affine
    if volume.kind == "picture":
        spacing = volume.spacing_mm
        return array[:, :, 0].T.astype(np.float32), (array.shape[0] * spacing[0], array.shape[1] * spacing[1])
    array, affine = geometry.reorient(array, affine, "LAS")
    spacing = geometry.spacing_mm(affine)
    thickest = int(np.argmax(spacing))
    across = thickest if spacing[thickest] > _SLICED * spacing[2] else 2
    plane = np.take(array, array.shape[across] // 2, axis=across).T[::-1]
    x, y = (axis for axis in range(3) if axis != across)
    return np.ascontiguousarray(plane, dtype=np.float32), (array.shape[x] * spacing[x], array.shape[y] * spacing[y])


def _modality(name: str, rows: Sequence[tuple[int, Mapping[str, Any]]], pictures: Mapping[int, str]) -> dict[str, Any]:
    shapes = np.array([row["shape"] for _, row in rows], dtype=float)
    spacings = np.array([row["spacing_mm"] for _, row in rows], dtype=float)
    deep, said = shapes[:, 2] > 1, np.array([says_spacing(row) for _, row in rows])
    measures = [
        ("pixel spacing, mm", spacings[said, 0]),
        ("slice spacing, mm", spacings[deep, 2]),
        ("voxels across", shapes[:, 0]),
        ("slices", shapes[deep, 2]),
    ]
    return {
        "name": name,
        "scans": len(rows),
        "patients": len({row["patient_key"] for _, row in rows}),
        "histograms": [_histogram(words, values) for words, values in measures if len(values)],
        "pictures": [pictures[place] for place, _ in rows if place in pictures],
    }


def _histogram(words: str, values: np.ndarray) -> dict[str, Any]:
    """Bars in a box of 100 x 40, and what the ends of the axis stand for."""
    low, high = float(values.min()), float(values.max())
    ends = {"name": words, "low": f"{low:.4g}", "high": f"{high:.4g}", "median": f"{np.median(values):.4g}"}
    if high == low:
        return ends | {"bars": []}
    counts, _ = np.histogram(values, bins=_BINS, range=(low, high))
    width = 100 / _BINS
    bars = [
        {"x": f"{place * width + 0.4:.2f}", "y": f"{40 - tall:.2f}", "width": f"{width - 0.8:.2f}", "height": f"{tall:.2f}"}
        for place, count in enumerate(counts)
        if (tall := 40 * count / counts.max()) > 0
    ]
    return ends | {"bars": bars}


def _reasons(entries: Iterable[LedgerEntry]) -> list[dict[str, Any]]:
    """The most frequent first; examples are keys of the ledger."""
    found: dict[str, dict[str, Any]] = {}
    for one in entries:
        if one.status != "used":
            own = found.setdefault(one.reason, {"code": one.reason, "status": one.status, "files": 0, "examples": []})
            own["files"] += 1
            if len(own["examples"]) < _EXAMPLES:
                own["examples"].append(one.file_key)
            own["meaning"] = REASONS[one.reason][1]
    return sorted(found.values(), key=lambda own: (-own["files"], own["code"]))

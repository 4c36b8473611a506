"""Scans to embeddings: read, checked against the contract, prepared and shown as in training; what contradicts is refused."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcl.export.backbone import Backbone, Contract, find_backbone, load_backbone
from medcl.foundation import geometry
from medcl.foundation.errors import DataError, MedclError, UserError
from medcl.foundation.files import hash_of_folder, write_whole
from medcl.foundation.progress import Progress, Silent
from medcl.foundation.side_by_side import begin_child, begun
from medcl.foundation.types import Features, Volume
from medcl.ingest import IngestConfig, read_scans
from medcl.ingest.duplicates import pixel_hash
from medcl.ingest.ledger import count_reasons, explain_counts
from medcl.ingest.reading import Reading
from medcl.ingest.units import why_not_hounsfield
from medcl.store.standard import Refused, as_stored, prepare_volume
from medcl.views.batched import WINDOW_OVERLAP

_BATCH = 4
_SHOWN = 10
_KINDS = (".parquet", ".npz")


@dataclass(frozen=True)
class Embedded:
    """What `embed_files` did. refused: one message per scan or volume that was not embedded."""

    counts: dict[str, int]
    refused: list[str]
    lines: list[str]


def embed_scan(backbone: Backbone, scan: str | Path | Volume | np.ndarray, settings: IngestConfig | None = None) -> Features:
    """Features of one volume or picture, given as a Volume or as what ingest reads (a file, a folder of slices).

    pooled: (1, dim), the mean over windows that cover the scan. dense: the feature maps of each window, (windows, channel,
    *space), windows in the order of `Backbone.views.windows`. settings: for files that do not say what they are; by
    default such a file (NIfTI, PNG) is taken to be of the backbone's modality, and its values are then checked.
    Raises UserError naming the field that contradicts the contract and the way out, DataError where nothing is readable.
    """
    if isinstance(scan, np.ndarray):
        raise UserError("embed: an array says neither units nor spacing; give Volume(array, affine, modality, units), or a file")
    if isinstance(scan, Volume):
        return embed_volume(backbone, scan)
    scan = Path(scan)
    volumes = _read(scan, backbone.contract, settings).volumes
    if len(volumes) > 1:
        raise UserError(f"{scan}: holds {len(volumes)} volumes; name one file or series, or use `medcl embed`, which writes a row for each")
    return embed_volume(backbone, volumes[0])


def embed_volume(backbone: Backbone, volume: Volume, overlap: float = WINDOW_OVERLAP) -> Features:
    """Features of one Volume; see `embed_scan`. overlap: of neighbouring windows, 0 to below 1."""
    parts = list(_of_windows(backbone, volume, overlap))
    maps = tuple(torch.cat(level) for level in zip(*(part.dense for part in parts), strict=True))
    return Features(torch.cat([part.pooled for part in parts]).mean(dim=0, keepdim=True), maps)


def _of_windows(backbone: Backbone, volume: Volume, overlap: float = WINDOW_OVERLAP) -> Iterator[Features]:
    """Features of a few windows at a time, in the order of `Backbone.views.windows`: all maps of a long scan may not fit into memory."""
    check_claims(volume, backbone.contract)
    try:
        recipe = backbone.contract.recipe
        prepared = as_stored(prepare_volume(volume, recipe), *recipe.storage())
    except Refused as refusal:
        raise UserError(str(refusal)) from None
    views = backbone.views
    windows = views.windows(prepared.array.shape, prepared.affine, overlap=overlap)
    device = next(backbone.parameters()).device
    for start in range(0, len(windows), _BATCH):
        images = [_image(views.render_prepared(prepared, window), views.flat) for window in windows[start : start + _BATCH]]
        with torch.inference_mode():
            features = backbone(torch.stack(images).to(device))
        yield features


def check_claims(volume: Volume, contract: Contract) -> None:
    """Raise UserError where kind, modality or units are not what the backbone was trained on, or values are not what the units claim."""
    if volume.kind != contract.kind:
        raise UserError(f"kind '{volume.kind}': this backbone takes {contract.kind}s; use one that was trained on {volume.kind}s")
    if volume.modality not in contract.modalities:
        accepted = " or ".join(contract.modalities)
        raise UserError(f"modality '{volume.modality}': this backbone takes {accepted}; use one that was trained on {volume.modality}")
    if volume.units not in contract.units:
        accepted = " or ".join(contract.units)
        raise UserError(
            f"units '{volume.units}' ({_range(volume)}): this backbone takes {accepted}; give the original scan (values that were windowed "
            f"or rescaled cannot be brought back), or, where the file holds {contract.units[0]} without saying so, --settings FILE with "
            f"`units: {contract.units[0]}`"
        )
    intensity = contract.recipe.intensity
    window = (intensity.low, intensity.high) if intensity.name == "window" else None
    problem = why_not_hounsfield(volume.array, window) if volume.units == "HU" else ""
    if problem:
        raise UserError(f"units 'HU' ({_range(volume)}): {problem}")


def _range(volume: Volume) -> str:
    return f"values {float(volume.array.min()):g} to {float(volume.array.max()):g}"


@dataclass(frozen=True)
class _Row:
    """An embedding: of which volume of its scan, from 0, and the hash of that volume's pixels, as in a manifest."""

    volume: int
    pixel_hash: str
    embedding: np.ndarray


class _Embedder:
    """Embeds every volume of a scan; what is refused comes back as errors, so that the others go on."""

    def __init__(self, network: Backbone, settings: IngestConfig | None) -> None:
        self.network, self.settings = network, settings

    def __call__(self, scan: str | Path) -> tuple[list[_Row], list[MedclError]]:
        rows: list[_Row] = []
        errors: list[MedclError] = []
        try:
            reading = _read(scan, self.network.contract, self.settings)
        except MedclError as error:
            return rows, [error]
        for place, volume in enumerate(reading.volumes):
            try:
                pooled = torch.cat([part.pooled for part in _of_windows(self.network, volume)]).mean(dim=0)
                rows.append(_Row(place, pixel_hash(volume), pooled.numpy()))
            except UserError as error:
                errors.append(UserError(f"{_file_of(reading, place) or scan}, volume {place}: {error}"))
        return rows, errors


def _file_of(reading: Reading, place: int) -> str:
    """The first file of a volume; of several volumes in one file, the ledger names it with the first of them."""
    first: dict[int, str] = {}
    for told in reading.ledger:
        if told.volume_id:
            first.setdefault(int(told.volume_id), told.file_key)
    return first.get(max((known for known in first if known <= place), default=-1), "")


_embedder: _Embedder | None = None  # of a worker process


def _begin_worker(backbone: Path, settings: IngestConfig | None, threads: int) -> None:
    global _embedder
    begin_child()
    torch.set_num_threads(threads)
    _embedder = _Embedder(load_backbone(backbone), settings)


def _embed_in_worker(scan: str | Path) -> tuple[list[_Row], list[MedclError]]:
    assert _embedder is not None
    return _embedder(scan)


@contextmanager
def _answers(
    network: Backbone, folder: Path, scans: Sequence[str | Path], settings: IngestConfig | None, jobs: int
) -> Iterator[Iterator[Any]]:
    """What became of each scan, in their order."""
    if jobs == 1:
        yield map(_Embedder(network, settings), scans)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(jobs, mp_context=server, initializer=_begin_worker, initargs=(folder, settings, threads))
    with begun(pool, jobs):
        try:
            yield pool.map(_embed_in_worker, scans)
        except BrokenExecutor:
            raise DataError("a worker process died, most likely for want of memory; run the same command with fewer --jobs") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def embed_files(
    backbone: str | Path,
    scans: Sequence[str | Path],
    out: str | Path,
    *,
    settings: IngestConfig | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Embedded:
    """Embed every volume of every scan into one table: `scan`, `volume`, `pixel_hash`, `embedding` (dim float32 numbers).

    scan: the place in `scans`, from 0; volume: the place within that scan, from 0; pixel_hash: the one that `manifest.parquet` has for the
    same pixels. No path or name is written. out:
    .parquet or .npz. jobs: processes, a scan each at a time. A volume that contradicts the contract is left out and reported;
    raises its UserError (or DataError) where none is left.
    """
    out, progress = Path(out), progress or Silent()
    if out.suffix not in _KINDS:
        raise UserError(f"--out {out}: expected a name ending in {' or '.join(_KINDS)}")
    if not scans:
        raise UserError("no scans to embed: expected one or more files or folders")
    folder = find_backbone(backbone)
    network = load_backbone(folder)
    rows: list[tuple[int, _Row]] = []
    errors: list[MedclError] = []
    with _answers(network, folder, scans, settings, min(jobs, len(scans))) as answers:
        for number, (found, refused) in enumerate(progress.track(answers, len(scans), "embed")):
            rows += [(number, row) for row in found]
            errors += refused
    if not rows:
        raise errors[0]
    _write(out, rows, hash_of_folder(folder))
    messages = [str(error) for error in errors]
    lines = [f"{len(rows)} embeddings of {network.dim} numbers from {len(scans)} scans: {out}"]
    lines += [f"left out: {message}" for message in messages[:_SHOWN]]
    if len(messages) > _SHOWN:
        lines.append(f"left out: {len(messages) - _SHOWN} more; --json names them all")
    return Embedded({"scans": len(scans), "embeddings": len(rows), "dim": network.dim, "refused": len(messages)}, messages, lines)


def _read(scan: str | Path, contract: Contract, settings: IngestConfig | None) -> Reading:
    """Every volume of a scan. Raises DataError with the ledger's reasons where there is none."""
    reading = read_scans(scan, settings or _when_files_do_not_say(contract))
    if not reading.volumes:
        reasons = explain_counts(count_reasons(reading.ledger)) or ["no files at all"]
        raise DataError("\n".join([f"{scan}: nothing usable:", *reasons]))
    return reading


def _when_files_do_not_say(contract: Contract) -> IngestConfig:
    """NIfTI and pictures are what the backbone takes. Whether values are HU is left to the values themselves."""
    units = contract.units[0]
    return IngestConfig(modality=contract.modalities[0], units=None if units in ("HU", "display") else units)


def _image(view: np.ndarray, flat: bool) -> Tensor:
    """(x, y, z) network values -> (1, *space), rows and columns for pictures."""
    picture = geometry.rows_and_columns(view) if flat else view
    return torch.from_numpy(np.ascontiguousarray(picture)).unsqueeze(0)


def _write(out: Path, rows: Sequence[tuple[int, _Row]], backbone_hash: str) -> None:
    scan, volume = np.array([number for number, _ in rows]), np.array([row.volume for _, row in rows])
    hashes, embeddings = [row.pixel_hash for _, row in rows], np.stack([row.embedding for _, row in rows])
    if out.suffix == ".npz":
        more = {"pixel_hash": np.array(hashes), "backbone": np.array(backbone_hash)}
        write_whole(out, lambda path: _write_npz(path, scan=scan, volume=volume, embedding=embeddings, **more))
        return
    import pyarrow as pa
    from pyarrow import parquet

    lists = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    columns = {"scan": scan, "volume": volume, "pixel_hash": hashes, "embedding": lists}
    table = pa.table(columns).replace_schema_metadata({"medcl_backbone": backbone_hash})
    write_whole(out, lambda path: parquet.write_table(table, path))


def _write_npz(path: Path, **arrays: np.ndarray) -> None:
    with open(path, "wb") as handle:  # given a name, numpy would append its own suffix
        np.savez(handle, allow_pickle=False, **arrays)

"""Frozen embeddings of a store's rows, computed once for each init and kept in the study by content."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor

from medcl.evaluation.fits import basis_of
from medcl.evaluation.initialisations import Initialisation, PixelEncoder
from medcl.evaluation.study_data import hash_of_store
from medcl.foundation.errors import DataError, UserError
from medcl.foundation.files import write_bytes
from medcl.foundation.geometry import rows_and_columns
from medcl.foundation.progress import Progress, Silent
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker, ViewParameters

EMBEDDINGS = "embeddings"
BATCH = 32
PIXEL_SIDE = {2: 64, 3: 28}


def embed_rows(
    network: Callable[[Tensor], Tensor],
    store: VolumeStore,
    rows: Sequence[int] | np.ndarray,
    windows: Callable[[int], list[ViewParameters]],
    maker: ViewMaker,
    *,
    device: torch.device | None = None,
    batch: int = BATCH,
    progress: Progress | None = None,
    what: str = "embed",
) -> np.ndarray:
    """What a network says of every row: (rows, dim) float32, the mean over the row's windows, un-augmented.

    windows: row -> its windows. The network is run in inference mode. Raises UserError or DataError where what it says is not finite:
    every score of such numbers would be an accident of the order of the rows.
    """
    sums: np.ndarray | None = None
    counts = np.zeros(len(rows), dtype=np.int64)
    device = device or torch.device("cpu")
    with torch.inference_mode():
        for owners, images in _batches(store, rows, windows, maker, batch, progress or Silent(), what):
            said = network(images.to(device)).float().cpu().numpy()
            sums = np.zeros((len(rows), said.shape[1])) if sums is None else sums
            np.add.at(sums, owners, said.astype(np.float64))
            np.add.at(counts, owners, 1)
    assert sums is not None
    found = (sums / counts[:, None]).astype(np.float32)
    _refuse_what_is_not_finite(found, np.asarray(rows))
    return found


def _refuse_what_is_not_finite(found: np.ndarray, rows: np.ndarray) -> None:
    bad = rows[~np.isfinite(found).all(1)]
    if len(bad) == len(rows):
        raise UserError(
            "what the network says is not finite for any scan: its weights are not, or it diverged; check the init's weights, or lower "
            "finetune.learning_rates"
        )
    if len(bad):
        raise DataError(f"what the network says of store rows {bad[:10].tolist()} is not finite; run `medcl preview` on the store")


def training_windows(maker: ViewMaker, store: VolumeStore) -> Callable[[int], list[ViewParameters]]:
    """Windows of the training's size that cover the field, as `Backbone.embed` takes them."""
    return lambda row: maker.windows(store.shape(row), store.affine(row))


def embed_init(init: Initialisation, seed: int, folder: Path, device: torch.device, progress: Progress) -> np.ndarray:
    """The frozen embeddings of every row of the init's store: (rows, dim) float32; from the study's cache where it has them."""
    path = _kept(init, seed, folder)
    try:
        return load_file(path)["embeddings"]
    except (OSError, SafetensorError):
        pass
    rows = np.arange(len(init.store))
    if init.kind == "pixels":
        found = _pixels(init, rows, progress)
    else:
        encoder = init.build(seed).to(device)
        windows = training_windows(init.maker, init.store)
        found = embed_rows(
            lambda images: encoder(images).pooled,
            init.store,
            rows,
            windows,
            init.maker,
            device=device,
            progress=progress,
            what=f"embed {init.name}",
        )
    write_bytes(path, save({"embeddings": found}))
    return found


def is_embedded(init: Initialisation, seed: int, folder: Path) -> bool:
    """Whether the study's cache holds them."""
    return _kept(init, seed, folder).is_file()


def _kept(init: Initialisation, seed: int, folder: Path) -> Path:
    name = basis_of(**init.basis(seed), store=hash_of_store(init.store))[:24]
    return folder / EMBEDDINGS / f"{name}.safetensors"


def _pixels(init: Initialisation, rows: np.ndarray, progress: Progress) -> np.ndarray:
    """The whole field of every row on a small grid, one number per voxel."""
    store, maker = init.store, init.maker
    dims = 2 if maker.flat else 3
    longest = max(max(store.shape(row)[:dims]) for row in rows)
    side = min(PIXEL_SIDE[dims], longest)
    encoder = PixelEncoder(side**dims, dims)

    def whole(row: int) -> list[ViewParameters]:
        return [maker.whole(store.shape(row), store.affine(row), (side,) * dims)]

    return embed_rows(lambda images: encoder(images).pooled, store, rows, whole, maker, progress=progress, what="embed pixels")


def _batches(
    store: VolumeStore,
    rows: Sequence[int] | np.ndarray,
    windows: Callable[[int], list[ViewParameters]],
    maker: ViewMaker,
    batch: int,
    progress: Progress,
    what: str,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Images (n, 1, *space) of equal shape, with the place in `rows` that each belongs to."""
    owners: list[int] = []
    images: list[np.ndarray] = []
    for place, row in enumerate(progress.track([int(row) for row in rows], len(rows), what)):
        for image in maker.render_all(store, row, windows(row)):
            if images and (len(images) == batch or images[0].shape != image.shape):
                yield np.array(owners), as_images(np.stack(images), maker)
                owners, images = [], []
            owners.append(place)
            images.append(image)
    if images:
        yield np.array(owners), as_images(np.stack(images), maker)


def as_images(views: np.ndarray, maker: ViewMaker) -> Tensor:
    """(n, x, y, z) network values -> (n, 1, *space) as encoders take them."""
    tensor = torch.from_numpy(views)
    return rows_and_columns(tensor).unsqueeze(1).contiguous() if maker.flat else tensor.unsqueeze(1)

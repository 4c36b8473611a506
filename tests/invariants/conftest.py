"""A small made cohort, ingested and prepared once, for the tests that need the whole path."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from medcl.foundation.randomness import generator
from medcl.ingest.run import IngestConfig, ingest
from medcl.store.prepare import prepare
from medcl.store.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class MadeData:
    """Folders by modality: what was handed over, DATA, STORE."""

    cohort: Path
    data: dict[str, Path]
    store: dict[str, Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeData:
    """Twenty patients with CT, X-rays and reports, six with MR, and a few shapes."""
    folder = tmp_path_factory.mktemp("made")
    cohort = folder / "cohort"
    import_module("made_cohort").make(cohort, 20, jobs=1, mr_patients=6)
    _write_shapes(folder / "shapes.npz")
    recipes = {"ct": ROOT / "datasets/made/ct_recipe.yaml", "xray": ROOT / "datasets/made/xray_recipe.yaml", "mr": "mr", "shape": "shape"}
    data, store = {}, {}
    for name, recipe in recipes.items():
        data[name], store[name] = folder / name, folder / name / "store"
        source = folder / "shapes.npz" if name == "shape" else cohort / name
        tables = {kind: cohort / f"{name}_{kind}.csv" for kind in ("reports", "labels") if (cohort / f"{name}_{kind}.csv").is_file()}
        ingest([source], data[name], settings=IngestConfig(modality="shape" if name == "shape" else None), **tables)
        prepare(data[name], store[name], load_recipe(str(recipe)))
    return MadeData(cohort, data, store)


def _write_shapes(path: Path) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij"))
    label = np.arange(40) % 2
    radius = 3 + 2 * generator(0, "shapes").random(40)
    long = np.where(label, 1.8, 1.0)
    shapes = [(grid[0] ** 2 / factor**2 + grid[1] ** 2 + grid[2] ** 2 < size**2) for size, factor in zip(radius, long, strict=True)]
    volumes, labels = (255 * np.array(shapes)).astype(np.uint8), label[:, None]
    np.savez(path, train_images=volumes[:30], train_labels=labels[:30], val_images=volumes[30:], val_labels=labels[30:])

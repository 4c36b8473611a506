"""A few made X-rays in a store, for commands that learn from one."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import yaml

from medcl.ingest.run import ingest
from medcl.store.prepare import prepare
from medcl.store.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def small_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining of 12 steps of 8 views of 24 x 24 pixels."""
    folder = tmp_path_factory.mktemp("small")
    made = import_module("made_cohort").make(folder / "cohort", 4, jobs=1, xray_patients=10, mr_patients=0)
    ingest([made["xray"]], folder / "xray", reports=Path(made["xray_reports"]))
    prepare(folder / "xray", folder / "store", load_recipe(str(ROOT / "datasets/made/xray_recipe.yaml")))
    content = {
        "store": str(folder / "store"),
        "encoder": {"name": "resnet", "depth": 10, "spatial_dims": 2, "width": 4, "stem_kernel": 3},
        "method": {"name": "moco", "queue_size": 16, "momentum": 0.9, "projection_dim": 16},
        "views": {"policy": "xray", "size": [24, 24]},
        "training": {"num_steps": 12, "world_batch": 8, "log_every": 1, "schedule": {"warmup_steps": 4}},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path

"""A tiny backbone folder for tests."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from medcl.encoders import ResNetConfig, build_seeded
from medcl.export.backbone import Provenance, save_backbone
from medcl.store.recipe import load_recipe
from medcl.views.batched import ViewMaker
from medcl.views.policy import ViewsConfig


def made_views(dims: int, side: int = 40) -> ViewMaker:
    """Views of a CT (3D) or an X-ray (2D) store, `side` voxels along each axis."""
    name = "ct" if dims == 3 else "xray"
    return ViewMaker(ViewsConfig.model_validate({"policy": name, "size": (side,) * dims}), load_recipe(name))


def make_backbone(folder: Path, dims: int = 3, norm: str = "group", seed: int = 0, **encoder):
    """Save a ResNet-10 of width 4; returns the encoder in hand and the proof."""
    torch.set_num_threads(1)
    config = ResNetConfig.model_validate({"depth": 10, "width": 4, "spatial_dims": dims, "norm": norm, **encoder})
    network = build_seeded(config, seed=seed)
    items = pd.DataFrame({"patient_key": ["b", "a"], "pixel_hash": ["2", "1"], "volume_id": ["v1", "v2"]})
    provenance = Provenance(
        method={"name": "moco", "temperature": 0.2},
        steps=10,
        world_batch=4,
        corpus="0" * 64,
        licence="for tests",
        metrics={"knn": 0.5, "collapse": float("nan")},
        items=items,
    )
    return network, save_backbone(network, config, folder, views=made_views(dims), provenance=provenance)

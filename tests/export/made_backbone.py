"""A tiny backbone folder for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from medcl.encoders import ResNetConfig, build_seeded
from medcl.export.backbone import Provenance, save_backbone
from medcl.store.recipe import load_recipe
from medcl.views.batched import ViewMaker
from medcl.views.policy import ViewsConfig


def made_views(dims: int, side: int | tuple[int, ...] = 40) -> ViewMaker:
    """Views of a CT (3D) or an X-ray (2D) store, `side` voxels along each axis."""
    name = "ct" if dims == 3 else "xray"
    size = (side,) * dims if isinstance(side, int) else side
    return ViewMaker(ViewsConfig.model_validate({"policy": name, "size": size}), load_recipe(name))


def make_backbone(folder: Path, dims: int = 3, norm: str = "group", seed: int = 0, items: pd.DataFrame | None = None, **encoder):
    """Save a ResNet-10 of width 4; returns the encoder in hand and the proof."""
    config = ResNetConfig.model_validate({"depth": 10, "width": 4, "spatial_dims": dims, "norm": norm, **encoder})
    return save_made(folder, config, seed=seed, items=items)


def save_made(folder: Path, config: Any, side: int | tuple[int, ...] = 40, seed: int = 0, items: pd.DataFrame | None = None):
    """Save an encoder of these settings; every tensor is drawn, the norms' too, so that none can be lost unseen."""
    torch.set_num_threads(1)
    network = build_seeded(config, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw)
    few = pd.DataFrame({"patient_key": ["b", "a"], "pixel_hash": ["2", "1"], "volume_id": ["v1", "v2"]})
    provenance = Provenance(
        method={"name": "moco", "temperature": 0.2},
        steps=10,
        world_batch=4,
        corpus="0" * 64,
        licence="for tests",
        metrics={"knn": 0.5, "collapse": float("nan")},
        items=few if items is None else items,
    )
    return network, save_backbone(network, config, folder, views=made_views(config.spatial_dims, side), provenance=provenance)

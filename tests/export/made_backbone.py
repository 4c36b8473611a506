"""A tiny backbone folder for tests."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from medcl.encoders import ResNetConfig, build_seeded
from medcl.export.backbone import Contract, Provenance, save_backbone
from medcl.store.recipe import load_recipe


def make_backbone(folder: Path, dims: int = 3, norm: str = "group", seed: int = 0, **encoder):
    """Save a ResNet-10 of width 4; returns the encoder in hand and the proof."""
    torch.set_num_threads(1)
    config = ResNetConfig.model_validate({"depth": 10, "width": 4, "spatial_dims": dims, "norm": norm, **encoder})
    network = build_seeded(config, seed=seed)
    contract = Contract.of(load_recipe("ct" if dims == 3 else "xray"), (40,) * dims, (60.0,) * 3 if dims == 3 else None)
    items = pd.DataFrame({"patient_key": ["b", "a"], "pixel_hash": ["2", "1"], "volume_id": ["v1", "v2"]})
    provenance = Provenance(
        method={"name": "moco", "temperature": 0.2},
        steps=10,
        world_batch=4,
        corpus="0" * 64,
        views={"policy": "ct", "overrides": {}},
        licence="for tests",
        metrics={"knn": 0.5, "collapse": float("nan")},
        items=items,
    )
    return network, save_backbone(network, config, folder, contract=contract, provenance=provenance)

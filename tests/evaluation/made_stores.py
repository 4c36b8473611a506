"""Small stores, backbones and an image-text run, as the other rooms write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from medcl.encoders import ResNetConfig, TextTransformerConfig, build_seeded
from medcl.encoders import tokenizer as tokens
from medcl.evaluation.study import StudyConfig
from medcl.export.backbone import Provenance, save_backbone
from medcl.foundation.config import Settings, to_yaml, validate
from medcl.foundation.files import write_card
from medcl.foundation.progress import Silent
from medcl.foundation.types import Volume
from medcl.methods import ConVIRTConfig, MethodConfig
from medcl.store.prepare import prepare_data
from medcl.store.recipe import BUILT_IN, load_recipe
from medcl.store.volume_store import VolumeStore
from medcl.training import checkpoint
from medcl.training.optimizer import AdamWConfig, build_optimizer
from medcl.views.batched import ViewMaker
from medcl.views.policy import ViewsConfig
from tests.store.made_data import MadeData

SIDE = 24
PICTURE_ENCODER = ResNetConfig(depth=10, spatial_dims=2, width=4, stem_kernel=3, stem_stride=2, stem_pool=False)
VOLUME_ENCODER = ResNetConfig(depth=10, spatial_dims=3, width=4, stem_kernel=3, stem_stride=2, stem_pool=False)
WORDS = ("left nodule", "right effusion", "clear lungs", "enlarged heart", "old fracture", "upper opacity", "lower oedema", "small device")


def _smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    noise = ndimage.gaussian_filter(rng.normal(size=shape), [2 if length > 1 else 0 for length in shape])
    return noise / noise.std()


def picture(rng: np.random.Generator, label: int) -> Volume:
    """Smooth noise; class 1 has a bright blob somewhere."""
    array = 100 + 25 * _smooth(rng, (SIDE, SIDE, 1))
    if label:
        x, y = rng.integers(6, SIDE - 6, 2)
        columns, rows = np.mgrid[:SIDE, :SIDE]
        array[..., 0] += 110 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 14)
    return Volume(np.clip(array, 0, 255).astype(np.uint8), np.eye(4), "xray", "display", "picture")


def picture_store(folder: Path, patients: int = 60) -> VolumeStore:
    """Two pictures for each patient, every third seems to have text; `blob` is to be seen.

    `device` is not to be seen and is unknown for some, `contrast` is a number.
    """
    rng = np.random.default_rng(3)
    volumes = {f"v{number:03d}": picture(rng, number // 2 % 2) for number in range(2 * patients)}
    labels = pd.DataFrame({"volume_id": list(volumes), "blob": [float(number // 2 % 2) for number in range(2 * patients)]})
    labels["device"] = (np.arange(len(labels)) // 4 % 3 == 0).astype(float)
    labels.loc[np.arange(len(labels)) % 5 == 0, "device"] = np.nan
    labels["contrast"] = [float(volume.array.std()) for volume in volumes.values()]
    labels.loc[:1, ["blob", "device", "contrast"]] = np.nan  # the first patient has no label
    reports = pd.DataFrame(
        {
            "report_id": [f"r{number}" for number in range(2 * patients)],
            "text": [f"There is {WORDS[number % 8]} number {number}. Nothing else is seen." for number in range(2 * patients)],
        }
    )
    data = MadeData(volumes, labels=labels, reports=reports, flags={volume: ["text_suspected"] for volume in list(volumes)[::3]})
    data.manifest["report_id"] = reports["report_id"]
    prepare_data(data, "hash", folder, BUILT_IN["xray"], jobs=1, progress=Silent())
    return VolumeStore(folder)


def outlined_store(folder: Path, volumes: int = 20) -> VolumeStore:
    """MR volumes with two structures, one beside the other."""
    rng = np.random.default_rng(4)
    scans, masks = {}, {}
    for number in range(volumes):
        shape = (18 + number % 3, 20, 16)
        centre = rng.integers(7, 11, 3)
        grid = np.stack(np.meshgrid(*(np.arange(length) for length in shape), indexing="ij"))
        inside = ((grid - centre[:, None, None, None]) ** 2).sum(0) < 22
        mask = np.where(inside, np.where(grid[0] > centre[0], 2, 1), 0).astype(np.uint8)
        array = 300 + 40 * _smooth(rng, shape) + 200 * (mask == 1) + 350 * (mask == 2)
        affine = np.diag([1.0, 1.0, 1.0, 1.0])
        scans[f"v{number:02d}"] = Volume(array.astype(np.float32), affine, "mr", "arbitrary")
        masks[f"m{number:02d}"] = Volume(mask, affine, "mr", "arbitrary")
    labels = pd.DataFrame({"volume_id": list(scans), "mask_id": list(masks)})
    prepare_data(MadeData(scans, masks, labels), "hash", folder, BUILT_IN["mr"], jobs=1, progress=Silent())
    return VolumeStore(folder)


def views(name: str, size: tuple[int, ...]) -> ViewMaker:
    """Views of a built-in recipe and policy."""
    return ViewMaker(ViewsConfig.model_validate({"policy": name, "size": size}), load_recipe(name))


def picture_backbone(folder: Path, items: pd.DataFrame | None, seed: int = 0, method: str = "moco") -> Path:
    """A backbone folder that says it was trained on these items (`patient_key`, `pixel_hash`)."""
    torch.set_num_threads(1)
    provenance = Provenance(method={"name": method}, steps=10, world_batch=4, corpus="0" * 64, licence="for tests", metrics={}, items=items)
    encoder = build_seeded(PICTURE_ENCODER, seed=seed)
    save_backbone(encoder, PICTURE_ENCODER, folder, views=views("xray", (SIDE, SIDE)), provenance=provenance)
    return folder


class _RunSettings(Settings):
    encoder: ResNetConfig
    method: MethodConfig  # type: ignore[valid-type]


def image_text_run(folder: Path, store: VolumeStore) -> Path:
    """An untrained ConVIRT run that counts as finished: config, tokenizer, checkpoint, backbone, card."""
    text = TextTransformerConfig(vocab_size=400, length=24, width=16, layers=1, heads=2)
    settings = _RunSettings(encoder=PICTURE_ENCODER, method=ConVIRTConfig(projection_dim=16, text=text))
    method = build_seeded(settings.method, build_seeded(PICTURE_ENCODER, seed=1), seed=1)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(settings))
    assert store.reports is not None
    tokens.train(store.reports["text"], 400).save(folder / "tokenizer.json")
    checkpoint.save(folder / "checkpoints", 3, method, build_optimizer(AdamWConfig(), method))
    picture_backbone(folder / "backbone", None, seed=1, method="convirt")
    write_card(folder, "run", inputs={}, settings={}, counts={})
    return folder


def study_config(store: VolumeStore, backbone: Path | None = None, **changes: Any) -> StudyConfig:
    """A study of `blob` with fits of four steps, two draws, two learning rates."""
    inits: dict[str, Any] = {"random": PICTURE_ENCODER.model_dump()}
    if backbone is not None:
        inits["moco"] = str(backbone)
    content = {
        "data": str(store.folder),
        "task": {"name": "classification", "label": "blob"},
        "inits": inits,
        "fractions": [0.01, 0.2, 1.0],
        "draws": 2,
        "resamples": 100,
        "finetune": {"num_steps": 4, "batch": 8, "learning_rates": [0.01, 0.001], "looks": 2, "workers": 0},
    }
    return validate(StudyConfig, {**content, **changes}, "study.yaml")

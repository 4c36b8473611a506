"""Milliseconds per augmented CT crop: medcl from its store on disk, beside MONAI and TorchIO from volumes held in memory.

python benchmarks/views_vs_peers.py [--rounds 7] [--crops 8] [--side 96] [--out reports/views_vs_peers.md]

Every arm draws a crop of `side` voxels out of 256 x 256 x 160 and applies what the policy `ct` applies, with its probabilities:
rotation up to 15 degrees, scale 0.8 to 1.25, blur, thick slices, intensity scale and shift, noise. One thread each; the arms take turns
within every round, so that a busy neighbour slows all of them. The peers are given more than users have: volumes decoded, scaled
to the network's range and held in memory.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import monai
import monai.transforms as mt
import nibabel as nib
import numba
import numpy as np
import torch
import torchio as tio

from medcl.ingest.run import ingest
from medcl.ingest.settings import IngestConfig
from medcl.store.prepare import prepare
from medcl.store.recipe import BUILT_IN
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker
from medcl.views.policy import ViewsConfig

SHAPE, SPACING, WINDOW = (256, 256, 160), 1.5, (-1000.0, 1000.0)
VOLUMES = 3
HALF = (WINDOW[1] - WINDOW[0]) / 2  # HU per unit of the network's range


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description="Milliseconds per augmented CT crop, beside MONAI and TorchIO.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--crops", type=int, default=8)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        volumes = [_volume(number) for number in range(VOLUMES)]
        arms = {
            "medcl, store on disk": _ours(Path(folder), volumes, said.side),
            "MONAI, volumes in memory": _monai(volumes, said.side),
            "TorchIO, volumes in memory, patch first": _torchio(volumes, said.side),
        }
        times = _take_turns(arms, said.rounds, said.crops)
    text = _table(times, said)
    print(text)
    if said.out is not None:
        said.out.write_text(text + "\n", encoding="utf-8")


def _volume(number: int) -> np.ndarray:
    """HU, int16: a body with organs, and the noise of a scanner."""
    rng = np.random.default_rng(number)
    coarse = rng.normal(size=tuple(side // 16 for side in SHAPE))
    smooth = np.kron(coarse, np.ones((16, 16, 16)))
    x, y = np.meshgrid(np.linspace(-1, 1, SHAPE[0]), np.linspace(-1, 1, SHAPE[1]), indexing="ij")
    body = (x**2 + (y * 1.4) ** 2 < 0.8)[..., None]
    return np.where(body, 40 + 60 * smooth + rng.normal(0, 15, SHAPE), -1000).astype(np.int16)


def _ours(folder: Path, volumes: list[np.ndarray], side: int) -> Callable[[int], object]:
    (folder / "scans").mkdir()
    for number, volume in enumerate(volumes):
        nib.save(nib.Nifti1Image(volume, np.diag([SPACING, SPACING, SPACING, 1.0])), folder / "scans" / f"case{number}.nii.gz")  # type: ignore[attr-defined]
    ingest(folder / "scans", folder / "data", settings=IngestConfig(modality="ct", units="HU"), jobs=1)
    recipe = BUILT_IN["ct"].model_copy(update={"spacing_mm": (SPACING,) * 3, "body_crop": False})
    prepare(folder / "data", folder / "store", recipe, jobs=1)
    store = VolumeStore(folder / "store")
    maker = ViewMaker(ViewsConfig(policy="ct", size=(side, side, side)), recipe)
    out = np.empty((side, side, side), dtype=np.float32)

    def crop(step: int) -> object:
        row = step % len(volumes)
        parameters = maker.draw(store.shape(row), store.affine(row), (0, step, row), 1)[0]
        return maker.render(store, row, parameters, out)

    return crop


def _monai(volumes: list[np.ndarray], side: int) -> Callable[[int], object]:
    held = [torch.from_numpy((volume / HALF).astype(np.float32))[None] for volume in volumes]
    turn = np.deg2rad(15)
    steps = mt.Compose(
        [
            mt.RandSpatialCrop((side, side, side), random_size=False),
            mt.RandAffine(prob=0.75, rotate_range=(turn,) * 3, scale_range=((-0.2, 0.25),) * 3, padding_mode="border"),
            mt.RandGaussianSmooth((0.25, 1.0), (0.25, 1.0), (0.25, 1.0), prob=0.2),
            mt.RandSimulateLowResolution(prob=0.2, zoom_range=(0.33, 1.0)),
            mt.RandScaleIntensity(0.05, prob=0.5),
            mt.RandShiftIntensity(20 / HALF, prob=0.5),
            mt.RandGaussianNoise(prob=0.5, std=40 / HALF),
        ]
    ).set_random_state(0)
    return lambda step: steps(held[step % len(held)])


def _torchio(volumes: list[np.ndarray], side: int) -> Callable[[int], object]:
    subjects = [tio.Subject(scan=tio.ScalarImage(tensor=torch.from_numpy((volume / HALF).astype(np.float32))[None])) for volume in volumes]
    sampler = tio.UniformSampler(side)
    steps = tio.Compose(
        [
            tio.RandomAffine(scales=(0.8, 1.25), degrees=15, isotropic=True, p=0.75),
            tio.RandomBlur((0.25, 1.0), p=0.2),
            tio.RandomAnisotropy(downsampling=(1, 3), p=0.2),
            tio.RandomNoise(std=(0, 40 / HALF), p=0.5),
        ]
    )
    return lambda step: steps(next(iter(sampler(subjects[step % len(subjects)], 1))))


def _take_turns(arms: dict[str, Callable[[int], object]], rounds: int, crops: int) -> dict[str, list[float]]:
    """Milliseconds per crop of every arm in every round; the first round, which compiles and fills caches, is not counted."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, crop in arms.items():
            begin = time.perf_counter()
            for number in range(crops):
                crop(turn * crops + number)
            if turn:
                times[name].append((time.perf_counter() - begin) * 1000 / crops)
    return times


def _table(times: dict[str, list[float]], said: argparse.Namespace) -> str:
    own = statistics.median(next(iter(times.values())))
    rows = [
        f"| {name} | {statistics.median(found):.1f} | {min(found):.1f} - {max(found):.1f} | {statistics.median(found) / own:.1f} |"
        for name, found in times.items()
    ]
    return "\n".join(
        [
            f"CT crops of {said.side} voxels, one thread, {said.rounds} rounds of {said.crops}, interleaved; {platform.machine()}, "
            f"torch {torch.__version__}, MONAI {monai.__version__}, TorchIO {tio.__version__}.",
            "",
            "| arm | ms per crop, median | of the rounds | ratio |",
            "|---|---|---|---|",
            *rows,
        ]
    )


if __name__ == "__main__":
    main()

"""nnssl's SimCLR views with its published parameters, and the same distribution in medcl as far as medcl has it.

The parameters are those of nnssl's SimCLRTransform (github.com/MIC-DKFZ/nnssl, ssl_data/dataloading/simclr_transform.py): a patch is
read from a blosc2 store (ZSTD, float32), a reference crop and one that overlaps it by at least half along every axis are cut out, and
each is changed by batchgenerators: noise, blur, brightness, contrast, low resolution, gamma, mirrors, quarter turns. No affine map.
medcl has neither quarter turns nor gamma of inverted values, for no modality allows them; its gamma has the probability of both, and
its crops lie between voxels, so that they are interpolated where nnssl copies.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.transforms import color_transforms, noise_transforms, resample_transforms
from batchgenerators.transforms.abstract_transforms import AbstractTransform, Compose
from batchgenerators.transforms.spatial_transforms import MirrorTransform, Rot90Transform
from batchgenerators.transforms.utility_transforms import NumpyToTensor

from benchmarks import view_arms as arms
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker
from medcl.views.policy import ViewsConfig

# batchgenerators' annotations are narrower than what it takes: whole numbers for probabilities.
_noise: Any = noise_transforms
_color: Any = color_transforms
_resample: Any = resample_transforms

_STEPS = {
    "crop": "",
    "flip_left_right": "probability: 0.5",
    "flip_front_back": "probability: 0.5",
    "flip_up_down": "probability: 0.5",
    "noise": f"probability: 0.1, max_sd: {0.1**0.5 * arms.HALF:.0f}",
    "blur": f"probability: 0.1, max_sigma_mm: {arms.SPACING}",
    "intensity_scale": "probability: 0.15, range: [0.75, 1.25]",
    "contrast": "probability: 0.15, range: [0.75, 1.25]",
    "low_resolution": "probability: 0.05, max_factor: 2, axis: all",
    "gamma": "probability: 0.37, range: [0.7, 1.5]",
}


def maker_of(store: VolumeStore, side: int, folder: Path) -> ViewMaker:
    """medcl's views, with everything allowed that CT forbids."""
    policy = folder / "nnssl.yaml"
    steps = ", ".join(f"{{{', '.join(filter(None, (f'name: {name}', said)))}}}" for name, said in _STEPS.items())
    policy.write_text(f"name: nnssl\nmodality: ct\nsteps: [{steps}]\n", encoding="utf-8")
    allow = dict.fromkeys(list(_STEPS)[1:], "nnssl's published parameters, for a comparison of speed")
    return ViewMaker(ViewsConfig(policy=str(policy), size=(side, side, side), allow=allow), store.recipe)


def batches(scans: list[dict[str, str]], side: int, folder: Path, batch: int, workers: int) -> Generator[dict[str, Any], None, None]:
    """Batches of `batch` pairs without end, made by `workers` processes as nnssl starts them."""
    paths = [arms.as_blosc2(scan["image"], folder / f"{Path(scan['image']).stem}.nnssl.b2nd", "ZSTD", 8) for scan in scans]
    transform = Compose([_Views(side), NumpyToTensor(["all_crops"], "float")])
    augmenter = NonDetMultiThreadedAugmenter(_Patches(paths, batch, side), transform, workers, num_cached=6)
    try:
        for made in augmenter:
            assert made["all_crops"].shape[0] == 2 * batch
            yield made
    finally:
        augmenter._finish()


class _Patches:
    """Random patches of 192 x 192 x 64 voxels (as deep as a crop, where that is deeper), one of each of `batch` scans, without end."""

    def __init__(self, paths: list[Path], batch: int, side: int) -> None:
        self.paths, self.batch, self.patch = paths, batch, (192, 192, max(64, side))

    def set_thread_id(self, number: int) -> None:
        """Each process draws from its own stream of numpy's; the augmenter seeds it."""

    def __next__(self) -> dict[str, np.ndarray]:
        """{"data": (batch, 1, x, y, z) float32}."""
        return {"data": np.stack([self._patch(self.paths[np.random.randint(len(self.paths))])[None] for _ in range(self.batch)])}

    def _patch(self, path: Path) -> np.ndarray:
        starts = [np.random.randint(0, length - size + 1) for length, size in zip(arms.SHAPE, self.patch, strict=True)]
        return arms.open_blosc2(path)[tuple(slice(start, start + size) for start, size in zip(starts, self.patch, strict=True))]


class _Views(AbstractTransform):
    """(batch, 1, *patch) -> {"all_crops": (2 * batch, 1, side, side, side)}: references first."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.steps = Compose(
            [
                _noise.GaussianNoiseTransform(p_per_sample=0.1),
                _noise.GaussianBlurTransform((0.5, 1.0), different_sigma_per_channel=True, p_per_sample=0.2, p_per_channel=0.5),
                _color.BrightnessMultiplicativeTransform(multiplier_range=(0.75, 1.25), p_per_sample=0.15),
                _color.ContrastAugmentationTransform(p_per_sample=0.15),
                _resample.SimulateLowResolutionTransform(
                    (0.5, 1), per_channel=True, p_per_channel=0.5, order_downsample=0, order_upsample=3, p_per_sample=0.1
                ),
                _color.GammaTransform((0.7, 1.5), True, True, retain_stats=True, p_per_sample=0.1),
                _color.GammaTransform((0.7, 1.5), False, True, retain_stats=True, p_per_sample=0.3),
                *(MirrorTransform(axes=(axis,)) for axis in range(3)),
                Rot90Transform(axes=(0, 1)),
            ]
        )

    def __call__(self, **patches: Any) -> dict[str, Any]:
        data = patches["data"]
        room = np.array(data.shape[2:]) - self.side
        references, others = [], []
        for patch in data:
            start = np.random.randint(0, room + 1)
            low, high = np.maximum(start - self.side // 2, 0), np.minimum(start + self.side // 2, room)
            references.append(self._cut(patch, start))
            others.append(self._cut(patch, np.random.randint(low, high + 1)))
        changed = [self.steps(data=np.stack(crops), seg=None)["data"] for crops in (references, others)]
        return {"all_crops": np.concatenate(changed)}

    def _cut(self, patch: np.ndarray, start: np.ndarray) -> np.ndarray:
        return patch[(slice(None), *(slice(first, first + self.side) for first in start))]

"""The arms that the benchmarks of views compare: medcl and its peers, on the same made CT volumes with the same distribution of views.

Every arm draws one crop of `side` voxels out of 256 x 256 x 160 and applies what the policy `ct` applies, with its probabilities:
rotation up to 15 degrees, scale 0.8 to 1.25, blur, thick slices, intensity scale and shift, noise. Peers crop first and replicate
the crop's border into rotated corners where that is their documented way, which is less work than sampling the real surroundings.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import monai.transforms as mt
import nibabel as nib
import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from monai.data import CacheDataset, PersistentDataset
from PIL import Image

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
TURN = np.deg2rad(15)
_CACHED = 3  # of MONAI's steps, those before the first random one

Arm = Callable[[int], object]

# blosc2's annotations are narrower than what it takes and gives.
_blosc2: Any = blosc2


def write_scans(folder: Path, shape: tuple[int, int, int] = SHAPE) -> list[dict[str, str]]:
    """Write the made volumes as NIfTI.gz, sides multiples of 16. Returns one {"image": path} for each, as MONAI's datasets want it."""
    folder.mkdir()
    paths = [folder / f"case{number}.nii.gz" for number in range(VOLUMES)]
    for number, path in enumerate(paths):
        nib.save(nib.Nifti1Image(_volume(number, shape), np.diag([SPACING, SPACING, SPACING, 1.0])), path)  # type: ignore[attr-defined]
    return [{"image": str(path)} for path in paths]


def _volume(number: int, shape: tuple[int, int, int]) -> np.ndarray:
    """HU, int16: a body with organs, and the noise of a scanner."""
    rng = np.random.default_rng(number)
    coarse = rng.normal(size=tuple(side // 16 for side in shape))
    smooth = np.kron(coarse, np.ones((16, 16, 16)))
    x, y = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    body = (x**2 + (y * 1.4) ** 2 < 0.8)[..., None]
    return np.where(body, 40 + 60 * smooth + rng.normal(0, 15, shape), -1000).astype(np.int16)


def open_store(folder: Path) -> VolumeStore:
    """The scans of `folder`/scans as a store."""
    ingest(folder / "scans", folder / "data", settings=IngestConfig(modality="ct", units="HU"), jobs=1)
    recipe = BUILT_IN["ct"].model_copy(update={"spacing_mm": (SPACING,) * 3, "body_crop": False})
    prepare(folder / "data", folder / "store", recipe, jobs=1)
    return VolumeStore(folder / "store")


def open_pictures(folder: Path, count: int = 64, side: int = 1024) -> VolumeStore:
    """Made X-rays as a store: bright in the middle, dark lungs, noise."""
    (folder / "pictures").mkdir()
    rows, columns = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    lungs = (np.abs(columns) - 0.45) ** 2 / 0.1 + rows**2 / 0.4 < 1
    for number in range(count):
        noise = np.random.default_rng(number).normal(0, 8, (side, side))
        grey = 200 - 60 * columns**2 - (80 + number) * lungs + noise
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / "pictures" / f"case{number}.png")
    ingest(folder / "pictures", folder / "picture data", settings=IngestConfig(modality="xray"), jobs=1)
    prepare(folder / "picture data", folder / "picture store", BUILT_IN["xray"], jobs=1)
    return VolumeStore(folder / "picture store")


def maker_of(store: VolumeStore, side: int, policy: str | None = None) -> ViewMaker:
    """medcl's views, `side` voxels or pixels along every axis; by default of the policy that has the recipe's name."""
    size = (side, side) if store.recipe.kind == "picture" else (side, side, side)
    return ViewMaker(ViewsConfig(policy=policy or store.recipe.name, size=size), store.recipe)


def medcl_arm(store: VolumeStore, side: int, policy: str = "ct") -> Arm:
    """From the compressed store on disk."""
    maker = maker_of(store, side, policy)
    out = np.empty((side, side, side), dtype=np.float32)

    def crop(step: int) -> object:
        row = step % len(store)
        return maker.render(store, row, maker.draw(store.shape(row), store.affine(row), (0, step, row), 1)[0], out)

    return crop


def monai_steps(side: int) -> list[Callable]:
    """MONAI's dictionary transforms, from a file to a crop; what comes before the first random one is cached."""
    key = "image"
    return [
        mt.LoadImaged(key, image_only=True),
        mt.EnsureChannelFirstd(key),
        mt.ScaleIntensityRanged(key, *WINDOW, -1.0, 1.0, clip=True),
        mt.RandSpatialCropd(key, (side, side, side), random_size=False),
        mt.RandAffined(key, prob=0.75, rotate_range=(TURN,) * 3, scale_range=((-0.2, 0.25),) * 3, padding_mode="border"),
        mt.RandGaussianSmoothd(key, (0.25, 1.0), (0.25, 1.0), (0.25, 1.0), prob=0.2),
        mt.RandSimulateLowResolutiond(key, prob=0.2, zoom_range=(0.33, 1.0)),
        mt.RandScaleIntensityd(key, 0.05, prob=0.5),
        mt.RandShiftIntensityd(key, 20 / HALF, prob=0.5),
        mt.RandGaussianNoised(key, prob=0.5, std=40 / HALF),
    ]


class _Views:
    """Several views of one decoded volume, each drawn anew."""

    def __init__(self, steps: list[Callable], count: int) -> None:
        self.steps, self.count = mt.Compose(steps), count

    def __call__(self, item: dict) -> list[Any]:
        return [self.steps(item) for _ in range(self.count)]


def monai_cache(scans: list[dict[str, str]], side: int, views: int = 1) -> CacheDataset:
    """Decoded and scaled volumes in memory; an item is a crop, or a list of `views` crops."""
    steps = monai_steps(side)
    if views > 1:
        steps = [*steps[:_CACHED], _Views(steps[_CACHED:], views)]
    return CacheDataset(scans, mt.Compose(steps).set_random_state(0), num_workers=1, progress=False, hash_as_key=True)


def monai_cache_arm(scans: list[dict[str, str]], side: int) -> Arm:
    """MONAI's CacheDataset, one item at a time."""
    held = monai_cache(scans, side)
    return lambda step: held[step % len(held)]


def monai_persistent_arm(scans: list[dict[str, str]], side: int, folder: Path) -> Arm:
    """MONAI's PersistentDataset: decoded and scaled volumes as files of torch."""
    held = PersistentDataset(scans, mt.Compose(monai_steps(side)).set_random_state(0), cache_dir=folder / f"persistent{side}")
    return lambda step: held[step % len(held)]


def torchio_arm(scans: list[dict[str, str]], side: int) -> Arm:
    """TorchIO with volumes in memory, patch first."""
    import torchio as tio  # brings SimpleITK, which a GPU machine may lack: nothing is measured against TorchIO there

    volumes = [np.asarray(nib.load(scan["image"]).dataobj, np.float32) / HALF for scan in scans]  # type: ignore[attr-defined]
    subjects = [tio.Subject(scan=tio.ScalarImage(tensor=torch.from_numpy(volume)[None])) for volume in volumes]
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


def nnunet_arm(scans: list[dict[str, str]], side: int, folder: Path, elastic: bool = False) -> Arm:
    """nnU-Net's kind of store (blosc2, float32, LZ4HC, opened anew for each read) and batchgeneratorsv2 on the enlarged patch it reads."""
    paths = [as_blosc2(scan["image"], folder / f"{Path(scan['image']).name}.b2nd", "LZ4HC", 5) for scan in scans]
    read, rng = _enlarged(side), np.random.default_rng(0)
    steps = ComposeTransforms(
        [
            SpatialTransform(
                *((side, side, side), 0, False),
                p_elastic_deform=float(elastic),
                p_rotation=0.5,
                rotation=(-TURN, TURN),
                p_scaling=0.5,
                scaling=(0.8, 1.25),
                p_synchronize_scaling_across_axes=1,
            ),
            RandomTransform(GaussianBlurTransform((0.25, 1.0)), 0.2),
            RandomTransform(SimulateLowResolutionTransform((0.33, 1.0), False, True, ()), 0.2),
            RandomTransform(MultiplicativeBrightnessTransform((0.95, 1.05), False), 0.5),
            RandomTransform(GaussianNoiseTransform((0, (40 / HALF) ** 2)), 0.5),
        ]
    )

    def crop(step: int) -> object:
        array = open_blosc2(paths[step % len(paths)])
        starts = [int(rng.integers(0, max(length - read, 0) + 1)) for length in SHAPE]
        patch = np.asarray(array[tuple(slice(start, start + read) for start in starts)])
        return steps(image=torch.from_numpy(patch)[None])

    return crop


def as_blosc2(scan: str, path: Path, codec: str, level: int) -> Path:
    """Normalised float32 in chunks of about a patch, blocks of 32 voxels a side."""
    if not path.exists():
        array = np.asarray(nib.load(scan).dataobj, np.float32) / HALF  # type: ignore[attr-defined]
        settings = {"codec": blosc2.Codec[codec], "clevel": level, "nthreads": 1}
        _blosc2.asarray(array, chunks=(96, 96, 96), blocks=(32, 32, 32), cparams=settings, urlpath=str(path), mode="w")
    return path


def open_blosc2(path: Path) -> Any:
    """Opened as nnU-Net and nnssl open it for every read: mapped, one thread."""
    return _blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})


def _enlarged(side: int) -> int:
    """What nnU-Net reads so that a turned and scaled patch has real surroundings: its get_patch_size for these ranges."""
    corner = np.full(3, side / 2)
    cosine, sine = np.cos(TURN), np.sin(TURN)
    turns = [
        np.array(rows) for rows in ([[1, 0, 0], [0, cosine, sine], [0, sine, cosine]], [[cosine, 0, sine], [0, 1, 0], [sine, 0, cosine]])
    ]
    turns.append(np.array([[cosine, sine, 0], [sine, cosine, 0], [0, 0, 1]]))
    reach = corner.copy()
    for turn in turns:
        reach = np.maximum(reach, turn @ corner)
    return int(min(np.ceil(2 * reach.max() / 0.8), min(SHAPE)))

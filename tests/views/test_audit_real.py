"""The audit on real scans: built-in policies pass, and every planted breach is caught and blamed on its step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medcl.foundation.errors import UserError
from medcl.foundation.progress import Silent
from medcl.foundation.types import Volume
from medcl.store.prepare import prepare_data
from medcl.store.recipe import BUILT_IN
from medcl.store.volume_store import VolumeStore
from medcl.views import batched
from medcl.views.batched import ViewMaker
from medcl.views.measure import measure
from medcl.views.policy import ViewsConfig, load_policy
from medcl.views.spatial import FlipLeftRight
from tests.store.made_data import MadeData

# name -> (modality, size of a view in which what is marked fits)
SETS: dict[str, tuple[str, tuple[int, ...]]] = {
    "totalseg_ct": ("ct", (64, 64, 32)),
    "totalseg_mr": ("mr", (96, 96, 24)),
    "hippocampus": ("mr", (32, 32, 32)),
    "lungs": ("xray", (96, 96)),
}
Pairs = list[tuple[Volume, Volume]]


def _nifti(image: Path, mask: Path, modality: str, units) -> tuple[Volume, Volume]:
    scan, labels = nibabel.load(image), nibabel.load(mask)  # type: ignore[attr-defined]
    return (
        Volume(np.asarray(scan.dataobj), scan.affine, modality, units),
        Volume(np.asarray(labels.dataobj), labels.affine, modality, "arbitrary"),
    )


def _totalseg(data: Path, kind: str) -> Pairs:
    folder, units = data / "nifti_misc", "HU" if kind == "ct" else "arbitrary"
    mask = "totalseg_example_seg.nii.gz" if kind == "ct" else "totalseg_example_seg_mr.nii.gz"
    return [_nifti(folder / f"totalseg_example_{kind}_sm.nii.gz", folder / mask, kind, units)]


def _hippocampus(data: Path) -> Pairs:
    folder = data / "hippocampus"
    paths = sorted((folder / "imagesTr").glob("*.nii.gz"))[:8]
    return [_nifti(path, folder / "labelsTr" / path.name, "mr", "arbitrary") for path in paths]


def _lungs(data: Path) -> Pairs:
    """Chest X-rays with the radiologists' boxes: 1 is the right lung, 2 the left."""
    table = pd.read_csv(data / "cxr_notes" / "manifest.csv").dropna(subset=["right_lung_xywh", "left_lung_xywh"])
    pairs = []
    for _, item in table.iloc[::20].iterrows():
        grey = np.asarray(Image.open(data / "cxr_notes" / item["image"]).convert("L")).T[..., None]
        boxes = np.zeros(grey.shape, np.uint8)
        for label, side in ((1, "right"), (2, "left")):
            x, y, width, height = (int(float(number)) for number in item[f"{side}_lung_xywh"].split())
            boxes[x : x + width, y : y + height] = label
        pairs.append((Volume(grey, np.eye(4), "xray", "display", "picture"), Volume(boxes, np.eye(4), "xray", "arbitrary", "picture")))
    return pairs


@pytest.fixture(scope="module")
def real_store(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VolumeStore]:
    """name of a set -> its store, prepared once."""
    read = {
        "totalseg_ct": lambda: _totalseg(real_data, "ct"),
        "totalseg_mr": lambda: _totalseg(real_data, "mr"),
        "hippocampus": lambda: _hippocampus(real_data),
        "lungs": lambda: _lungs(real_data),
    }
    stores: dict[str, VolumeStore] = {}

    def open_store(name: str) -> VolumeStore:
        if name not in stores:
            pairs = read[name]()
            volumes = {f"v{number}": image for number, (image, _) in enumerate(pairs)}
            masks = {f"m{number}": mask for number, (_, mask) in enumerate(pairs)}
            labels = pd.DataFrame({"volume_id": list(volumes), "mask_id": list(masks)})
            out = tmp_path_factory.mktemp(name) / "store"
            prepare_data(MadeData(volumes, masks, labels), "hash", out, BUILT_IN[SETS[name][0]], jobs=1, progress=Silent())
            stores[name] = VolumeStore(out)
        return stores[name]

    return open_store


@pytest.fixture
def planted(tmp_path: Path) -> Callable[..., ViewMaker]:
    """A maker of a policy of the given steps, each let in by `allow`, with the bounds of the modality's own policy."""

    def make(name: str, steps: str, size: tuple[int, ...] | None = None, **audit: float) -> ViewMaker:
        modality, own_size = SETS[name]
        path = tmp_path / f"{modality}.yaml"
        said = ", ".join(f"{key}: {value}" for key, value in audit.items())
        path.write_text(f"name: planted\nmodality: {modality}\nsteps: [{steps}]\naudit: {{{said}}}\n")
        names = [part.split("}")[0].split(",")[0] for part in steps.split("{name: ")[1:]]
        allow = dict.fromkeys(names, "planted")
        return ViewMaker(ViewsConfig(policy=str(path), size=size or own_size, allow=allow), BUILT_IN[modality])

    return make


def crop_of(name: str) -> str:
    return "{name: crop, keep: [0.6, 1.0]}" if name == "lungs" else "{name: crop}"


@pytest.mark.parametrize("name", sorted(SETS))
def test_built_in_policies_keep_within_their_bounds(name: str, real_store: Callable[[str], VolumeStore]) -> None:
    modality, size = SETS[name]
    for strength in ("default", "strong"):
        maker = ViewMaker(ViewsConfig(policy=modality, size=size, strength=strength), BUILT_IN[modality])
        figures, breaches = measure(real_store(name), maker)
        assert breaches == [] and figures["pairs"] >= 16 and figures["swapped_share"] == 0
        assert figures["mask_survival"] is not None


@pytest.mark.parametrize("name", sorted(SETS))
def test_a_bound_of_drift_holds_whatever_steps_meet_in_a_view(name: str, real_store: Callable[[str], VolumeStore]) -> None:
    """At their strongest and all at once: a preview may not end well or badly by luck."""
    modality, size = SETS[name]
    strong = ViewMaker(ViewsConfig(policy=modality, size=size, strength="strong"), BUILT_IN[modality])
    at_once = tuple(step.model_copy(update={"probability": 1.0}) if step.stage == "intensity" else step for step in strong.policy.steps)
    maker = ViewMaker(strong.config, strong.recipe, policy=strong.policy.model_copy(update={"steps": at_once}))
    for seed in range(3):
        assert [found for found in measure(real_store(name), maker, seed=seed)[1] if "mean" in found.figure] == []


@pytest.mark.parametrize("name", sorted(SETS))
def test_a_flip_is_caught(name: str, real_store: Callable[[str], VolumeStore], planted: Callable[..., ViewMaker]) -> None:
    maker = planted(name, f"{crop_of(name)}, {{name: flip_left_right}}")
    figures, breaches = measure(real_store(name), maker)
    assert [found.step for found in breaches if "sides exchanged" in found.figure] == ["flip_left_right"]
    assert 0.2 < figures["swapped_share"] < 0.8 and "flip_left_right" in maker.overrides


def test_gamma_on_ct_is_caught(real_store: Callable[[str], VolumeStore], planted: Callable[..., ViewMaker]) -> None:
    maker = planted("totalseg_ct", "{name: crop}, {name: gamma, range: [0.7, 1.5]}", max_drift=25, max_drift_share=0.06)
    figures, breaches = measure(real_store("totalseg_ct"), maker)
    assert {found.step for found in breaches} == {"gamma"} and any("water" in found.figure for found in breaches)
    assert abs(figures["drift"]["water"]["largest"]) > 25


@pytest.mark.parametrize("name", sorted(SETS))
def test_a_crop_that_loses_what_is_marked_is_caught(
    name: str, real_store: Callable[[str], VolumeStore], planted: Callable[..., ViewMaker]
) -> None:
    crop = "{name: crop, keep: [0.03, 0.05]}" if name == "lungs" else "{name: crop}"
    size = None if name == "lungs" else (12, 12, 12)
    figures, breaches = measure(real_store(name), planted(name, crop, size, min_mask_survival=0.8, max_empty_share=1))
    assert [found.step for found in breaches if "masks" in found.figure] == ["crop"] and figures["mask_survival"] < 0.6


@pytest.mark.parametrize("name", ["totalseg_ct", "totalseg_mr", "hippocampus"])
def test_a_spacing_that_is_not_accounted_for_is_caught(
    name: str, real_store: Callable[[str], VolumeStore], planted: Callable[..., ViewMaker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: views sampled as if the voxels' third side were half as long again as it is."""
    real = batched._parameters

    def forgetful(frame, size, affine, values):
        right = real(frame, size, affine, values)
        matrix = right.matrix * np.array([1, 1, 1.5])[:, None]
        return batched.ViewParameters(matrix, size, affine @ np.vstack([matrix, [0, 0, 0, 1]]), frame, values)

    monkeypatch.setattr(batched, "_parameters", forgetful)
    _, breaches = measure(real_store(name), planted(name, "{name: crop}, {name: scale, range: [0.9, 1.1]}"))
    assert [found.step for found in breaches if "two axes" in found.figure] == ["scale"]


def test_beside_reports_a_flip_is_refused_and_the_lungs_are_kept(real_store: Callable[[str], VolumeStore]) -> None:
    store = real_store("lungs")
    policy = load_policy("xray")
    flipping = policy.model_copy(update={"steps": (*policy.steps, FlipLeftRight())})
    with pytest.raises(UserError, match="flip_left_right is unsafe for xray with reports: the report names sides"):
        ViewMaker(ViewsConfig(policy="xray", size=(96, 96)), BUILT_IN["xray"], paired=True, policy=flipping)
    maker = ViewMaker(ViewsConfig(policy="xray", size=(96, 96)), BUILT_IN["xray"], paired=True)
    figures, breaches = measure(store, maker)
    assert breaches == [] and figures["mask_survival"] >= 0.9 and figures["field_share"]["min"] >= 0.6

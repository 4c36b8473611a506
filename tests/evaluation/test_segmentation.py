"""Dice and Hausdorff against MONAI; outlines land on the stored grid; a study of masks runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medcl.encoders import ResEncConfig, build_seeded
from medcl.evaluation.fits import unpack
from medcl.evaluation.outlines import SIDE, labels_there, middle_slice, upright
from medcl.evaluation.segmentation import (
    Segmenter,
    class_table,
    outline,
    segmentation_loss,
    structures,
    windows_on_structures,
)
from medcl.evaluation.settings import SegmentationTask
from medcl.evaluation.study import StudyConfig, run_study
from medcl.evaluation.surfaces import dice, surface_scores
from medcl.foundation.config import validate
from medcl.foundation.errors import DataError, UserError
from medcl.foundation.progress import Silent
from medcl.foundation.types import Volume
from medcl.loading.batches import Batches
from medcl.reporting.page import write_study_page
from medcl.store.prepare import prepare_data
from medcl.store.recipe import load_recipe
from medcl.store.volume_store import VolumeStore
from tests.evaluation.made_stores import VOLUME_ENCODER, views
from tests.store.made_data import MadeData


def _blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(length) for length in (18, 16, 12)), indexing="ij"))
    centres = rng.integers(5, 8, (2, 3))
    one, other = (((grid - centre[:, None, None, None]) ** 2).sum(0) < radius for centre, radius in zip(centres, (18, 11), strict=True))
    return one, other


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.5)])
def test_surface_scores_equal_monai(seed: int, spacing: tuple[float, float, float]) -> None:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    one, other = _blobs(seed)
    tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (one, other)]
    distance = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=list(spacing))
    for tolerance_mm in (0.5, 1.4, 3.0):
        ours = surface_scores(one, other, spacing, tolerance_mm)
        share = compute_surface_dice(*tensors, [tolerance_mm], include_background=True, spacing=list(spacing))
        assert ours == pytest.approx((float(distance), float(share)), abs=1e-4)


def test_dice_equals_monai() -> None:
    from monai.metrics.meandice import compute_dice

    one, other = _blobs(0)
    tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (one, other)]
    assert dice(one, other) == pytest.approx(float(compute_dice(*tensors)))


def test_empty_outlines() -> None:
    nothing, something = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert dice(nothing, nothing) == 1 and surface_scores(nothing, nothing, (1, 1, 1), 1.0) == (0, 1)
    assert dice(nothing, something) == 0
    assert surface_scores(nothing, something, (1, 1, 2), 1.0) == pytest.approx((np.sqrt(16 + 16 + 64), 0))


def test_loss_is_per_scan_and_lowest_at_the_truth() -> None:
    target = torch.zeros(2, 6, 6, dtype=torch.int64)
    target[:, :3] = 1
    right = torch.stack([-(target * 2 - 1.0), target * 2 - 1.0], dim=1) * 20
    losses = segmentation_loss(torch.cat([right[:1], -right[:1]]), target)
    assert losses.shape == (2,)
    assert losses[0] < 1e-3 < 1 < losses[1]


class _Oracle(Segmenter):
    """Says the image's own brightness classes, so that only the geometry of `outline` is tested."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def logits(self, image: torch.Tensor, learn: bool = False) -> torch.Tensor:
        return 20 * torch.cat([-image, image], dim=1)


@pytest.mark.parametrize("size", [(24, 24, 24), (10, 12, 11)])
def test_outline_comes_back_to_the_stored_grid(outlined: VolumeStore, size: tuple[int, int, int]) -> None:
    maker = views("mr", size)
    found = outline(_Oracle(), outlined, 1, maker, torch.device("cpu"))
    bright = outlined.read(1).array > 0
    assert found.shape == outlined.shape(1)
    assert dice(found == 1, bright) > 0.97


def test_masks_follow_the_views(outlined: VolumeStore) -> None:
    settings = {"num_views": 1, "world_batch": 2, "seed": 0, "rows": np.array([3, 5]), "masks": class_table((2,))}
    first, again = (Batches(outlined, views("mr", (16, 16, 16)), workers=workers, **settings).at(4) for workers in (0, 2))
    assert first.target is not None and again.target is not None
    assert torch.equal(first.target, again.target) and torch.equal(first.views[0], again.views[0])
    assert set(first.target.unique().tolist()) <= {0, 1}, "structure 1 was not asked for, 2 is class 1"
    inside = first.views[0][:, 0][first.target == 1]
    assert inside.mean() > first.views[0].mean(), "structure 2 is bright"


def test_class_table_and_numbers(outlined: VolumeStore) -> None:
    assert class_table((2, 7))[[0, 1, 2, 7]].tolist() == [0, 0, 1, 2]
    assert structures(outlined, np.arange(3)) == (1, 2)


def test_structure_that_is_nowhere_is_no_perfect_outline(outlined: VolumeStore) -> None:
    assert structures(outlined, np.arange(3), [2, 1]) == (2, 1)
    with pytest.raises(UserError, match="7 is in no mask of the training part; they hold 1, 2"):
        structures(outlined, np.arange(3), [2, 7])
    with pytest.raises(DataError, match="outlines anything"):
        structures(outlined, np.arange(0))


@pytest.mark.parametrize(
    "labels, message", [([0], "greater than or equal to 1"), ([1, 1], "there twice"), ([300], "less than or equal to 255")]
)
def test_numbers_that_no_mask_can_hold_are_refused(labels: list[int], message: str) -> None:
    """0 is what lies between the structures; as one of them, Dice of the background was reported."""
    with pytest.raises(UserError, match=message):
        validate(SegmentationTask, {"labels": labels}, "study.yaml")


def test_frozen_encoder_does_not_learn() -> None:
    method = Segmenter(build_seeded(VOLUME_ENCODER, seed=0), 2, head_share=0.0, frozen=True)
    method.logits(torch.randn(1, 1, 12, 12, 12), learn=method.head_share <= 0.99).sum().backward()
    assert all(parameter.grad is None for parameter in method.backbone.parameters())
    assert all(parameter.grad is not None for parameter in method.decoder.parameters())


def test_study_of_masks(outlined: VolumeStore, tmp_path: Path) -> None:
    content = {
        "data": str(outlined.folder),
        "task": {"name": "segmentation"},
        "inits": {"random": VOLUME_ENCODER.model_dump()},
        "recipe": "mr",
        "views": {"policy": "mr", "size": [16, 16, 16]},
        "fractions": [0.3],
        "draws": 1,
        "resamples": 100,
        "finetune": {"num_steps": 3, "batch": 2, "learning_rates": [0.01], "looks": 1, "workers": 0},
    }
    headline = run_study(validate(StudyConfig, content, "study.yaml"), tmp_path / "study", before_card=write_study_page).headline
    assert headline["metric"] == "dice"
    results = pd.read_csv(tmp_path / "study" / "results.csv")
    assert set(results["mode"]) == {"frozen", "finetune"}
    scores = ("dice", "hd95_mm", "surface_dice")
    assert set(results["metric"]) == {*scores, *(f"{name}_{number}" for name in scores for number in (1, 2))}
    summary = pd.read_csv(tmp_path / "study" / "summary.csv").set_index("metric")
    assert summary.loc["hd95_mm_1", "high"].max() > 1, "a distance is not bounded as a share is"
    hardest = json.loads((tmp_path / "study" / "closeup.json").read_text())["hardest"]
    truth, said = unpack(hardest[0]["outlines"]["truth"]), unpack(hardest[0]["outlines"]["said"]["random"])
    assert truth.shape == said.shape == (SIDE, SIDE) and {0, 1, 2} >= set(np.unique(truth)) > {0}
    assert (tmp_path / "study" / "figures" / "hardest_1.pdf").is_file()
    assert "dashed white the truth" in (tmp_path / "study" / "page.html").read_text()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.4, 3.0)])
def test_a_slice_is_shown_through_the_middle_of_the_structures(spacing: tuple[float, float, float], tmp_path: Path) -> None:
    mask = np.zeros((40, 30, 20), np.uint8)
    mask[24:30, 4:10, 11:16] = 2
    noise = np.random.default_rng(0).normal(100, 5, mask.shape)
    scan = Volume((1000.0 * mask + noise).astype(np.float32), np.diag([*spacing, 1.0]), "mr", "arbitrary")
    labels = pd.DataFrame({"volume_id": ["v"], "mask_id": ["m"]})
    made = MadeData({"v": scan}, {"m": Volume(mask, scan.affine, "mr", "arbitrary")}, labels)
    recipe = load_recipe("mr").model_copy(update={"spacing_mm": None})
    prepare_data(made, "hash", tmp_path / "store", recipe, jobs=1, progress=Silent())
    store, maker = VolumeStore(tmp_path / "store"), views("mr", (16, 16, 16))
    view = middle_slice(maker, store, 0, mask > 0)
    shown = labels_there(mask, view)
    rows, columns = np.nonzero(shown)
    long_mm = 2 * 6 * max(spacing[:2])  # twice the longer side of the box
    assert len(rows) * (long_mm / SIDE) ** 2 == pytest.approx(36 * spacing[0] * spacing[1], rel=0.05)
    assert (rows.mean(), columns.mean()) == pytest.approx(((SIDE - 1) / 2,) * 2, abs=1.0), "in the middle"
    picture = upright(maker.render(store, 0, view))
    assert picture[shown > 0].min() > picture[shown == 0].mean(), "picture and outline lie on each other"
    nothing = middle_slice(maker, store, 0, mask > 9)
    assert labels_there(mask, nothing).shape == (SIDE, SIDE)


def test_foreground_is_where_windows_are_laid(outlined: VolumeStore) -> None:
    """Small windows hold more of the structures the more of them are laid there, and none misses them where all are."""

    def inside(share: float) -> torch.Tensor:
        maker = views("mr", (8, 8, 8))
        settings = {"rows": np.arange(10), "masks": class_table((1, 2)), "draw": windows_on_structures(maker, share)}
        batches = Batches(outlined, maker, num_views=1, world_batch=5, seed=0, workers=0, **settings)
        return torch.cat([(batch.target > 0).flatten(1).float().mean(1) for batch in batches.iterate(0, 24) if batch.target is not None])

    never, often, always = (inside(share) for share in (0.0, 0.5, 1.0))
    assert never.min() == 0 < always.min()
    assert never.mean() < often.mean() < always.mean()


def test_resenc_encoder_makes_the_resenc_u_net(outlined: VolumeStore) -> None:
    encoder = ResEncConfig(blocks=(1, 1, 1), width=4, spatial_dims=3)
    method = Segmenter(build_seeded(encoder, seed=0), 3, head_share=0.0, frozen=False)
    assert method.logits(torch.randn(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)
    found = outline(method, outlined, 0, views("mr", (16, 16, 16)), torch.device("cpu"))
    assert found.shape == outlined.shape(0)

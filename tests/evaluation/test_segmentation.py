"""Dice and Hausdorff against MONAI; outlines land on the stored grid; a study of masks runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medcl.encoders import build_seeded
from medcl.evaluation.segmentation import (
    OutlinedBatches,
    Segmenter,
    class_table,
    dice,
    hausdorff_95_mm,
    mask_numbers,
    outline,
    segmentation_loss,
)
from medcl.evaluation.study import StudyConfig, run_study
from medcl.foundation.config import validate
from medcl.store.volume_store import VolumeStore
from tests.evaluation.made_stores import VOLUME_ENCODER, views


def _blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(length) for length in (18, 16, 12)), indexing="ij"))
    centres = rng.integers(5, 8, (2, 3))
    one, other = (((grid - centre[:, None, None, None]) ** 2).sum(0) < radius for centre, radius in zip(centres, (18, 11), strict=True))
    return one, other


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.5)])
def test_hausdorff_equals_monai(seed: int, spacing: tuple[float, float, float]) -> None:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    one, other = _blobs(seed)
    tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (one, other)]
    theirs = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=list(spacing))
    assert hausdorff_95_mm(one, other, spacing) == pytest.approx(float(theirs), abs=1e-4)


def test_dice_equals_monai() -> None:
    from monai.metrics.meandice import compute_dice

    one, other = _blobs(0)
    tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (one, other)]
    assert dice(one, other) == pytest.approx(float(compute_dice(*tensors)))


def test_empty_outlines() -> None:
    nothing, something = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert dice(nothing, nothing) == 1 and hausdorff_95_mm(nothing, nothing, (1, 1, 1)) == 0
    assert dice(nothing, something) == 0 and hausdorff_95_mm(nothing, something, (1, 1, 2)) == pytest.approx(np.sqrt(16 + 16 + 64))


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
    batches = OutlinedBatches(outlined, views("mr", (16, 16, 16)), np.array([3, 5]), (2,), batch=2, seed=0, plain=False)
    first, again = (next(iter(batches.iterate(4, 5))) for _ in range(2))
    assert first.target is not None and again.target is not None
    assert torch.equal(first.target, again.target) and torch.equal(first.views[0], again.views[0])
    assert set(first.target.unique().tolist()) <= {0, 1}, "structure 1 was not asked for, 2 is class 1"
    inside = first.views[0][:, 0][first.target == 1]
    assert inside.mean() > first.views[0].mean(), "structure 2 is bright"


def test_class_table_and_numbers(outlined: VolumeStore) -> None:
    assert class_table((2, 7))[[0, 1, 2, 7]].tolist() == [0, 0, 1, 2]
    assert mask_numbers(outlined, np.arange(3)) == (1, 2)


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
    headline = run_study(validate(StudyConfig, content, "study.yaml"), tmp_path / "study").headline
    assert headline["metric"] == "dice"
    results = pd.read_csv(tmp_path / "study" / "results.csv")
    assert set(results["mode"]) == {"frozen", "finetune"}
    assert set(results["metric"]) == {"dice", "hd95_mm", "dice_1", "dice_2", "hd95_mm_1", "hd95_mm_2"}

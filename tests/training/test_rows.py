"""Which rows of a store pretraining learns from."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

from medcl.foundation.errors import UserError
from medcl.run_config import PretrainConfig, rows_to_learn_from

INDEX = pd.DataFrame(
    {
        "split": ["", "train", "test", "train", "train", ""],
        "pixel_hash": ["a", "b", "c", "b", "d", "e"],
        "report_id": ["r0", "r1", "r2", "r3", "r4", ""],
    }
)
REPORTS = pd.DataFrame({"report_id": ["r0", "r1", "r2", "r3", "r4"], "text": ["No finding.", "Effusion.", "x", "x", "  "]})


def settings(**more) -> PretrainConfig:
    small = {"name": "resnet", "depth": 18, "spatial_dims": 2}
    views = {"policy": "xray", "size": [32, 32]}
    whole = {"store": "s", "encoder": small, "method": {"name": "simclr"}, "views": views, "training": {"num_steps": 1, "world_batch": 2}}
    return PretrainConfig.model_validate({**whole, **more})


def test_one_of_each_picture_of_the_right_splits() -> None:
    store = SimpleNamespace(index=INDEX, reports=REPORTS)
    assert rows_to_learn_from(settings(splits=["train"]), store, needs_text=False) == [0, 1, 4, 5]
    assert rows_to_learn_from(settings(splits=["train", "test"]), store, needs_text=False) == [0, 1, 2, 4, 5]


def test_a_missing_or_empty_report_leaves_its_scan_out_and_stops_nothing() -> None:
    store = SimpleNamespace(index=INDEX, reports=REPORTS)
    assert rows_to_learn_from(settings(splits=["train"]), store, needs_text=True) == [0, 1]


def test_of_equal_pictures_the_one_with_a_report_is_learned_from() -> None:
    """An export may hold a picture twice, and its report belong to the second one."""
    index = INDEX.assign(pixel_hash=["a", "b", "c", "d", "d", "d"], report_id=["r0", "r1", "r2", "r4", "", "r1"])
    store = SimpleNamespace(index=index, reports=REPORTS)
    assert rows_to_learn_from(settings(splits=["train"]), store, needs_text=True) == [0, 1, 5]


def test_too_few_is_said() -> None:
    with pytest.raises(UserError, match="needs reports and this store has none"):
        rows_to_learn_from(settings(), SimpleNamespace(index=INDEX, reports=None), needs_text=True)
    with pytest.raises(UserError, match="1 scans to learn from with splits"):
        rows_to_learn_from(settings(splits=["train"]), SimpleNamespace(index=INDEX[:1], reports=REPORTS), needs_text=False)

"""The leak guard finds what was planted: the same patient, the same pixels, and the same picture in another guise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medcl.evaluation.leaks import Scored, check_leaks
from medcl.export.backbone import TRAINING_ITEMS
from medcl.foundation.errors import DataError
from tests.ingest.test_duplicates import made_hashes, turned


def corpus(folder: Path, **columns: list[str]) -> dict[str, Path]:
    folder.mkdir()
    pd.DataFrame(columns).to_parquet(folder / TRAINING_ITEMS)
    return {"moco": folder}


def scored(near: list[str]) -> Scored:
    names = [f"test{number}" for number in range(len(near))]
    return Scored(np.array(names), np.array([f"pixels of {name}" for name in names]), np.array(near))


def test_forty_planted_leaks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trained, own = made_hashes(1000, 1), made_hashes(200, 2)
    near = [turned(trained[number], 1 + number % 30, rng) for number in range(20)]
    test = scored([*near, *own])
    pixels = [*test.pixel_hash[20:40], *(f"other{number}" for number in range(980))]
    backbone = corpus(tmp_path / "b", patient_key=["x"] * 1000, pixel_hash=pixels, near_hash=trained)
    with pytest.raises(DataError, match=r"moco: 0 test patients \(none\), 20 test images .*, 20 near-duplicates"):
        check_leaks(backbone, test, transductive=False)
    report = check_leaks(backbone, test, transductive=True)
    assert (report.patients, report.images, report.near) == (0, 20, 20)
    assert "20 more test images look like one of them" in report.sentence


def test_a_likeness_alone_is_told_and_no_error(tmp_path: Path) -> None:
    trained = made_hashes(10)
    backbone = corpus(tmp_path / "b", patient_key=["x"] * 10, pixel_hash=["y"] * 10, near_hash=trained)
    report = check_leaks(backbone, scored([trained[0], *made_hashes(99, 3)]), transductive=False)
    assert report.near == 1 and "1 more test images" in report.sentence


def test_a_backbone_of_before_knows_no_perceptual_hash(tmp_path: Path) -> None:
    backbone = corpus(tmp_path / "b", patient_key=["x"], pixel_hash=["y"])
    assert check_leaks(backbone, scored(made_hashes(3)), transductive=False).near == 0

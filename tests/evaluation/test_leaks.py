"""The leak guard finds what was planted: the same patient, the same pixels, and the same picture in another guise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from medcl.evaluation.leaks import Scored, check_leaks, lookalikes
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


def _pictures(count: int, seed: int) -> np.ndarray:
    """Smooth noise of 20 x 20 around one common anatomy: too small for a perceptual hash, and all alike."""
    rng = np.random.default_rng(seed)
    anatomy = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(20, 20)), 4)
    own = np.stack([ndimage.gaussian_filter(rng.normal(size=(20, 20)), 2) for _ in range(count)])
    return anatomy / anatomy.std() + 0.5 * own / own.std()


def test_a_copy_in_another_guise_stands_out_and_strangers_do_not() -> None:
    corpus, test = _pictures(300, 1), _pictures(60, 2)
    rng = np.random.default_rng(3)
    for place in range(10):
        test[place] = 30 + 7 * np.clip(corpus[20 * place], -2.5, 2.5) + rng.normal(0, 0.2, (20, 20))  # another window, and noise
    pictures = np.concatenate([corpus, test]).reshape(360, -1)
    found = lookalikes(pictures, np.arange(360), np.arange(300, 360), np.arange(300))
    assert found == [(300 + place, 20 * place) for place in range(10)]


def test_two_pictures_of_one_patient_do_not_hide_a_copy() -> None:
    corpus = _pictures(50, 1)
    corpus[1] = corpus[0] + 0.01
    pictures = np.concatenate([corpus, corpus[:1] * 2]).reshape(51, -1)
    patient = np.array([0, 0, *range(2, 51)])
    assert [one for one, _ in lookalikes(pictures, patient, np.array([50]), np.arange(50))] == [50]
    assert lookalikes(pictures, np.arange(51), np.array([50]), np.arange(50)) == [], "two patients look like it"
    assert lookalikes(pictures, np.arange(51), np.array([50]), np.array([3])) == []

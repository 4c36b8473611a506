"""exp, log and normal numbers in vector loops, against numpy, the published Philox vector and the normal distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medcl.views import elementary


def test_exp() -> None:
    x = np.linspace(-80, 80, 40_001, dtype=np.float32)
    y = x.copy()
    elementary.exp_in_place(y, np.empty(x.size, np.int32))
    assert np.abs(y / np.exp(x.astype(np.float64)) - 1).max() < 3e-7


def test_log() -> None:
    x = np.exp(np.linspace(-80, 80, 40_001)).astype(np.float32)
    y, right = x.copy(), np.log(x.astype(np.float64))
    elementary.log_in_place(y)
    assert (np.abs(y - right) / np.maximum(np.abs(right), 1)).max() < 2e-7


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (0, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),  # Random123's kat_vectors, philox4x32 10
    ],
)
def test_philox_known_answer(counter: int, key: tuple[int, int], words: list[int]) -> None:
    out = np.empty((4, 1024), np.uint32)
    elementary._philox(out, np.uint32(counter), np.uint32(key[0]), np.uint32(key[1]))
    assert out[:, 0].tolist() == words
    assert len(np.unique(out)) > 4090


def test_noise_is_normal_and_uncorrelated() -> None:
    view = np.zeros((64, 50, 40), np.float32)
    elementary.add_noise(view, 987654321987, np.float32(1))
    values = view.ravel().astype(float)
    assert stats.kstest(values, "norm").pvalue > 1e-3
    spectrum = np.abs(np.fft.rfft(values)) ** 2 / values.size
    assert spectrum[1:].max() < 25 and abs(spectrum[1:].mean() - 1) < 0.02


def test_noise_of_a_voxel_depends_on_its_place_alone() -> None:
    small, large = np.zeros((1, 1, 100), np.float32), np.zeros((3, 41, 100), np.float32)
    for view in (small, large):
        elementary.add_noise(view, 5, np.float32(2))
    assert np.array_equal(small.ravel(), large.ravel()[:100])

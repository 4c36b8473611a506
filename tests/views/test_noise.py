"""Noise against its formula or the library that defines it, with the same random numbers."""

from __future__ import annotations

import numpy as np
import pytest

from medcl.views.elementary import add_noise
from medcl.views.noise import DoseNoise, Noise, RicianNoise, Speckle
from medcl.views.step import Look, Step

LOOK = Look(background=-2.0, spacing_mm=(1.0, 1.5, 2.0), network=(1.0, 0.0), limits=(-5.0, 5.0))


def image(seed: int = 0, shape: tuple[int, int, int] = (14, 12, 10)) -> np.ndarray:
    return np.abs(np.random.default_rng(seed).normal(size=shape)).astype(np.float32) - 2


def applied(step: Step, values: dict[str, float], view: np.ndarray) -> np.ndarray:
    out = view.copy()
    step.apply(out, values, LOOK)
    return out


def normal(key: int, shape: tuple[int, ...] = (14, 12, 10)) -> np.ndarray:
    """The numbers that a key stands for."""
    out = np.zeros(shape, np.float32)
    add_noise(out, key, np.float32(1))
    return out


def test_noise_has_its_deviation_and_its_key() -> None:
    still = np.zeros((40, 40, 40), np.float32)
    step = Noise(max_sd=30)
    one = applied(step, {"sd": 20, "key": 11}, still)
    assert abs(one.mean()) < 0.4 and one.std() == pytest.approx(20, rel=0.02)
    kurtosis = float(((one / one.std()) ** 4).mean())
    assert kurtosis == pytest.approx(3, abs=0.15)
    assert abs(np.corrcoef(one[:-1].ravel(), one[1:].ravel())[0, 1]) < 0.02
    assert np.array_equal(one, applied(step, {"sd": 20, "key": 11}, still))
    assert abs(np.corrcoef(one.ravel(), applied(step, {"sd": 20, "key": 12}, still).ravel())[0, 1]) < 0.02


def test_rician_noise_equals_monai() -> None:
    from monai.transforms.intensity.array import RandRicianNoise

    class Given:
        """A source of the numbers that our keys stand for."""

        def __init__(self) -> None:
            self.keys = [5, 6]

        def normal(self, mean: float, sd: float, size: tuple[int, ...]) -> np.ndarray:
            return mean + sd * normal(self.keys.pop(0)).reshape(size)

    peer = RandRicianNoise(prob=1.0, std=0.4, sample_std=False)
    peer.R = Given()  # type: ignore[assignment]
    expected = np.asarray(peer._add_noise((image() + 2)[None], 0.0, 0.4))[0] - 2
    assert applied(RicianNoise(max_sd=1), {"sd": 0.4, "key": 5, "key_imaginary": 6}, image()) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_rician_noise_lifts_the_dark_and_not_the_bright() -> None:
    """Rayleigh's mean where there is no signal; nearly none of it where the signal is far above the noise."""
    values = {"sd": 0.5, "key": 3, "key_imaginary": 4}
    dark = applied(RicianNoise(), values, np.full((40, 40, 40), -2, np.float32))
    bright = applied(RicianNoise(), values, np.full((40, 40, 40), 8, np.float32))
    assert dark.mean() == pytest.approx(-2 + 0.5 * np.sqrt(np.pi / 2), abs=0.01) and bright.mean() == pytest.approx(8, abs=0.02)


def test_speckle_equals_its_formula_and_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from skimage.util import random_noise

    class Given:
        def normal(self, mean: float, sd: float, size: tuple[int, ...]) -> np.ndarray:
            return mean + sd * normal(9)

    signal = image() + 2
    monkeypatch.setattr(np.random, "default_rng", lambda *_: Given())
    expected = random_noise(signal, mode="speckle", var=0.2**2, clip=False) - 2
    monkeypatch.undo()
    assert applied(Speckle(), {"sd": 0.2, "key": 9}, image()) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_dose_noise_grows_as_the_root_of_the_signal() -> None:
    """As a Poisson count does: the variance over the signal is the same everywhere, and nothing stays nothing."""
    step, values = DoseNoise(max_sd=1), {"sd": 0.3, "key": 4}
    for signal in (0.5, 4.0, 50.0):
        out = applied(step, values, np.full((40, 40, 40), signal - 2, np.float32))
        assert out.mean() + 2 == pytest.approx(signal, rel=0.01) and out.var() / signal == pytest.approx(0.09, rel=0.03)
    assert (applied(step, values, np.full((9, 9, 9), -2, np.float32)) == -2).all()
    counts = np.random.default_rng(0).poisson(50 / 0.09, 64000) * 0.09
    thinned = applied(step, values, np.full((40, 40, 40), 48, np.float32)) + 2
    assert np.quantile(thinned, (0.05, 0.5, 0.95)) == pytest.approx(np.quantile(counts, (0.05, 0.5, 0.95)), rel=0.005)

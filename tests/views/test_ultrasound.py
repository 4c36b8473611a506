"""Gain is smooth along depth, a shadow lies below where it begins, and black stays black."""

from __future__ import annotations

import numpy as np
import pytest

from medcl.views.step import Look
from medcl.views.ultrasound import Gain, Shadow

LOOK = Look(background=0.0, spacing_mm=(1.0, 1.0, 1.0), network=(2.0, -1.0), limits=(0.0, 1.0))


def test_gain_passes_through_its_sliders_and_is_smooth() -> None:
    view = np.full((7, 81, 1), 0.5, np.float32)
    view[:2] = 0
    values = {"g0": 0.2, "g1": -0.2, "g2": 0.1, "g3": 0.1, "g4": -0.1}
    Gain().apply(view, values, LOOK)
    assert (view[:2] == 0).all() and np.ptp(view[2:], axis=0).max() == 0, "black stays black, and all beams are alike"
    curve = view[3, :, 0] / 0.5 - 1
    assert curve[::20] == pytest.approx(list(values.values()), abs=1e-5)
    assert np.abs(np.diff(curve, 2)).max() < 0.01 and np.abs(curve).max() <= 0.2 + 1e-6


def test_shadow_is_below_its_beginning_and_beside_it_is_none() -> None:
    view = np.ones((101, 101, 1), np.float32)
    Shadow().apply(view, {"strength": 0.4, "width": 0.1, "across": 0.7, "depth": 0.5}, LOOK)
    assert (view[:, :50] == 1).all() and (view[:40] > 0.99).all()
    assert view[:, 60].argmin() >= 70 < view[:, 100].argmin() and view.min() == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("step", [Gain(max_change=0.3), Shadow(max_strength=0.6)], ids=lambda step: step.name)
def test_drawn_values_stay_in_their_settings_and_apply_to_the_same_bits(step) -> None:
    view = np.random.default_rng(0).random((40, 30, 1)).astype(np.float32)
    for seed in range(30):
        values = step.draw(np.random.default_rng(seed), True)
        assert values == step.draw(np.random.default_rng(seed), True)
        one, other = view.copy(), view.copy()
        step.apply(one, values, LOOK)
        step.apply(other, values, LOOK)
        assert np.array_equal(one, other)
        assert (np.abs(one / view - 1) <= (0.3 if step.name == "gain" else 0.6) + 1e-5).all()

"""MR artefacts by TorchIO and MONAI: the same for the same values, and visible."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medcl.views.acquisition import Ghosting, Gibbs, Motion, Spike
from medcl.views.step import Look, Step

LOOK = Look(background=-1.0, spacing_mm=(1.0, 1.0, 1.0), network=(1.0, 0.0), limits=(-5.0, 5.0))


@pytest.mark.parametrize("step", [Motion(), Ghosting(), Spike(), Gibbs()], ids=lambda step: step.name)
def test_artefact_is_a_function_of_its_values_and_changes_the_view(step: Step) -> None:
    rng = np.random.default_rng(0)
    image = (ndimage.gaussian_filter(rng.normal(size=(24, 24, 24)), 2) * 10).astype(np.float32)
    image[:4] = -1
    values = step.draw(np.random.default_rng(4), False)
    assert values == step.draw(np.random.default_rng(4), False)
    one, other = image.copy(), image.copy()
    step.apply(one, values, LOOK)
    step.apply(other, values, LOOK)
    assert np.array_equal(one, other) and np.isfinite(one).all()
    assert 0.005 < np.abs(one - image).mean() / image.std() < 0.7
    assert np.corrcoef(one.ravel(), image.ravel())[0, 1] > 0.6

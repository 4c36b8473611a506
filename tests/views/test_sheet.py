"""What is printed under a view: short, with its unit, and never the key of a random stream."""

from __future__ import annotations

import re
import typing

import numpy as np
import pytest

from medcl.views.batched import ViewParameters
from medcl.views.crops import Frame
from medcl.views.policy import _STEPS
from medcl.views.sheet import _describe

NEEDED = {"intensity_shift": {"max_shift": 20}, "window_jitter": {"max_shift": 100}, "noise": {"max_sd": 40}, "dose_noise": {"max_sd": 0.2}}
RANGES = {key: {"range": (0.9, 1.1)} for key in ("intensity_scale", "gamma", "contrast")}
SETTINGS = NEEDED | RANGES | {"blur": {"max_sigma_mm": 1.5}}
CLASSES = {typing.get_args(cls.model_fields["name"].annotation)[0]: cls for cls in typing.get_args(typing.get_args(_STEPS)[0])}


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"crop"}))
def test_every_step_is_told_in_a_few_words(name: str) -> None:
    step = CLASSES[name](**SETTINGS.get(name, {}))
    values = step.draw(np.random.default_rng(0), False)
    frame = Frame(np.zeros(3), np.full(3, 96.0), np.eye(3))
    said = _describe(ViewParameters(np.eye(3, 4), (8, 8, 8), np.eye(4), frame, {"crop": {}, name: values}))
    assert said.startswith("96 x 96 x 96 mm, ") and name.split("_")[0] in said and len(said) < 90
    assert not re.search(r"\d{5}|e\+", said), said

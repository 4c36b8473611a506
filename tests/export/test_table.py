"""The README's table of exports says what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medcl.export.monai_into import NETWORKS
from medcl.export.targets import TARGETS as KNOWN
from tests.encoders.small_encoders import CONFIGS
from tests.export.pairs import BOUNDS, ENCODERS, TARGETS, in_readme, make, outcome

QUICK = {"ViT 2D", "SegResNet 2D", "ResEnc 2D"}


def _cases() -> list:
    return [
        pytest.param(name, target, marks=[] if name in QUICK and target != "onnx" else pytest.mark.slow)
        for name in ENCODERS
        for target in TARGETS
    ]


def test_every_encoder_and_every_target_is_in_the_table() -> None:
    assert {type(config) for config, _ in ENCODERS.values()} == {type(config) for config in CONFIGS.values()}
    assert {(type(config), config.spatial_dims) for config, _ in ENCODERS.values()} == {
        (type(config), config.spatial_dims) for config in CONFIGS.values()
    }
    assert {options["to"] for options in TARGETS.values()} == set(KNOWN)
    assert {options["into"] for options in TARGETS.values() if "into" in options} == set(NETWORKS)
    assert set(in_readme()) == {(name, target) for name in ENCODERS for target in TARGETS}
    assert "not measured" not in in_readme().values(), "python -m tests.export.pairs writes the table anew"


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> dict[str, Path]:
    return {}


@pytest.mark.parametrize(("name", "target"), _cases())
def test_the_cell_is_what_happens(name: str, target: str, backbones: dict[str, Path], tmp_path: Path, tmp_path_factory) -> None:
    if name not in backbones:
        backbones[name] = make(name, tmp_path_factory.mktemp("pair") / "backbone")
    found, said = outcome(backbones[name], target, tmp_path), in_readme()[name, target]
    if isinstance(found, str):
        assert said == found
    else:
        bound = BOUNDS.get(target, 1e-5)
        assert found <= bound and re.fullmatch(r"0|\de-\d\d", said) and float(said) <= bound
        assert found <= 30 * max(float(said), 1e-7)  # the last digits differ from machine to machine

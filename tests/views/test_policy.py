"""Policies: short files, one crop first, no step twice, mistakes explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcl.foundation.config import to_yaml
from medcl.foundation.errors import UserError
from medcl.store.recipe import BUILT_IN
from medcl.views.batched import ViewMaker
from medcl.views.policy import ViewsConfig, built_in_policies, load_policy


def test_there_is_a_policy_for_every_recipe() -> None:
    assert set(built_in_policies()) >= set(BUILT_IN)


@pytest.mark.parametrize("name", built_in_policies())
def test_written_policy_reads_back_equal(name: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(to_yaml(load_policy(name)))
    assert load_policy(path) == load_policy(name)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("[{name: rotation}]", "the first step must be crop"),
        ("[{name: crop}, {name: blur, max_sigma_mm: 1}, {name: blur, max_sigma_mm: 2}]", "each step may stand once; twice: blur"),
        ("[{name: crop}, {name: rotation, degrees: 4}]", "unknown key 'steps.degrees': legal keys: max_deg"),
        ("[{name: crop}, {name: blur}]", "either max_sigma_mm or max_sigma_px"),
    ],
)
def test_mistakes_are_explained(steps: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"name: mine\nmodality: ct\nsteps: {steps}\n")
    with pytest.raises(UserError, match=words):
        load_policy(path)


def test_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'cct': neither a built-in policy \(ct, mr, shape, xray\) nor a file"):
        load_policy("cct")


@pytest.mark.parametrize(
    ("recipe", "settings", "words"),
    [
        ("mr", {"policy": "ct", "size": (32, 32, 32)}, "'ct' is for ct, the store holds mr"),
        ("ct", {"policy": "ct", "size": (64, 64)}, r"makes volumes; expected 3 numbers \(x, y, z\)"),
        ("xray", {"policy": "xray", "size": (64, 64, 64)}, r"makes pictures; expected 2 numbers \(rows, columns\)"),
        ("ct", {"policy": "ct", "size": (32, 32, 32), "overlap": 0.1}, "views.overlap 0.1: at least 0.3 for volumes"),
    ],
)
def test_what_does_not_fit_together_is_refused(recipe: str, settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ViewMaker(ViewsConfig(**settings), BUILT_IN[recipe])


def test_unsafe_policy_is_refused_when_the_maker_is_built_and_its_override_is_written_out(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("name: mine\nmodality: ct\nsteps: [{name: crop}, {name: gamma, range: [0.7, 1.5]}]\n")
    with pytest.raises(UserError, match="gamma is unsafe for ct: Hounsfield units are physical"):
        ViewMaker(ViewsConfig(policy=str(path), size=(32, 32, 32)), BUILT_IN["ct"])
    maker = ViewMaker(ViewsConfig(policy=str(path), size=(32, 32, 32), allow={"gamma": "a phantom"}), BUILT_IN["ct"])
    assert "allowed: a phantom" in maker.resolved()["overrides"]["gamma"]


def test_resolved_writes_out_the_extent_and_what_a_report_changes() -> None:
    alone = ViewMaker(ViewsConfig(policy="ct", size=(32, 32, 16)), BUILT_IN["ct"]).resolved()
    assert alone["extent_mm"] == [48.0, 48.0, 24.0] and alone["policy"]["steps"][0]["keep"] is None
    paired = ViewMaker(ViewsConfig(policy="ct", size=(32, 32, 16)), BUILT_IN["ct"], paired=True).resolved()
    assert paired["policy"]["steps"][0]["keep"] == [0.6, 1.0] and paired["paired"]

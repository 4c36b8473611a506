"""Bounds hold for what the store really holds: every modality of its recipe, in its units, under its window."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcl.foundation.errors import UserError
from medcl.store.recipe import BUILT_IN, DisplayIntensity, Recipe, WindowIntensity, ZScoreIntensity
from medcl.views.batched import ViewMaker
from medcl.views.policy import ViewsConfig, built_in_policies, load_policy
from medcl.views.units import misread


def maker(recipe: Recipe, steps: str, folder: Path, **allow: str) -> ViewMaker:
    """Of a policy for the recipe's first modality."""
    path = folder / "policy.yaml"
    path.write_text(f"name: mine\nmodality: {recipe.modalities[0]}\nsteps: [{{name: crop, keep: [0.8, 1]}}, {steps}]\n")
    size = (32, 32) if recipe.kind == "picture" else (32, 32, 32)
    return ViewMaker(ViewsConfig(policy=str(path), size=size, allow=allow), recipe)


def test_a_store_of_two_modalities_takes_steps_that_are_safe_for_both(tmp_path: Path) -> None:
    recipe = BUILT_IN["mr"].model_copy(update={"modalities": ("mr", "ct")})
    gamma = "{name: gamma, range: [0.7, 1.5]}"
    with pytest.raises(UserError, match="gamma is unsafe for ct: Hounsfield units are physical"):
        maker(recipe, gamma, tmp_path)
    assert "(allowed: they are phantoms)" in maker(recipe, gamma, tmp_path, gamma="they are phantoms").overrides["gamma"]
    assert maker(recipe, "{name: rotation, max_deg: 15}", tmp_path).overrides == {}
    pictures = BUILT_IN["xray"].model_copy(update={"modalities": ("xray", "mammography")})
    with pytest.raises(UserError, match="blur is unsafe for mammography: microcalcifications are lost"):
        maker(pictures, "{name: blur, max_sigma_px: 1}", tmp_path)


@pytest.mark.parametrize(
    ("name", "intensity", "step", "words"),
    [
        ("ct", ZScoreIntensity(), "{name: noise, max_sd: 40}", "bounds for ct are in HU, and the store holds standard deviations"),
        ("ct", ZScoreIntensity(), "{name: intensity_shift, max_shift: 20}", "intensity_shift is unsafe for recipe 'ct': its bounds"),
        ("mr", DisplayIntensity(), "{name: rician_noise, max_sd: 0.5}", "and the store holds shares of the display range"),
        ("mr", WindowIntensity(), "{name: noise, max_sd: 0.5}", "are in standard deviations, and the store holds values as they came"),
        ("xray", ZScoreIntensity(), "{name: noise, max_sd: 0.1}", "bounds for xray are in shares of the display range"),
    ],
)
def test_bounds_in_other_units_hold_nothing(name: str, intensity, step: str, words: str, tmp_path: Path) -> None:
    recipe = BUILT_IN[name].model_copy(update={"intensity": intensity})
    with pytest.raises(UserError, match=words):
        maker(recipe, step, tmp_path)
    assert maker(BUILT_IN[name], step, tmp_path).overrides == {}
    assert maker(recipe, "{name: intensity_scale, range: [0.97, 1.03]}", tmp_path).overrides == {}


@pytest.mark.parametrize("name", ["xray", "mammography", "ultrasound"])
def test_slices_of_what_is_shown_nearly_whole_are_shown_nearly_whole(name: str, tmp_path: Path) -> None:
    """Tomosynthesis, say: a recipe that makes volumes of them lets nobody leave out what a crop keeps."""
    path = tmp_path / "policy.yaml"
    path.write_text(f"name: mine\nmodality: {name}\nsteps: [{{name: crop}}]\n")
    for kind, size in (("volume", (16, 32, 32)), ("picture", (32, 32))):
        recipe = BUILT_IN[name].model_copy(update={"kind": kind})
        with pytest.raises(UserError, match=rf"crop\.keep left out is unsafe for {name}: allowed is 0\.[58] to 1"):
            ViewMaker(ViewsConfig(policy=str(path), size=size), recipe)


def test_a_narrow_window_moves_less(tmp_path: Path) -> None:
    """A window of the brain whose ends each move by 100 HU may be turned inside out."""
    brain = BUILT_IN["ct"].model_copy(update={"intensity": WindowIntensity(low=0, high=80)})
    with pytest.raises(UserError, match=r"window_jitter\.max_shift 100 is unsafe for a window of 80: allowed is a quarter of it, 20"):
        maker(brain, "{name: window_jitter, max_shift: 100}", tmp_path)
    assert maker(brain, "{name: window_jitter, max_shift: 20}", tmp_path).overrides == {}


@pytest.mark.parametrize("name", built_in_policies())
def test_built_in_policies_are_about_what_built_in_recipes_store(name: str) -> None:
    assert list(misread(load_policy(name, "strong").steps, BUILT_IN[name])) == []

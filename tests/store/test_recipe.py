"""Recipes: built in or from a file, scales that meet the network's range, storage that is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medcl.foundation.config import to_yaml
from medcl.foundation.errors import UserError
from medcl.store.recipe import BUILT_IN, Recipe, WindowIntensity, load_recipe, recipe_hash
from medcl.store.standard import as_integers


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_written_recipe_reads_back_equal(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(BUILT_IN[name]))
    assert load_recipe(path) == BUILT_IN[name]
    assert recipe_hash(load_recipe(path)) == recipe_hash(BUILT_IN[name])


def test_a_changed_setting_changes_the_hash() -> None:
    ct = BUILT_IN["ct"]
    assert recipe_hash(ct) != recipe_hash(ct.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)}))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("ct", -1000, 1000), ("mr", -5, 5), ("pet", 0, 10), ("xray", 0, 1), ("mammography", 0, 1), ("ultrasound", 0, 1), ("shape", 0, 1)],
)
def test_ends_of_the_window_are_the_ends_of_the_network_range(name: str, low: float, high: float) -> None:
    recipe = BUILT_IN[name]
    scale, shift = recipe.network_scale()
    assert (low * scale + shift, high * scale + shift) == pytest.approx(recipe.network_range)


def test_hounsfield_units_are_stored_as_they_are() -> None:
    dtype, slope, intercept = BUILT_IN["ct"].storage()
    values = np.arange(-1024, 3072)
    assert np.array_equal(((values - intercept) / slope).astype(dtype) * slope + intercept, values)


@pytest.mark.parametrize("name", ["mr", "xray"])
def test_other_units_are_stored_finely(name: str) -> None:
    recipe = BUILT_IN[name]
    _, slope, _ = recipe.storage()
    low, high = (-5, 5) if name == "mr" else (0, 1)
    assert slope / 2 < 2.5e-4
    assert np.iinfo(np.int16).min <= low / slope and high / slope <= np.iinfo(np.int16).max


WINDOWS = [("SUV", 0.0, 100.0, 1 / 256), ("SUV", 0.0, 300.0, 1 / 64), ("arbitrary", 0.0, 4000.0, 1 / 8), ("arbitrary", -0.3, 0.7, 2**-15)]


@pytest.mark.parametrize(("units", "low", "high", "step"), [*WINDOWS, ("HU", -1024.0, 40000.0, 2.0), ("arbitrary", 99.0, 101.0, 2**-14)])
def test_a_window_is_stored_whole_and_to_one_step(units, low: float, high: float, step: float) -> None:
    """Values above 128 were cut off where units are not HU, however wide the window."""
    window = WindowIntensity(low=low, high=high, stored_low=low, stored_high=high)
    recipe = BUILT_IN["pet"].model_copy(update={"units": (units,), "intensity": window})
    dtype, slope, intercept = recipe.storage()
    values = np.linspace(low, high, 30000, dtype=np.float32).reshape(100, 100, 3)
    back = as_integers(values, dtype, slope, intercept) * np.float32(slope) + np.float32(intercept)
    assert slope == step and np.abs(back - values).max() <= 0.51 * step
    assert intercept == 0 or low > 0, "zero is kept where it is"


def test_a_window_has_ends() -> None:
    with pytest.raises(ValueError, match="all of them finite"):
        WindowIntensity(stored_high=float("inf"))


def test_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'cct': neither a built-in recipe .*ct, mr, pet, xray, mammography, ultrasound, shape"):
        load_recipe("cct")


def test_typo_in_a_recipe_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmodalities: [ct]\nkind: volume\nunits: [HU]\nspacing: [1, 1, 1]\nintensity: {name: window}\n")
    with pytest.raises(UserError, match="unknown key 'spacing': did you mean 'spacing_mm'"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("orientation: XYZ", r"'orientation': expected RAS: flips.* leave the setting out \(got 'XYZ'\)"),
        ("orientation: LPS", r"'orientation': expected RAS: .*\(got 'LPS'\)"),
        ("spacing_mm: [1, 0, 1]", r"spacing_mm.*greater than 0"),
        ("spacing_mm: [1, 1, -1]", r"spacing_mm.*greater than 0"),
        ("spacing_mm: [1, 1, .inf]", r"spacing_mm.*finite"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_with_the_reason(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nmodalities: [mr]\nkind: volume\nunits: [arbitrary]\nintensity: {{name: zscore}}\n{line}\n")
    with pytest.raises(UserError, match=said):
        load_recipe(path)


def test_window_must_lie_inside_what_is_stored() -> None:
    with pytest.raises(ValueError, match="stored_low <= low"):
        WindowIntensity(low=-2000)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        BUILT_IN["ct"].name = "other"  # type: ignore[misc]
    assert isinstance(BUILT_IN["ct"], Recipe)

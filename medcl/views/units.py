"""Whether a store's values are what a modality's bounds are about: in which units, and how wide the window is that moves."""

from __future__ import annotations

from collections.abc import Iterable

from medcl.store.recipe import Recipe, WindowIntensity
from medcl.views.effects import Breach
from medcl.views.step import Step

# modality -> units of its bounds. A modality that is not here is of another package, or has no intensities.
_UNITS = {
    "ct": "HU",
    "mr": "standard deviations",
    "pet": "SUV",
    **dict.fromkeys(("xray", "mammography", "ultrasound"), "shares of the display range"),
}
# Effects that are bounded in them: of the others, the bounds are factors, or lengths.
_ABSOLUTE = {"intensity_shift", "window_jitter", "noise"}
# Of the window's width, at each end: what is left between the two is at least half of it.
_MOST_JITTER = 0.25


def stored_units(recipe: Recipe) -> str:
    """What one is in a store of this recipe."""
    fixed = {"zscore": "standard deviations", "display": "shares of the display range", "binary": "shapes"}
    return fixed.get(recipe.intensity.name, recipe.stored_units if recipe.stored_units in ("HU", "SUV") else "values as they came")


def misread(steps: Iterable[Step], recipe: Recipe) -> Iterable[Breach]:
    """Steps whose bounds say nothing, or too little, about values as the recipe stores them."""
    for step in steps:
        if _ABSOLUTE.intersection(step.effects):
            yield from _in_other_units(step, recipe)
        if "window_jitter" in step.effects and isinstance(recipe.intensity, WindowIntensity):
            yield from _beyond_window(step, recipe.intensity)


def _in_other_units(step: Step, recipe: Recipe) -> Iterable[Breach]:
    stored = stored_units(recipe)
    for modality in recipe.modalities:
        bounded = _UNITS.get(modality, stored)
        if bounded != stored:
            text = f"its bounds for {modality} are in {bounded}, and the store holds {stored}"
            yield Breach(step.name, f"{step.name} is unsafe for recipe '{recipe.name}': {text}")


def _beyond_window(step: Step, window: WindowIntensity) -> Iterable[Breach]:
    width, shift = window.high - window.low, float(getattr(step, "max_shift", None) or 0)
    if shift > _MOST_JITTER * width:
        most = f"allowed is a quarter of it, {_MOST_JITTER * width:g}, because little would be left between its ends"
        yield Breach(step.name, f"{step.name}.max_shift {shift:g} is unsafe for a window of {width:g}: {most}")

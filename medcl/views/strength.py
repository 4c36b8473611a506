"""How far a policy goes: one factor for how far and how often every step acts, and never beyond what is safe."""

from __future__ import annotations

from typing import Any, Literal

from medcl.views.effects import widest
from medcl.views.step import Step

Strength = Literal["light", "default", "strong"]

_FACTORS: dict[str, float] = {"light": 2 / 3, "default": 1.0, "strong": 1.5}


def at_strength(steps: tuple[Step, ...], modality: str, strength: Strength) -> tuple[Step, ...]:
    """The steps as `strength` has them; `default` is the policy as it is written.

    A step acts `factor` times as often, and as far from doing nothing: `max_*` is multiplied (a `max_factor` counts from 1),
    the two ends of a `range` go away from 1 as a power. What reaches the modality's bound stays there; what has no bound, since the
    step is forbidden or of another package, does not go farther than written. A crop and a mirror have no such setting and
    stay as they are.
    """
    factor = _FACTORS[strength]
    return steps if factor == 1 else tuple(_scaled(step, modality, factor) for step in steps)


def _scaled(step: Step, modality: str, factor: float) -> Step:
    extents = {name: value for name in type(step).model_fields if (value := _farther(name, getattr(step, name), factor)) is not None}
    if not extents:
        return step
    bounded = {name: _kept_within(step, modality, name, value) for name, value in extents.items()}
    changed = bounded | {"probability": min(1.0, _short(step.probability * factor))}
    return type(step).model_validate(step.model_dump() | changed)


def _farther(name: str, value: Any, factor: float) -> tuple[float, ...] | float | None:
    """The setting's new value, or None where it does not say how far a step goes."""
    if name == "range":
        return tuple(_short(end**factor) for end in value)
    if not name.startswith("max_") or value is None:
        return None
    nothing = 1.0 if name == "max_factor" else 0.0
    return _short(nothing + (value - nothing) * factor)


def _short(value: float) -> float:
    """Six digits: what cards and pages print is exactly what is used."""
    return float(f"{value:.6g}")


def _kept_within(step: Step, modality: str, name: str, value: tuple[float, ...] | float) -> tuple[float, ...] | float:
    """Not beyond the bound, except as far as the policy itself already is (it was let through with a reason)."""
    low, high = widest(step, modality, name)
    if isinstance(value, tuple):
        written = getattr(step, name)
        return (max(value[0], min(low, written[0])), min(value[1], max(high, written[1])))
    return min(value, max(high, getattr(step, name)))

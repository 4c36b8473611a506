"""The contract of an augmentation: frozen settings, the effects it has on meaning, values drawn first and applied later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field

from medcl.foundation.config import Settings
from medcl.views import filters

# What an intensity step works on: one view (x, y, z), an array, and what was drawn for it; or a batch of views on a device
# (batch, x, y, z), a tensor, and for every name an array with one number for each view.
Pixels = Any
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """What an intensity step knows about the view it works on; of a batch, every number is an array with one for each view.

    background: stored value of nothing. spacing_mm: of the view's voxels. network: (scale, shift) from stored to
    network values. limits: stored values of the network's smallest and largest. passes: the arithmetic for this kind of
    view, compiled (filters.py) or on a device (device_filters.py).
    """

    background: Any
    spacing_mm: tuple[Any, Any, Any]
    network: tuple[Any, Any]
    limits: tuple[Any, Any]
    passes: ModuleType = filters

    @property
    def numbers(self) -> tuple[Any, ...]:
        """All but the passes, as eight numbers."""
        return (self.background, *self.spacing_mm, *self.network, *self.limits)


class Step(Settings):
    """Base of every augmentation.

    effects: what it does to meaning (see effects.py). stage: `spatial` steps give a 3x3 (`turn`) that becomes part of
    the view's matrix; `intensity` steps change values in place (`apply`), in stored units; there is one `crop`. batched: `apply`
    takes batches on a device too; a view with a step that does not is rendered alone, on the CPU.
    """

    # `allow` lets anything through, but of what is endless nothing can be drawn.
    model_config = ConfigDict(allow_inf_nan=False)

    effects: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[Literal["crop", "spatial", "intensity"]] = "intensity"
    batched: ClassVar[bool] = False

    name: Any  # a Literal in every subclass: the tag of the union
    probability: float = Field(default=1.0, ge=0, le=1)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """Values for one view. flat: a picture, which is turned in its plane only."""
        raise NotImplementedError

    def turn(self, values: dict[str, float]) -> np.ndarray:
        """3x3: rotation or mirror that the values of a spatial step mean."""
        raise NotImplementedError

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """Change a view (x, y, z) float32, or a batch of views, in place. Returns the look, changed where the network's window moved."""
        raise NotImplementedError

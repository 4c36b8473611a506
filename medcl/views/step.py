"""The contract of an augmentation: frozen settings, the effects it has on meaning, values drawn first and applied later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from medcl.foundation.config import Settings


@dataclass(frozen=True)
class Look:
    """What an intensity step knows about the view it works on.

    background: stored value of nothing. spacing_mm: of the view's voxels. network: (scale, shift) from stored to
    network values. limits: stored values of the network's smallest and largest.
    """

    background: float
    spacing_mm: tuple[float, float, float]
    network: tuple[float, float]
    limits: tuple[float, float]


class Step(Settings):
    """Base of every augmentation.

    effects: what it does to meaning (see effects.py). stage: `spatial` steps give a 3x3 (`turn`) that becomes part of
    the view's matrix; `intensity` steps change values in place (`apply`), in stored units; there is one `crop`.
    """

    effects: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[Literal["crop", "spatial", "intensity"]] = "intensity"

    name: Any  # a Literal in every subclass: the tag of the union
    probability: float = Field(default=1.0, ge=0, le=1)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """Values for one view. flat: a picture, which is turned in its plane only."""
        raise NotImplementedError

    def turn(self, values: dict[str, float]) -> np.ndarray:
        """3x3: rotation or mirror that the values of a spatial step mean."""
        raise NotImplementedError

    def apply(self, view: np.ndarray, values: dict[str, float], look: Look) -> Look:
        """Change a view (x, y, z) float32 in place. Returns the look, changed where the network's window moved."""
        raise NotImplementedError

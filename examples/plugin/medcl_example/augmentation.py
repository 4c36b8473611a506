"""A dark border, as some endoscopes and OCT devices give."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from medcl.views.step import Look, Step


class Vignette(Step):
    """max_loss: most brightness that the corners lose, as a share."""

    effects: ClassVar[tuple[str, ...]] = ("bias_field",)
    name: Literal["vignette"] = "vignette"
    max_loss: float = Field(default=0.3, ge=0, le=0.5)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """How much is lost this time."""
        return {"loss": float(rng.uniform(0, self.max_loss))}

    def apply(self, view: np.ndarray, values: dict[str, float], look: Look) -> Look:
        """Values fall towards the background with the squared distance from the middle."""
        x, y = (np.linspace(-1, 1, length, dtype=np.float32) for length in view.shape[:2])
        kept = 1 - np.float32(values["loss"] / 2) * (x[:, None] ** 2 + y[None, :] ** 2)
        view[:] = (view - np.float32(look.background)) * kept[:, :, None] + np.float32(look.background)
        return look

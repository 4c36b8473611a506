"""What ultrasound does to a picture: gain that changes along depth, and shadows behind what sound does not pass.

Depth is a picture's second axis, downwards: the probe is on top.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from medcl.views.step import Look, Pixels, Step, Values


class Gain(Step):
    """Other settings of the time gain compensation: the signal times a curve that is smooth along depth.

    max_change: of the gain, at most, as a share. num_points: sliders of the machine, evenly spaced along depth.
    """

    effects: ClassVar[tuple[str, ...]] = ("gain",)
    batched = True
    name: Literal["gain"] = "gain"
    max_change: float = Field(default=0.25, ge=0, lt=1)
    num_points: int = Field(default=5, ge=2, le=12)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`g<i>`: change of gain at point i of the depth, from the probe down."""
        drawn = rng.uniform(-self.max_change, self.max_change, self.num_points)
        return {f"g{i}": float(value) for i, value in enumerate(drawn)}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """Between two points half a cosine: smooth, and never beyond either of them."""
        points = np.stack([values[f"g{i}"] for i in range(len(values))], -1)
        last = points.shape[-1] - 1
        place = np.linspace(0, last, view.shape[-2])
        at = np.minimum(place.astype(int), last - 1)
        part = 0.5 - 0.5 * np.cos(np.pi * (place - at))
        curve = 1 + points[..., at] + (points[..., at + 1] - points[..., at]) * part
        look.passes.multiply(view, curve[..., None, :, None], look.background)
        return look


class Shadow(Step):
    """The signal behind a stone or a rib is weaker: a soft wedge from some depth down, spreading as the beams do.

    max_strength: share of the signal that is lost in its middle. max_width: of the wedge, as a share of the picture's width.
    """

    effects: ClassVar[tuple[str, ...]] = ("shadow",)
    batched = True
    name: Literal["shadow"] = "shadow"
    max_strength: float = Field(default=0.5, ge=0, le=1)
    max_width: float = Field(default=0.2, gt=0, le=1)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`strength`, `width` and where it begins: `across` and `depth`, shares of the picture's sides."""
        strength, width = rng.uniform((0, 0.25 * self.max_width), (self.max_strength, self.max_width))
        across, depth = rng.uniform((0.1, 0.1), (0.9, 0.6))
        return {"strength": float(strength), "width": float(width), "across": float(across), "depth": float(depth)}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """A Gaussian across, of the wedge's width, that begins within a twentieth of the depth."""
        across = np.linspace(0, 1, view.shape[-3])[:, None, None]
        depth = np.linspace(0, 1, view.shape[-2])[:, None]
        start, at, strength, width = (np.asarray(values[name])[..., None, None, None] for name in ("depth", "across", "strength", "width"))
        # Beams spread from a point above the picture, so that a shadow leans away from the middle as it goes down.
        middle = 0.5 + (at - 0.5) * (1 + depth) / (1 + start)
        spread = width / 2 * (1 + depth) / (1 + start)
        begun = np.clip((depth - start) * 20, 0, 1)
        look.passes.multiply(view, 1 - strength * begun * np.exp(-2 * ((across - middle) / spread) ** 2), look.background)
        return look

"""Artefacts of MR acquisition, by TorchIO and MONAI: slow, rare, and the same for the same key."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from medcl.views.step import Look, Pixels, Step, Values


class Motion(Step):
    """A patient who moved during the acquisition (TorchIO's Motion: k-space parts from moved copies).

    max_deg, max_mm: of each movement. num_movements: how many.
    """

    effects: ClassVar[tuple[str, ...]] = ("motion",)
    name: Literal["motion"] = "motion"
    max_deg: float = Field(default=5.0, ge=0, le=15)
    max_mm: float = Field(default=5.0, ge=0, le=15)
    num_movements: int = Field(default=2, ge=1, le=4)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`time<i>`, and degrees `r<i><axis>` and millimetres `t<i><axis>` of each movement."""
        values: dict[str, float] = {}
        # Movements in separate parts of the scan, none at its centre, where k-space holds nearly all of the image.
        edges = np.linspace(0, 1, self.num_movements + 1)
        for i in range(self.num_movements):
            values[f"time{i}"] = float(rng.uniform(edges[i] + 0.05, edges[i + 1] - 0.05))
            for axis in range(3):
                values[f"r{i}{axis}"] = float(rng.uniform(-self.max_deg, self.max_deg))
                values[f"t{i}{axis}"] = float(rng.uniform(-self.max_mm, self.max_mm))
        return values

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """Each movement is applied to the view itself."""
        import torchio

        count = sum(name.startswith("time") for name in values)
        transform = torchio.Motion(
            degrees=np.array([[values[f"r{i}{axis}"] for axis in range(3)] for i in range(count)]),
            translation=np.array([[values[f"t{i}{axis}"] for axis in range(3)] for i in range(count)]),
            times=np.array([values[f"time{i}"] for i in range(count)]),
            image_interpolation="linear",
        )
        view[...] = _through_torchio(transform, view, look)
        return look


class Ghosting(Step):
    """Copies along one axis from periodic motion (TorchIO's Ghosting).

    max_intensity: strength of the ghosts relative to k-space's maximum. num_ghosts: at least and at most; with 1 there would be none,
    but a picture without its details.
    """

    effects: ClassVar[tuple[str, ...]] = ("ghosting",)
    name: Literal["ghosting"] = "ghosting"
    max_intensity: float = Field(default=0.5, ge=0, le=1)
    num_ghosts: tuple[int, int] = (3, 8)

    @model_validator(mode="after")
    def _ordered(self) -> Ghosting:
        if not 2 <= self.num_ghosts[0] <= self.num_ghosts[1]:
            raise ValueError("num_ghosts: expected 2 <= least <= most")
        return self

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`intensity`, `ghosts` and the `axis` they repeat along."""
        return {
            "intensity": float(rng.uniform(0, self.max_intensity)),
            "ghosts": float(rng.integers(self.num_ghosts[0], self.num_ghosts[1] + 1)),
            "axis": float(rng.integers(0, 2)),
        }

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """The centre of k-space is kept, as TorchIO does by default."""
        import torchio

        transform = torchio.Ghosting(
            num_ghosts=int(values["ghosts"]), axis=int(values["axis"]), intensity=values["intensity"], restore=0.02
        )
        view[...] = _through_torchio(transform, view, look)
        return look


class Spike(Step):
    """Stripes from one bad sample in k-space (TorchIO's Spike).

    max_intensity: of the spike, relative to k-space's maximum.
    """

    effects: ClassVar[tuple[str, ...]] = ("spike",)
    name: Literal["spike"] = "spike"
    max_intensity: float = Field(default=0.3, ge=0, le=2)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`intensity`, and the place `x y z` in k-space from 0 to 1, off its centre, where a spike would be one grey veil."""
        place = 0.5 + rng.uniform(0.1, 0.4, 3) * rng.choice((-1.0, 1.0), 3)
        return {"intensity": float(rng.uniform(0, self.max_intensity)), **{axis: float(at) for axis, at in zip("xyz", place, strict=True)}}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """One spike, as TorchIO adds it."""
        import torchio

        place = np.array([[values["x"], values["y"], values["z"]]])
        view[...] = _through_torchio(torchio.Spike(place, values["intensity"]), view, look)
        return look


class Gibbs(Step):
    """Ringing beside sharp edges: the outer part of k-space was never sampled (MONAI's GibbsNoise).

    max_alpha: how much of k-space's radius is missing, at most.
    """

    effects: ClassVar[tuple[str, ...]] = ("gibbs",)
    name: Literal["gibbs"] = "gibbs"
    max_alpha: float = Field(default=0.6, ge=0, le=1)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`alpha`: 0 leaves the view alone."""
        return {"alpha": float(rng.uniform(0, self.max_alpha))}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """On the signal above the background."""
        import torch
        from monai.transforms.intensity.array import GibbsNoise

        signal = torch.from_numpy(view - np.float32(look.background))[None]
        view[...] = np.asarray(GibbsNoise(values["alpha"])(signal))[0] + np.float32(look.background)
        return look


def _through_torchio(transform: Any, view: np.ndarray, look: Look) -> np.ndarray:
    """Run a fixed (not random) TorchIO transform on the signal above the background."""
    import torch
    import torchio

    signal = torch.from_numpy(view - np.float32(look.background))[None]
    image = torchio.ScalarImage(tensor=signal, affine=np.diag([*look.spacing_mm, 1.0]))
    result = transform(torchio.Subject(image=image))["image"].data[0].numpy()
    return result + np.float32(look.background)

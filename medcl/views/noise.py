"""Noise: Gaussian, Rician, of counts, and speckle. Every voxel's number is a function of the step's key and the voxel's place."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from medcl.views.step import Look, Pixels, Step, Values

_KEYS = 2**52  # whole numbers that a float keeps exactly


class Noise(Step):
    """Add Gaussian noise with a standard deviation uniform in 0 .. max_sd, in stored units."""

    effects: ClassVar[tuple[str, ...]] = ("noise",)
    batched = True
    name: Literal["noise"] = "noise"
    max_sd: float = Field(ge=0)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`sd` and the `key` of the noise's own stream."""
        return {"sd": float(rng.uniform(0, self.max_sd)), "key": float(rng.integers(0, _KEYS))}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """Every voxel's noise is a function of the key and the voxel's place."""
        look.passes.add_noise(view, values["key"], values["sd"])
        return look


class RicianNoise(Step):
    """Noise of a magnitude image: Gaussian noise in both parts of the complex signal, standard deviation 0 .. max_sd.

    Gudbjartsson and Patz 1995, eq. 1. Dark regions become brighter, as in MR scans with little signal.
    """

    effects: ClassVar[tuple[str, ...]] = ("noise", "rician_bias")
    batched = True
    name: Literal["rician_noise"] = "rician_noise"
    max_sd: float = Field(default=0.2, ge=0)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`sd` and the keys of both parts' streams."""
        real, imaginary = rng.integers(0, _KEYS, 2)
        return {"sd": float(rng.uniform(0, self.max_sd)), "key": float(real), "key_imaginary": float(imaginary)}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """Signal is what lies above the background; as MONAI's RandRicianNoise does with the same numbers."""
        look.passes.add_noise(view, values["key"], values["sd"])
        imaginary = look.passes.noise_like(view, values["key_imaginary"], values["sd"])
        look.passes.magnitude(view, imaginary, look.background)
        return look


class DoseNoise(Step):
    """Noise of photon counts: its variance grows with the signal, as a shorter or weaker exposure has it (Poisson-like).

    max_sd: largest standard deviation where the signal is one stored unit above the background.
    """

    effects: ClassVar[tuple[str, ...]] = ("noise", "count_noise")
    batched = True
    name: Literal["dose_noise"] = "dose_noise"
    max_sd: float = Field(ge=0)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`sd` at a signal of one, and the `key` of the noise's own stream."""
        return {"sd": float(rng.uniform(0, self.max_sd)), "key": float(rng.integers(0, _KEYS))}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """view + sd * sqrt(signal) * normal number: the Gaussian that a Poisson count tends to."""
        noise = look.passes.noise_like(view, values["key"], values["sd"])
        look.passes.add_scaled_by_root(view, noise, look.background)
        return look


class Speckle(Step):
    """Multiplicative noise of a coherent wave: the signal times 1 + sd * normal number, sd uniform in 0 .. max_sd."""

    effects: ClassVar[tuple[str, ...]] = ("speckle",)
    batched = True
    name: Literal["speckle"] = "speckle"
    max_sd: float = Field(default=0.15, ge=0)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`sd` and the `key` of the speckle's own stream."""
        return {"sd": float(rng.uniform(0, self.max_sd)), "key": float(rng.integers(0, _KEYS))}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """Signal is what lies above the background; as skimage.util.random_noise(mode="speckle") does."""
        noise = look.passes.noise_like(view, values["key"], values["sd"])
        look.passes.multiply(view, 1 + noise, look.background)
        return look

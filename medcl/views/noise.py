"""Noise: Gaussian, Rician, of counts, and speckle. Every voxel's number is a function of the step's key and the voxel's place."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from medcl.views import filters
from medcl.views.elementary import add_noise
from medcl.views.step import Look, Step

_KEYS = 2**52  # whole numbers that a float keeps exactly


class Noise(Step):
    """Add Gaussian noise with a standard deviation uniform in 0 .. max_sd, in stored units."""

    effects: ClassVar[tuple[str, ...]] = ("noise",)
    name: Literal["noise"] = "noise"
    max_sd: float = Field(ge=0)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`sd` and the `key` of the noise's own stream."""
        return {"sd": float(rng.uniform(0, self.max_sd)), "key": float(rng.integers(0, _KEYS))}

    def apply(self, view: np.ndarray, values: dict[str, float], look: Look) -> Look:
        """Every voxel's noise is a function of the key and the voxel's place."""
        add_noise(view, int(values["key"]), np.float32(values["sd"]))
        return look


class RicianNoise(Step):
    """Noise of a magnitude image: Gaussian noise in both parts of the complex signal, standard deviation 0 .. max_sd.

    Gudbjartsson and Patz 1995, eq. 1. Dark regions become brighter, as in MR scans with little signal.
    """

    effects: ClassVar[tuple[str, ...]] = ("noise", "rician_bias")
    name: Literal["rician_noise"] = "rician_noise"
    max_sd: float = Field(default=0.2, ge=0)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`sd` and the keys of both parts' streams."""
        real, imaginary = rng.integers(0, _KEYS, 2)
        return {"sd": float(rng.uniform(0, self.max_sd)), "key": float(real), "key_imaginary": float(imaginary)}

    def apply(self, view: np.ndarray, values: dict[str, float], look: Look) -> Look:
        """Signal is what lies above the background; as MONAI's RandRicianNoise does with the same numbers."""
        add_noise(view, int(values["key"]), np.float32(values["sd"]))
        imaginary = np.zeros_like(view)
        add_noise(imaginary, int(values["key_imaginary"]), np.float32(values["sd"]))
        filters.magnitude(view, imaginary, np.float32(look.background))
        return look


class DoseNoise(Step):
    """Noise of photon counts: its variance grows with the signal, as a shorter or weaker exposure has it (Poisson-like).

    max_sd: largest standard deviation where the signal is one stored unit above the background.
    """

    effects: ClassVar[tuple[str, ...]] = ("noise", "count_noise")
    name: Literal["dose_noise"] = "dose_noise"
    max_sd: float = Field(ge=0)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`sd` at a signal of one, and the `key` of the noise's own stream."""
        return {"sd": float(rng.uniform(0, self.max_sd)), "key": float(rng.integers(0, _KEYS))}

    def apply(self, view: np.ndarray, values: dict[str, float], look: Look) -> Look:
        """view + sd * sqrt(signal) * normal number: the Gaussian that a Poisson count tends to."""
        normal = np.zeros_like(view)
        add_noise(normal, int(values["key"]), np.float32(values["sd"]))
        filters.add_scaled_by_root(view, normal, np.float32(look.background))
        return look


class Speckle(Step):
    """Multiplicative noise of a coherent wave: the signal times 1 + sd * normal number, sd uniform in 0 .. max_sd."""

    effects: ClassVar[tuple[str, ...]] = ("speckle",)
    name: Literal["speckle"] = "speckle"
    max_sd: float = Field(default=0.15, ge=0)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`sd` and the `key` of the speckle's own stream."""
        return {"sd": float(rng.uniform(0, self.max_sd)), "key": float(rng.integers(0, _KEYS))}

    def apply(self, view: np.ndarray, values: dict[str, float], look: Look) -> Look:
        """Signal is what lies above the background; as skimage.util.random_noise(mode="speckle") does."""
        factor = np.ones_like(view)
        add_noise(factor, int(values["key"]), np.float32(values["sd"]))
        filters.multiply(view, factor, np.float32(look.background))
        return look

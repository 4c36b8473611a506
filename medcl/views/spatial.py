"""Rotation, size, bending and flips: what moves anatomy before it is sampled, all of it in one pass."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from medcl.foundation.randomness import generator
from medcl.views.step import Step


class Rotation(Step):
    """Turn about a random axis (pictures: in the plane) by an angle of at most `max_deg`, drawn uniformly."""

    effects: ClassVar[tuple[str, ...]] = ("rotation",)
    stage = "spatial"
    name: Literal["rotation"] = "rotation"
    max_deg: float = Field(default=15.0, ge=0, le=180)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`deg` and the axis `x y z` (a unit vector)."""
        deg = float(rng.uniform(-self.max_deg, self.max_deg))
        axis = np.array([0.0, 0.0, 1.0]) if flat else rng.standard_normal(3)
        axis = axis / max(float(np.linalg.norm(axis)), 1e-9)
        return {"deg": deg, "x": float(axis[0]), "y": float(axis[1]), "z": float(axis[2])}

    def turn(self, values: dict[str, float]) -> np.ndarray:
        """Rodrigues' formula."""
        angle = np.deg2rad(values["deg"])
        x, y, z = values["x"], values["y"], values["z"]
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


class Scale(Step):
    """Show anatomy larger or smaller by a factor from `range`, log-uniform, the same along every axis in mm."""

    effects: ClassVar[tuple[str, ...]] = ("scale",)
    stage = "spatial"
    name: Literal["scale"] = "scale"
    range: tuple[float, float] = (0.8, 1.25)

    @model_validator(mode="after")
    def _ordered(self) -> Scale:
        if not 0 < self.range[0] <= self.range[1]:
            raise ValueError("range: expected 0 < least <= most")
        return self

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`factor`: above 1 the view covers more mm, so that anatomy looks smaller."""
        low, high = np.log(self.range)
        return {"factor": float(np.exp(rng.uniform(low, high)))}

    def turn(self, values: dict[str, float]) -> np.ndarray:
        """An isotropic scale."""
        return np.eye(3) * values["factor"]


class Elastic(Step):
    """Bend anatomy smoothly: a cubic B-spline over `num_points` control points along each axis of the view.

    max_displacement_mm: no point of the view moves farther. Rueckert et al. 1999; as TorchIO's ElasticDeformation does
    with the same control points.
    """

    effects: ClassVar[tuple[str, ...]] = ("elastic",)
    stage = "spatial"
    name: Literal["elastic"] = "elastic"
    max_displacement_mm: float = Field(default=3.0, ge=0)
    num_points: int = Field(default=7, ge=4, le=12)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`mm`: the largest displacement, and the `key` from which the control points follow."""
        return {"mm": float(rng.uniform(0, self.max_displacement_mm)), "key": float(rng.integers(0, 2**52))}

    def turn(self, values: dict[str, float]) -> np.ndarray:
        """It does not turn."""
        return np.eye(3)

    def bend(self, values: dict[str, float], extent: np.ndarray, flat: bool) -> np.ndarray:
        """(points x, y, z, 3) displacements in mm at the control points, for a view of the given extent (3,) in mm."""
        axes = 2 if flat else 3
        grid = (self.num_points,) * axes + (1,) * (3 - axes)
        # Below 0.4 of the distance between control points nothing can fold (Choi and Lee 2000).
        unfolded = 0.4 * extent[:axes] / (self.num_points - 3)
        most = np.zeros(3)
        most[:axes] = np.minimum(values["mm"] / np.sqrt(axes), unfolded)
        return generator(int(values["key"]), "elastic").uniform(-1, 1, (*grid, 3)) * most


class FlipLeftRight(Step):
    """Exchange left and right (the first axis)."""

    effects: ClassVar[tuple[str, ...]] = ("flip_left_right",)
    stage = "spatial"
    name: Literal["flip_left_right"] = "flip_left_right"
    probability: float = Field(default=0.5, ge=0, le=1)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`axis` of the array that is mirrored."""
        return {"axis": 0.0}

    def turn(self, values: dict[str, float]) -> np.ndarray:
        """A mirror."""
        return _mirror(values)


class FlipFrontBack(Step):
    """Exchange front and back (the second axis of a volume)."""

    effects: ClassVar[tuple[str, ...]] = ("flip_front_back",)
    stage = "spatial"
    name: Literal["flip_front_back"] = "flip_front_back"
    probability: float = Field(default=0.5, ge=0, le=1)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`axis` of the array that is mirrored."""
        return {"axis": 1.0}

    def turn(self, values: dict[str, float]) -> np.ndarray:
        """A mirror."""
        return _mirror(values)


class FlipUpDown(Step):
    """Exchange head and feet (the third axis of a volume), or a picture's top and bottom (its second axis)."""

    effects: ClassVar[tuple[str, ...]] = ("flip_up_down",)
    stage = "spatial"
    name: Literal["flip_up_down"] = "flip_up_down"
    probability: float = Field(default=0.5, ge=0, le=1)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`axis` of the array that is mirrored."""
        return {"axis": 1.0 if flat else 2.0}

    def turn(self, values: dict[str, float]) -> np.ndarray:
        """A mirror."""
        return _mirror(values)


def _mirror(values: dict[str, float]) -> np.ndarray:
    signs = np.ones(3)
    signs[int(values["axis"])] = -1
    return np.diag(signs)

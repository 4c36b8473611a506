"""Steps that change values and leave geometry alone: shift, scale, window, curve, contrast, blur, field, resolution, cutout.

They work in stored units (Hounsfield units for CT), in place, on one view (x, y, z) float32 or on a batch of views on a device.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from medcl.views.step import Look, Pixels, Step, Values


def _check_range(low: float, high: float) -> None:
    if not 0 < low <= high:
        raise ValueError("range: expected 0 < least <= most")


class IntensityShift(Step):
    """Add one value, uniform in -max_shift .. max_shift, in stored units (HU, standard deviations, display range 1)."""

    effects: ClassVar[tuple[str, ...]] = ("intensity_shift",)
    batched = True
    name: Literal["intensity_shift"] = "intensity_shift"
    max_shift: float = Field(ge=0)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`shift` in stored units."""
        return {"shift": float(rng.uniform(-self.max_shift, self.max_shift))}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """view + shift."""
        look.passes.scale_shift(view, 1.0, values["shift"])
        return look


class IntensityScale(Step):
    """Multiply by a factor from `range`: Hounsfield units around water (0 HU), other units around nothing."""

    effects: ClassVar[tuple[str, ...]] = ("intensity_scale",)
    batched = True
    name: Literal["intensity_scale"] = "intensity_scale"
    range: tuple[float, float]

    @model_validator(mode="after")
    def _ordered(self) -> IntensityScale:
        _check_range(*self.range)
        return self

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`factor`."""
        return {"factor": float(rng.uniform(*self.range))}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """The fixed point is 0 HU where air is far below it, else the background."""
        factor = values["factor"]
        fixed = np.where(np.less(look.background, -500), 0.0, look.background)
        look.passes.scale_shift(view, factor, fixed * (1 - factor))
        return look


class WindowJitter(Step):
    """Move the lower and the upper end of the network's window, each by at most `max_shift` stored units."""

    effects: ClassVar[tuple[str, ...]] = ("window_jitter",)
    batched = True
    name: Literal["window_jitter"] = "window_jitter"
    max_shift: float = Field(ge=0)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`low` and `high`: by how much each end moves."""
        low, high = rng.uniform(-self.max_shift, self.max_shift, 2)
        return {"low": float(low), "high": float(high)}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """Voxels keep their values; only what the network sees of them changes."""
        scale, shift = look.network
        low, high = look.limits[0] + values["low"], look.limits[1] + values["high"]
        bottom, top = look.limits[0] * scale + shift, look.limits[1] * scale + shift
        new = (top - bottom) / np.maximum(high - low, 1e-6)
        return replace(look, network=(new, bottom - low * new), limits=(low, high))


class Gamma(Step):
    """Bend the curve between the view's own smallest and largest value by an exponent from `range`, log-uniform."""

    effects: ClassVar[tuple[str, ...]] = ("gamma",)
    batched = True
    name: Literal["gamma"] = "gamma"
    range: tuple[float, float]

    @model_validator(mode="after")
    def _ordered(self) -> Gamma:
        _check_range(*self.range)
        return self

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`exponent`."""
        low, high = np.log(self.range)
        return {"exponent": float(np.exp(rng.uniform(low, high)))}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """As MONAI's AdjustContrast and batchgenerators' gamma do, without inversion."""
        look.passes.gamma(view, values["exponent"])
        return look


class HistogramShift(Step):
    """Bend the curve between the view's own smallest and largest value at evenly spaced points, monotonically.

    max_shift: of each inner point, as a share of the distance between two; below a half none can pass the next.
    """

    effects: ClassVar[tuple[str, ...]] = ("histogram_shift",)
    batched = True
    name: Literal["histogram_shift"] = "histogram_shift"
    max_shift: float = Field(default=0.3, ge=0, lt=0.5)
    num_points: int = Field(default=8, ge=3, le=20)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`p<i>`: where point i of the curve goes, from 0 (the smallest value) to 1 (the largest)."""
        last = self.num_points - 1
        moved = rng.uniform(-self.max_shift, self.max_shift, last - 1)
        inner = {f"p{i + 1}": float((i + 1 + shift) / last) for i, shift in enumerate(moved)}
        return {"p0": 0.0, **inner, f"p{last}": 1.0}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """As MONAI's RandHistogramShift does with the same points."""
        look.passes.bend_curve(view, np.stack([values[f"p{i}"] for i in range(len(values))], -1))
        return look


class Contrast(Step):
    """Stretch values around the view's mean by a factor from `range`."""

    effects: ClassVar[tuple[str, ...]] = ("contrast",)
    batched = True
    name: Literal["contrast"] = "contrast"
    range: tuple[float, float]

    @model_validator(mode="after")
    def _ordered(self) -> Contrast:
        _check_range(*self.range)
        return self

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`factor`."""
        return {"factor": float(rng.uniform(*self.range))}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """mean + (view - mean) * factor."""
        look.passes.stretch(view, values["factor"])
        return look


class Blur(Step):
    """Gaussian blur with a standard deviation uniform in 0 .. max_sigma, the same along every axis.

    max_sigma_mm for volumes; max_sigma_px, in the view's pixels, for pictures, whose spacing is often unknown. The other one is
    refused: the bound of a modality is in its own unit.
    """

    effects: ClassVar[tuple[str, ...]] = ("blur",)
    batched = True
    name: Literal["blur"] = "blur"
    max_sigma_mm: float | None = Field(default=None, ge=0)
    max_sigma_px: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one(self) -> Blur:
        if (self.max_sigma_mm is None) == (self.max_sigma_px is None):
            raise ValueError("expected either max_sigma_mm or max_sigma_px")
        return self

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`sigma_mm` or `sigma_px`."""
        if self.max_sigma_mm is not None:
            return {"sigma_mm": float(rng.uniform(0, self.max_sigma_mm))}
        return {"sigma_px": float(rng.uniform(0, self.max_sigma_px or 0))}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """Taps reach four standard deviations, edges are repeated, as scipy.ndimage.gaussian_filter(mode='nearest')."""
        look.passes.blur(
            view, [values["sigma_px"] if "sigma_px" in values else values["sigma_mm"] / spacing for spacing in look.spacing_mm]
        )
        return look


class BiasField(Step):
    """Multiply by exp(polynomial) over the view: the uneven sensitivity of a coil (Van Leemput et al. 1999, eq. 3).

    Coefficients up to `order` are uniform in -max_coefficient .. max_coefficient, as in TorchIO's RandomBiasField.
    """

    effects: ClassVar[tuple[str, ...]] = ("bias_field",)
    batched = True
    name: Literal["bias_field"] = "bias_field"
    max_coefficient: float = Field(default=0.3, ge=0)
    order: int = Field(default=3, ge=1, le=4)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """One coefficient per power `c<a><b><c>` of x, y, z whose sum is between 1 and the order."""
        powers = [(a, b, c) for a in range(self.order + 1) for b in range(self.order + 1 - a) for c in range(self.order + 1 - a - b)]
        drawn = rng.uniform(-self.max_coefficient, self.max_coefficient, len(powers))
        return {f"c{a}{b}{c}": float(value) for (a, b, c), value in zip(powers, drawn, strict=True) if a + b + c > 0 and not (flat and c)}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """Signal is what lies above the background; it is the signal that is multiplied."""
        coefficients = np.zeros((*np.shape(look.background), *(self.order + 1,) * 3))
        for name, value in values.items():
            coefficients[..., int(name[1]), int(name[2]), int(name[3])] = value
        look.passes.multiply_field(view, coefficients, look.background)
        return look


class Cutout(Step):
    """Hide one box of the view: every side a random share of the view's, the volume together at most `max_share` of it."""

    effects: ClassVar[tuple[str, ...]] = ("cutout",)
    batched = True
    name: Literal["cutout"] = "cutout"
    max_share: float = Field(default=0.05, ge=0, le=0.5)

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`share` of the view's volume, and the box along each axis, `x0 x1 y0 y1 z0 z1`, from 0 to 1."""
        axes = 2 if flat else 3
        share = float(rng.uniform(0, self.max_share))
        # Sides up to twice as long as wide, their product the share.
        sides = np.minimum(1, share ** (1 / axes) * 2.0 ** _centred(rng, axes))
        starts = rng.random(axes) * (1 - sides)
        box = {f"{axis}0": float(start) for axis, start in zip("xyz", starts, strict=False)}
        box |= {f"{axis}1": float(start + side) for axis, start, side in zip("xyz", starts, sides, strict=False)}
        return {"share": share, **box}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """Hidden voxels get the background's value."""
        look.passes.fill_box(view, hidden_box(values, view.shape[-3:]), look.background)
        return look


def hidden_box(values: Values, size: tuple[int, ...]) -> list[tuple[Any, Any]]:
    """What a cutout's values hide of a view of that many voxels: along each axis, the first voxel and the one after the last."""
    return [(np.rint(values.get(f"{axis}0", 0) * n), np.rint(values.get(f"{axis}1", 1) * n)) for axis, n in zip("xyz", size, strict=True)]


def _centred(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random numbers whose sum is 0: exponents that make a box longer along one axis and shorter along another."""
    drawn = rng.uniform(-0.5, 0.5, count)
    return drawn - drawn.mean()


class LowResolution(Step):
    """Lose resolution by a factor up to `max_factor`: averaged to coarse voxels, then interpolated back.

    axis: `all`, or `one` for a single random axis (thick slices).
    """

    effects: ClassVar[tuple[str, ...]] = ("low_resolution",)
    batched = True
    name: Literal["low_resolution"] = "low_resolution"
    max_factor: float = Field(default=2.0, ge=1)
    axis: Literal["all", "one"] = "all"

    def draw(self, rng: np.random.Generator, flat: bool) -> dict[str, float]:
        """`x`, `y`, `z`: the factor along each axis."""
        factor = float(rng.uniform(1, self.max_factor))
        chosen = int(rng.integers(0, 2 if flat else 3))
        coarse = [self.axis == "all" or axis == chosen for axis in range(3)]
        x, y, z = (factor if is_coarse and not (flat and axis == 2) else 1.0 for axis, is_coarse in enumerate(coarse))
        return {"x": x, "y": y, "z": z}

    def apply(self, view: Pixels, values: Values, look: Look) -> Look:
        """One banded matrix per axis: area-weighted triangle down, linear up."""
        look.passes.lower_resolution(view, [values["x"], values["y"], values["z"]])
        return look

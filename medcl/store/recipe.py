"""What a modality's volumes become in the store: orientation, spacing, intensity, and the scale a network sees."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from medcl.foundation.config import Settings, load
from medcl.foundation.errors import UserError
from medcl.foundation.types import Kind, Units


class WindowIntensity(Settings):
    """Physical values (Hounsfield units, say) are stored as they are; the network sees a window of them as [-1, 1].

    low, high: the network's window. stored_low, stored_high: what the store keeps, wider than any window to come.
    """

    name: Literal["window"] = "window"
    low: float = -1000.0
    high: float = 1000.0
    stored_low: float = -1024.0
    stored_high: float = 3071.0

    @model_validator(mode="after")
    def _ordered(self) -> WindowIntensity:
        if not -math.inf < self.stored_low <= self.low < self.high <= self.stored_high < math.inf:
            raise ValueError("expected stored_low <= low < high <= stored_high, all of them finite")
        return self


class ZScoreIntensity(Settings):
    """Arbitrary units become standard deviations from the mean of the body.

    Mean and deviation are those of the body's voxels between the two percentiles. clip: stored from -clip to +clip.
    """

    name: Literal["zscore"] = "zscore"
    clip: float = Field(default=5.0, gt=0, le=15)
    low_percentile: float = Field(default=0.5, ge=0, lt=50)
    high_percentile: float = Field(default=99.5, gt=50, le=100)


class DisplayIntensity(Settings):
    """Display values of a picture become [0, 1] between two percentiles."""

    name: Literal["display"] = "display"
    low_percentile: float = Field(default=0.2, ge=0, lt=50)
    high_percentile: float = Field(default=99.8, gt=50, le=100)


class BinaryIntensity(Settings):
    """A mask of one shape: 0 or 1; every value above half of the volume's largest is 1."""

    name: Literal["binary"] = "binary"


Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
IntensityConfig = Annotated[WindowIntensity | ZScoreIntensity | DisplayIntensity | BinaryIntensity, Field(discriminator="name")]


class Recipe(Settings):
    """How a volume is prepared, once, for the store and in the same way for every scan embedded later.

    modalities, kind, units: what is accepted; anything else is refused, not converted.
    orientation: of the stored array axes (volumes; pictures stay as they are). RAS and nothing else: views and sheets count on it.
    spacing_mm: of the stored grid; None keeps the scan's own. Volumes only.
    keep_coarse: an axis coarser than `spacing_mm` keeps its own spacing (5 mm slices are not blown up to 1.5 mm).
    body_crop: cut air around the body away, leaving `body_margin_mm`.
    picture_side: longest side of a picture in pixels; larger pictures are made smaller, smaller ones are kept.
    plausible: some voxel must lie below the first and some above the second, else the units are not what they claim.
    """

    name: str
    modalities: tuple[str, ...]
    kind: Kind
    units: tuple[Units, ...]
    orientation: str = "RAS"
    spacing_mm: tuple[Length, Length, Length] | None = None
    keep_coarse: bool = True
    intensity: IntensityConfig
    body_crop: bool = False
    body_margin_mm: float = Field(default=10.0, ge=0)
    picture_side: int | None = Field(default=None, ge=8)
    plausible: tuple[float, float] | None = None

    @field_validator("orientation")
    @classmethod
    def _shown_right(cls, orientation: str) -> str:
        if orientation != "RAS":
            raise ValueError("expected RAS: flips, crops, audits and contact sheets name the sides by it; leave the setting out")
        return orientation

    @property
    def stored_units(self) -> Units:
        """Units of the values in the store."""
        fixed: dict[str, Units] = {"zscore": "arbitrary", "display": "display", "binary": "arbitrary"}
        return fixed.get(self.intensity.name, self.units[0])

    @property
    def network_range(self) -> tuple[float, float]:
        """Smallest and largest value that a network sees; views are clipped to it."""
        if isinstance(self.intensity, ZScoreIntensity):
            return -self.intensity.clip, self.intensity.clip
        return -1.0, 1.0

    def network_scale(self) -> tuple[float, float]:
        """(scale, shift): network value = stored value * scale + shift."""
        if isinstance(self.intensity, ZScoreIntensity):
            return 1.0, 0.0
        low, high = (self.intensity.low, self.intensity.high) if isinstance(self.intensity, WindowIntensity) else (0.0, 1.0)
        scale = 2.0 / (high - low)
        return scale, -1.0 - low * scale

    def storage(self) -> tuple[str, float, float]:
        """(dtype, slope, intercept) of the stored integers: stored value = integer * slope + intercept.

        Hounsfield units are kept to 1 HU, standard deviations to 1/2048, display values to 1/32767, other units to the smallest
        power of two by which integers reach all of `stored_low` to `stored_high`: 1/256 for uptake from 0 to 100. Zero, where it
        lies between them, stays zero: float32 is finest there.
        """
        if isinstance(self.intensity, BinaryIntensity):
            return "uint8", 1.0, 0.0
        if isinstance(self.intensity, DisplayIntensity):
            return "int16", 1.0 / 32767, 0.0
        if isinstance(self.intensity, ZScoreIntensity):
            return "int16", 1.0 / 2048, 0.0
        low, high = self.intensity.stored_low, self.intensity.stored_high
        if self.stored_units == "HU" and low >= -(2**15) and high < 2**15:
            return "int16", 1.0, 0.0
        middle = 0.0 if low <= 0 <= high else (low + high) / 2
        return "int16", 2.0 ** math.ceil(math.log2(max(high - middle, middle - low) / 32767)), middle


_CT = Recipe(
    name="ct",
    modalities=("ct",),
    kind="volume",
    units=("HU",),
    spacing_mm=(1.5, 1.5, 1.5),
    intensity=WindowIntensity(),
    body_crop=True,
    plausible=(-200.0, 20.0),
)
_MR = Recipe(name="mr", modalities=("mr",), kind="volume", units=("arbitrary",), spacing_mm=(1.0, 1.0, 1.0), intensity=ZScoreIntensity())
_XRAY = Recipe(
    name="xray",
    modalities=("xray",),
    kind="picture",
    units=("display", "arbitrary"),
    intensity=DisplayIntensity(),
    picture_side=256,
)
_PET = Recipe(
    name="pet",
    modalities=("pet",),
    kind="volume",
    units=("SUV",),
    spacing_mm=(3.0, 3.0, 3.0),
    intensity=WindowIntensity(low=0.0, high=10.0, stored_low=0.0, stored_high=100.0),
    plausible=(0.5, 1.0),
)
_MAMMOGRAPHY = Recipe(
    name="mammography",
    modalities=("mammography",),
    kind="picture",
    units=("display", "arbitrary"),
    intensity=DisplayIntensity(),
    body_crop=True,
    picture_side=1024,
)
_ULTRASOUND = Recipe(
    name="ultrasound",
    modalities=("ultrasound",),
    kind="picture",
    units=("display", "arbitrary"),
    intensity=DisplayIntensity(),
    picture_side=256,
)
_SHAPE = Recipe(name="shape", modalities=("shape",), kind="volume", units=("arbitrary", "display"), intensity=BinaryIntensity())

BUILT_IN: dict[str, Recipe] = {recipe.name: recipe for recipe in (_CT, _MR, _PET, _XRAY, _MAMMOGRAPHY, _ULTRASOUND, _SHAPE)}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A built-in recipe by name, or one read from a YAML file (`base:` may name another file).

    Raises UserError for a name that is neither.
    """
    name = str(name_or_path)
    if name in BUILT_IN:
        return BUILT_IN[name]
    if not Path(name).is_file():
        raise UserError(f"recipe '{name}': neither a built-in recipe ({', '.join(BUILT_IN)}) nor a file")
    return load(Recipe, name)


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of the recipe's settings."""
    return hashlib.sha256(json.dumps(recipe.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

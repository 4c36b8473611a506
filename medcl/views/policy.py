"""A policy: which steps make the views of a modality, checked for safety before anything is drawn."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, field_validator, model_validator

from medcl.foundation.config import Settings, load, union_of
from medcl.foundation.errors import UserError
from medcl.views.acquisition import Ghosting, Gibbs, Motion, Spike
from medcl.views.crops import Crop
from medcl.views.intensity import (
    BiasField,
    Blur,
    Contrast,
    Cutout,
    Gamma,
    HistogramShift,
    IntensityScale,
    IntensityShift,
    LowResolution,
    WindowJitter,
)
from medcl.views.noise import DoseNoise, Noise, RicianNoise, Speckle
from medcl.views.spatial import Elastic, FlipFrontBack, FlipLeftRight, FlipUpDown, Rotation, Scale
from medcl.views.step import Step
from medcl.views.strength import Strength, at_strength
from medcl.views.ultrasound import Gain, Shadow

_STEPS = union_of(
    "medcl.augmentations",
    Crop,
    Rotation,
    Scale,
    Elastic,
    FlipLeftRight,
    FlipFrontBack,
    FlipUpDown,
    IntensityShift,
    IntensityScale,
    WindowJitter,
    Gamma,
    HistogramShift,
    Contrast,
    Noise,
    RicianNoise,
    DoseNoise,
    Blur,
    BiasField,
    LowResolution,
    Cutout,
    Motion,
    Ghosting,
    Spike,
    Gibbs,
    Speckle,
    Gain,
    Shadow,
)

if TYPE_CHECKING:
    StepConfig = Step
else:
    StepConfig = _STEPS


_Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AuditBounds(Settings):
    """What `medcl preview` may find on the user's own data before it fails; None: reported, not judged.

    max_drift, max_drift_share: how far a step chain may move a tissue's mean, in stored units plus a share of the
    tissue's own value (blur, resolution and artefacts move values between neighbours and are not counted).
    max_empty_share: of views that show next to nothing. max_volume_change: physical volume of a view over the
    policy's, or the inverse. max_swapped_share: of views mirrored along any axis. min_field_share: of the
    field's length that a view covers, mean over the axes. min_mask_survival: share of marked masks of which both
    views of a pair keep half.
    """

    max_drift: float | None = Field(default=None, ge=0)
    max_drift_share: float = Field(default=0.0, ge=0)
    max_empty_share: float | None = Field(default=0.1, ge=0, le=1)
    max_volume_change: float | None = Field(default=2.0, ge=1)
    max_swapped_share: float | None = Field(default=0.0, ge=0, le=1)
    min_field_share: float | None = Field(default=None, ge=0, le=1)
    min_mask_survival: float | None = Field(default=None, ge=0, le=1)


class Policy(Settings):
    """Ordered steps for one modality.

    extent_mm: what an unscaled view covers; None is the view's size times the recipe's spacing (times the scan's own
    where the recipe keeps it). steps: spatial ones make the matrix, the others are applied in their order.
    """

    name: str
    modality: str
    extent_mm: tuple[_Length, _Length, _Length] | None = None
    steps: tuple[StepConfig, ...]
    audit: AuditBounds = AuditBounds()

    @field_validator("steps")
    @classmethod
    def _one_crop(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        names = [step.name for step in steps]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"each step may stand once; twice: {', '.join(twice)}")
        if not names or names[0] != "crop":
            raise ValueError("the first step must be crop")
        return steps


class LocalViewsConfig(Settings):
    """Small views of each scan beside its pair, for methods that compare them with it (SwAV's multi-crop).

    count: of them. size: their voxel grid, at the spacing of the pair, so that in volumes they show that much less. keep: in
    pictures, share of the field's area that they show, at least and at most. They overlap the first view as the second one does.
    """

    count: int = Field(default=4, ge=1)
    size: tuple[int, int, int] | tuple[int, int]
    keep: tuple[float, float] = (0.1, 0.4)

    @model_validator(mode="after")
    def _ordered(self) -> LocalViewsConfig:
        if not 0 < self.keep[0] <= self.keep[1] <= 1:
            raise ValueError("keep: expected two shares, 0 < least <= most <= 1")
        return self

    def reach(self, size: tuple[int, ...], change: float) -> float:
        """Least overlap with a view of `size` that one of these has where both lie at one place and are turned alike.

        change: by how much, at most, steps show one of the two larger than the other. Boxes differ most where their volumes are
        equal: smaller or larger, one of them lies the more inside the other.
        """
        pair, own = np.array(size, float), np.array(self.size, float)
        equal = (pair.prod() / own.prod()) ** (1 / len(size))
        own *= np.clip(equal, 1 / change, change)
        return float(np.minimum(pair, own).prod() / min(pair.prod(), own.prod()))

    def check_reach(self, size: tuple[int, ...], change: float, least: float) -> None:
        """Raises UserError where that is less than `least`, the overlap that is configured."""
        reach = self.reach(size, change)
        if reach < least - 1e-9:
            raise UserError(
                f"views.local.size {list(self.size)}: such views share as little as {reach:.2f} with one of size {list(size)}, and "
                f"views.overlap is {least:g}; take a size nearer to its shape, or lower views.overlap"
            )


class ViewsConfig(Settings):
    """The `views` of a pretraining.

    policy: a built-in name or a YAML file. size: the voxel grid that the encoder receives, (x, y, z) for volumes and
    (rows, columns) for pictures. overlap: least volume that the crops of a pair share, over the smaller one's.
    strength: how far and how often the policy's steps act (see strength.py), within the bounds of the modality.
    allow: step -> the reason why it is used although it is unsafe for the modality. local: small views beside the pair, for methods
    that use them; left out of what is written down where there are none.
    """

    policy: str
    size: tuple[int, int, int] | tuple[int, int]
    overlap: float = Field(default=0.5, ge=0, le=1)
    strength: Strength = "default"
    allow: dict[str, str] = Field(default_factory=dict)
    local: LocalViewsConfig | None = Field(default=None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _sizes(self) -> ViewsConfig:
        if min(self.size) < 8:
            raise ValueError("size: expected at least 8 along every axis")
        local = self.local.size if self.local else self.size
        if len(local) != len(self.size) or min(local) < 8 or any(own > most for own, most in zip(local, self.size, strict=True)):
            raise ValueError(f"local.size: expected {len(self.size)} numbers, each at least 8 and none above that of size")
        return self

    @property
    def num_local(self) -> int:
        """Of local views beside the pair; 0 where there are none."""
        return self.local.count if self.local else 0

    def local_of(self, view: int) -> LocalViewsConfig | None:
        """`local` for views beyond the pair, None for the pair itself."""
        return self.local if view >= 2 else None

    def size_of(self, view: int) -> tuple[int, ...]:
        """The grid of the view of this number, as `size` gives it."""
        local = self.local_of(view)
        return local.size if local else self.size


def built_in_policies() -> list[str]:
    """Names of the policies that come with medcl."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load_policy(name_or_path: str | Path, strength: Strength = "default") -> Policy:
    """A built-in policy by name, or one read from a YAML file (`base:` may name another file), at the given strength.

    Raises UserError for a name that is neither, or settings that are wrong.
    """
    policy = _read(str(name_or_path))
    if strength == "default":
        return policy
    steps = at_strength(policy.steps, policy.modality, strength)
    return policy.model_copy(update={"name": f"{policy.name}, {strength}", "steps": steps})


def _read(name: str) -> Policy:
    if name in built_in_policies():
        with resources.as_file(_folder() / f"{name}.yaml") as path:
            return load(Policy, path)
    if not Path(name).is_file():
        known = ", ".join(built_in_policies())
        raise UserError(f"views.policy '{name}': neither a built-in policy ({known}) nor a file, seen from {Path.cwd()}")
    return load(Policy, name)


def _folder():
    return resources.files("medcl.views") / "policies"

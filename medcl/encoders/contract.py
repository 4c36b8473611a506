"""What every image encoder promises: a picture or volume in, `Features` out, nothing to hook into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medcl.foundation.randomness import generator
from medcl.foundation.types import Features


@dataclass(frozen=True)
class MonaiForm:
    """The encoder as MONAI alone would build it, tensor names and all: `target(**arguments)`, then what is done to it.

    target: dotted name of MONAI's class; arguments: JSON only. norm: what every BatchNorm left in it is replaced by,
    {"name": "group", "groups": n} or {"name": "instance"}; None where MONAI puts the right one. drop: a classifier's last layer,
    taken out. output: what the class returns: the `embedding`, a tuple that begins with (batch, token, dim) `tokens`, or a list of
    `maps` (batch, channel, *space), the last of which counts.
    """

    target: str
    arguments: dict[str, Any]
    output: Literal["embedding", "tokens", "maps"] = "embedding"
    norm: dict[str, Any] | None = None
    drop: str | None = None


class Encoder(nn.Module):
    """Base of image encoders.

    dim: length of `Features.pooled`. channels: channels of each map in `Features.dense`, fine to coarse.
    spatial_dims: 2 or 3. stride: input voxels per voxel of the coarsest map. any_size: whether inputs of any other
    size than in training are welcome; where not, `multiple` of voxels per side still are (0: only its own size is).
    monai: what MONAI would build, or None. stages_in: the child that holds the stages, where they are no children of the
    encoder itself. A row of the output depends on that row of the input only.
    """

    dim: int
    channels: tuple[int, ...]
    spatial_dims: int
    stride: int
    any_size: bool
    multiple: int = 0
    monai: MonaiForm | None = None
    stages_in: str | None = None

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> Features:
        """Encode images (batch, channel, *space); see `Features` for the shapes that come out."""
        raise NotImplementedError


def build_seeded(config: Any, *arguments: Any, seed: int, purpose: str = "initial weights") -> Any:
    """`config.build(*arguments)` with initial weights that are a pure function of (seed, purpose).

    Torch's own random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, purpose).integers(0, 2**63 - 1)))
        return config.build(*arguments)


def leak_free(norm: str, width: int) -> tuple[str, dict[str, Any]]:
    """MONAI's words for a norm that looks at one item alone, for layers whose channels are all multiples of `width`.

    `group` (Wu & He 2018): width / 2 groups, 32 at most, a number that divides the width. `instance`: with scale and shift.
    """
    if norm == "instance":
        return "instance", {"affine": True}
    most = min(32, width // 2)
    return "group", {"num_groups": max(count for count in range(1, most + 1) if width % count == 0)}


def check_sides(image: Tensor, multiple: int) -> None:
    """Raise ValueError unless every side of (batch, channel, *space) is a multiple."""
    if any(side % multiple for side in image.shape[2:]):
        raise ValueError(f"sides {list(image.shape[2:])} are not all multiples of {multiple}")

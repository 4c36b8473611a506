"""The few objects that pass between floors.

Legend of shape letters, used in every annotation and docstring:
`x y z` voxel axes of a volume (a picture is x = columns, y = rows, z = 1); `batch` items of one step; `dim` embedding
length; `channel`; `*space` the spatial axes an encoder sees (3D: x y z; 2D: rows columns); `length` tokens of a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Units = Literal["HU", "SUV", "arbitrary", "display"]
Kind = Literal["volume", "picture"]


@dataclass(frozen=True)
class Volume:
    """One scan (or one picture) with what is needed to place it in the world.

    array: (x, y, z) real numbers in `units`; affine: 4x4, voxel index -> RAS+ mm (NIfTI convention). A picture has
    z = 1 and a diagonal affine of its pixel spacing (1 mm where unknown), x = columns, y = rows downwards.
    """

    array: np.ndarray
    affine: np.ndarray
    modality: str
    units: Units
    kind: Kind = "volume"

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


@dataclass(frozen=True)
class Text:
    """Tokenised texts. ids: (batch, length) int64, padded with 0; mask: (batch, length) bool, True on real tokens."""

    ids: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Batch:
    """What a method receives for one step on one process.

    views: one tensor per view, (batch, channel, *space) float32. item: (batch,) int64, the row in the store's index:
    equal numbers are the same scan. patient: (batch,) int64, equal numbers are the same patient. text: the paired
    report text, where a method asks for it. target: (batch, ...) labels, only in supervised methods. points: (batch, view, point, axes)
    places of the same tissue in each view, where a method asks for them; -1 and 1 are the edges of each axis of `*space`.
    """

    views: tuple[Tensor, ...]
    item: Tensor
    patient: Tensor
    text: Text | None = None
    target: Tensor | None = None
    points: Tensor | None = None

    def __len__(self) -> int:
        return int(self.item.shape[0])

    def to(self, device: torch.device, non_blocking: bool = True) -> Batch:
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def rows(self, start: int, stop: int) -> Batch:
        """Items start..stop of the batch."""
        return self._map(lambda tensor: tensor[start:stop])

    def _map(self, function: Any) -> Batch:
        text = None if self.text is None else Text(function(self.text.ids), function(self.text.mask))
        target, points = (None if tensor is None else function(tensor) for tensor in (self.target, self.points))
        views = tuple(function(view) for view in self.views)
        item, patient = function(self.item), function(self.patient)
        return Batch(views, item, patient, text, target, points)


@dataclass(frozen=True)
class Features:
    """What every encoder returns. pooled: (batch, dim); dense: feature maps (batch, channel, *space), fine to coarse."""

    pooled: Tensor
    dense: tuple[Tensor, ...]


@dataclass(frozen=True)
class StepOutput:
    """What `Method.compare` returns.

    loss: scalar tensor with gradient. embeddings: (n, dim) detached, what the collapse watch looks at.
    scalars: what is logged, never what is optimised. carry: tensors for `after_step` (new keys of a queue, say).
    """

    loss: Tensor
    embeddings: Tensor
    scalars: Mapping[str, float | Tensor] = field(default_factory=dict)
    carry: tuple[Tensor, ...] = ()

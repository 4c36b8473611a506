"""vox2vec: the same tissue looks alike in both views, every other voxel different. Goncharov et al. 2023, https://arxiv.org/abs/2307.14725"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from medcl.encoders.contract import Encoder
from medcl.encoders.heads import ProjectionHead
from medcl.foundation.config import Settings
from medcl.foundation.types import Batch, StepOutput
from medcl.methods.method import Method
from medcl.methods.parts import unit
from medcl.monitoring.collapse import alignment
from medcl.objectives import Rows, nt_xent


class Vox2VecConfig(Settings):
    """Settings of vox2vec.

    num_points: voxels that are compared of each item, in the field that its two views share (the paper: 1,000 of each of 10 patches).
    temperature: of the NT-Xent loss. projection_dim: length of a voxel's z.
    """

    name: Literal["vox2vec"] = "vox2vec"
    num_points: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.1, gt=0)
    projection_dim: int = Field(default=128, ge=2)

    def build(self, encoder: Encoder) -> Vox2Vec:
        """The method around an encoder."""
        return Vox2Vec(self, encoder)


class Vox2Vec(Method):
    """A voxel's `h` is what all levels of the encoder say of it, `z = g(h)`; InfoNCE (the paper's eq. 1) over all voxels of the batch.

    The paper's levels are those of a feature pyramid that is trained along and kept; here they are the encoder's own `dense` maps, so
    that the encoder alone is what is learned and exported. Voxels of the same scan are negatives too, and of other scans of the
    patient: that is how an embedding learns where in the body it is. `pooled` is not in the loss: this is for segmentation and detection.
    """

    def __init__(self, config: Vox2VecConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.num_points = config.num_points
        self.backbone = encoder
        self.head = ProjectionHead(sum(encoder.channels), config.projection_dim)

    def encode(self, batch: Batch, progress: float) -> tuple[Tensor, ...]:
        """z of all points in the first and in the second view, each (batch, point * dim)."""
        if batch.points is None:
            raise ValueError("vox2vec needs Batch.points: places of the same tissue in both views")
        pairs = zip(batch.views, batch.points.unbind(1), strict=True)
        return tuple(self.head(levels_at(self.backbone(view).dense, points)).flatten(1) for view, points in pairs)

    def compare(self, embeddings: tuple[Tensor, ...], progress: float) -> StepOutput:
        """NT-Xent: each voxel's positive is the same tissue in the other view."""
        first, second = (unit(found.unflatten(1, (self.num_points, -1)).flatten(0, 1)) for found in embeddings)
        own = torch.arange(len(first), device=first.device).repeat(2)
        loss = nt_xent(Rows(torch.cat([first, second]), own, own), temperature=self.config.temperature)
        return StepOutput(loss, first.detach(), {"alignment": alignment(first, second)})


def levels_at(dense: tuple[Tensor, ...], points: Float[Tensor, "batch point axes"]) -> Float[Tensor, "batch point channels"]:
    """The maps of all levels (batch, channel, *space) at points, interpolated linearly, one after the other along the channels."""
    # grid_sample counts axes from the last one.
    grid = points.flip(-1).reshape(*points.shape[:2], *(1,) * (points.shape[-1] - 1), points.shape[-1])
    found = [F.grid_sample(level.float(), grid, padding_mode="border", align_corners=False).flatten(2) for level in dense]
    return torch.cat(found, dim=1).transpose(1, 2)

"""Alignment and uniformity (Wang & Isola 2020, https://arxiv.org/abs/2005.10242, equations 2 and 3) as a method."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medcl.encoders import Encoder
from medcl.foundation.config import Settings
from medcl.foundation.types import Batch, StepOutput
from medcl.methods import Method


class AlignUniformConfig(Settings):
    """weight: of the uniformity. t: sharpness of its Gaussian kernel (2 in the paper)."""

    name: Literal["align_uniform"] = "align_uniform"
    weight: float = Field(default=1.0, gt=0)
    t: float = Field(default=2.0, gt=0)

    def build(self, encoder: Encoder) -> AlignUniform:
        """The method around an encoder."""
        return AlignUniform(encoder, self)


class AlignUniform(Method):
    """Two views of an item come together, all items spread over the sphere."""

    num_views = 2

    def __init__(self, encoder: Encoder, config: AlignUniformConfig) -> None:
        super().__init__()
        self.backbone, self.config = encoder, config

    def encode(self, batch: Batch, progress: float) -> tuple[Tensor, ...]:
        """Both views on the unit sphere."""
        return tuple(F.normalize(self.backbone(view).pooled.float(), dim=1) for view in batch.views)

    def compare(self, embeddings: tuple[Tensor, ...], progress: float) -> StepOutput:
        """align = E |x - y|^2; uniform = log E exp(-t |x - x'|^2) over pairs of items, those of all processes."""
        first, second = embeddings
        align = (first - second).square().sum(1).mean()
        spread = [(-self.config.t * F.pdist(each).square()).exp().mean().log() for each in (first, second)]
        loss = align + self.config.weight * sum(spread) / 2
        return StepOutput(loss, first.detach(), {"align": align.detach()})

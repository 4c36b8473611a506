"""SimCLR: two views of an item agree, all other items of the batch disagree. Chen et al. 2020, https://arxiv.org/abs/2002.05709"""

from __future__ import annotations

from typing import Literal

import torch
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


class SimCLRConfig(Settings):
    """Settings of SimCLR. temperature: of the NT-Xent loss. projection_dim: length of z."""

    name: Literal["simclr"] = "simclr"
    temperature: float = Field(default=0.1, gt=0)
    projection_dim: int = Field(default=128, ge=2)

    def build(self, encoder: Encoder) -> SimCLR:
        """The method around an encoder."""
        return SimCLR(self, encoder)


class SimCLR(Method):
    """`h = f(x)`, `z = g(h)`, and NT-Xent (eq. 1) over the 2N views of N items."""

    least_items = 2  # the other one is the negative

    def __init__(self, config: SimCLRConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.backbone = encoder
        self.head = ProjectionHead(encoder.dim, config.projection_dim)

    def encode(self, batch: Batch, progress: float) -> tuple[Tensor, ...]:
        """z of the first and of the second view, the items and their patients."""
        first, second = (unit(self.head(self.backbone(view).pooled)) for view in batch.views)
        return first, second, batch.item, batch.patient

    def compare(self, embeddings: tuple[Tensor, ...], progress: float) -> StepOutput:
        """NT-Xent: each view's positive is the other view of its item."""
        first, second, item, patient = embeddings
        views = Rows(torch.cat([first, second]), item.repeat(2), patient.repeat(2))
        loss = nt_xent(views, temperature=self.config.temperature)
        return StepOutput(loss, first.detach(), {"alignment": alignment(first, second)})

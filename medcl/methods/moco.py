"""MoCo v2: a query agrees with its slow teacher's key, against a queue of keys. He et al. 2020, https://arxiv.org/abs/1911.05722, and Chen et al. 2020, https://arxiv.org/abs/2003.04297"""  # noqa: E501

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from medcl.encoders.contract import Encoder
from medcl.encoders.heads import ProjectionHead
from medcl.foundation.config import Settings
from medcl.foundation.types import Batch, StepOutput
from medcl.methods.method import Method
from medcl.methods.parts import KeyQueue, Teacher, standardised, unit
from medcl.monitoring.collapse import alignment
from medcl.objectives import Rows, info_nce


class MoCoConfig(Settings):
    """Settings of MoCo v2.

    queue_size: keys kept; smaller than the number of scans, or a scan meets old keys of itself (they are left out). momentum: of the
    teacher; 0.999 suits tens of thousands of steps, 0.99 a few thousand. projection_dim: length of queries and keys.
    """

    name: Literal["moco"] = "moco"
    temperature: float = Field(default=0.2, gt=0)
    queue_size: int = Field(default=4096, ge=1)
    momentum: float = Field(default=0.999, ge=0, lt=1)
    projection_dim: int = Field(default=128, ge=2)

    def build(self, encoder: Encoder) -> MoCo:
        """The method around an encoder."""
        return MoCo(self, encoder)


class MoCo(Method):
    """`q = g(f(x_1))`, `k = teacher(x_2)`, InfoNCE of q against k and the queue (eq. 1), teacher by momentum (eq. 2).

    Where the authors' code has BatchNorm in the network and shuffles items over the GPUs to hide its leak, the backbone
    here looks at one item alone, and queries and keys are standardised over the world batch before they are compared.
    Without that, untrained embeddings share one direction, the query drifts from its slow teacher and nothing is
    learned (reports/README.md has the runs). The batch's other keys are negatives too, as in MoCo v3 (Chen et al. 2021,
    https://arxiv.org/abs/2104.02057): they share the positive's statistics, so that these tell nothing, and the first
    steps have negatives while the queue is empty.
    """

    least_items = 3  # two rows, standardised, are 1 and -1 whatever they were

    def __init__(self, config: MoCoConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.backbone = encoder
        self.head = ProjectionHead(encoder.dim, config.projection_dim, bias=False)
        self.teacher = Teacher(self.backbone, self.head, config.momentum)
        self.queue = KeyQueue(config.queue_size, config.projection_dim)

    def encode(self, batch: Batch, progress: float) -> tuple[Tensor, ...]:
        """Projections of the first view, the teacher's of the second, the items' patients."""
        return self.head(self.backbone(batch.views[0]).pooled), self.teacher(batch.views[1]), batch.patient

    def compare(self, embeddings: tuple[Tensor, ...], progress: float) -> StepOutput:
        """InfoNCE: one positive, the own key; negatives are the batch's and the queue's keys of other patients."""
        projected, target, patient = embeddings
        query, key = unit(standardised(projected)), unit(standardised(target))
        own = torch.arange(len(query), device=query.device)
        keys, patients = self.queue.filled()
        loss = info_nce(Rows(query, own, patient), Rows(key, own, patient), Rows(keys, None, patients), temperature=self.config.temperature)
        scalars = {"alignment": alignment(query, key), "queue_filled": len(keys) / len(self.queue.keys)}
        return StepOutput(loss, query.detach(), scalars, carry=(key, patient))

    def after_step(self, output: StepOutput, progress: float) -> None:
        """The teacher follows, the keys enter the queue."""
        self.teacher.update(self.backbone, self.head)
        self.queue.push(*output.carry)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Student and teacher begin from the same weights."""
        super().start_from(weights)
        self.teacher.update(self.backbone, self.head, momentum=0.0)

"""SwAV: the code of one view is predicted from the others, also from small ones. Caron et al. 2020, https://arxiv.org/abs/2006.09882"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medcl.encoders.contract import Encoder
from medcl.encoders.heads import ProjectionHead
from medcl.foundation.config import Settings
from medcl.foundation.types import Batch, StepOutput
from medcl.methods.method import Method
from medcl.methods.parts import standardised, unit
from medcl.monitoring.collapse import alignment
from medcl.objectives import swapped_prediction


class SwAVConfig(Settings):
    """Settings of SwAV.

    num_prototypes: a world batch is spread over all of them alike, so take no more than a few times its size (the paper: 3,000 for
    batches of 4,096). temperature: of the predictions. sharpness: epsilon of the codes. projection_dim: length of z.
    """

    name: Literal["swav"] = "swav"
    num_prototypes: int = Field(default=128, ge=2)
    temperature: float = Field(default=0.1, gt=0)
    sharpness: float = Field(default=0.05, gt=0)
    projection_dim: int = Field(default=128, ge=2)

    def build(self, encoder: Encoder) -> SwAV:
        """The method around an encoder."""
        return SwAV(self, encoder)


class SwAV(Method):
    """`z = g(f(x))`, scores `C z`, and the swapped prediction (eq. 1 and 2) between the pair and from every local view (eq. 6).

    The codes are those of the world batch (section 3.1), so that no queue of earlier scans is kept. z is standardised over that batch
    before it is compared, as MoCo's is here and for the same reason: no BatchNorm does it inside the network.
    """

    uses_local = True
    least_items = 3  # two rows, standardised, are 1 and -1 whatever they were

    def __init__(self, config: SwAVConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.backbone = encoder
        self.head = ProjectionHead(encoder.dim, config.projection_dim, bias=False)
        self.prototypes = nn.Parameter(unit(torch.randn(config.num_prototypes, config.projection_dim)))

    def encode(self, batch: Batch, progress: float) -> tuple[Tensor, ...]:
        """Projections of the pair, then of the local views."""
        return tuple(self.head(self.backbone(view).pooled) for view in batch.views)

    def compare(self, embeddings: tuple[Tensor, ...], progress: float) -> StepOutput:
        """Codes of the pair, predicted from every other view."""
        views, prototypes = [unit(standardised(found)) for found in embeddings], unit(self.prototypes)
        loss = swapped_prediction(
            [view @ prototypes.T for view in views], temperature=self.config.temperature, sharpness=self.config.sharpness
        )
        return StepOutput(loss, views[0].detach(), {"alignment": alignment(views[0], views[1])})

"""What a pretraining method is: `encode`, each item alone, then `compare`, items with each other."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from medcl.encoders.contract import Encoder
from medcl.foundation.distributed import gather_all
from medcl.foundation.types import Batch, StepOutput


class Method(nn.Module):
    """Base of all methods; plain modules, usable in anyone's own loop.

    backbone: the network that is evaluated and exported. num_views: views of an item that `encode` expects. uses_text:
    whether it needs `Batch.text`. uses_local: whether it takes any number of local views after its own. num_points: how
    many `Batch.points` of each item it needs. least_items: the smallest world batch that teaches it anything. A method
    draws nothing at random and keeps what it remembers in buffers, so that (state_dict, step) is all there is to resume
    from. `progress` runs from 0 to 1 over the run.
    """

    backbone: Encoder
    num_views: int = 2
    uses_text: bool = False
    uses_local: bool = False
    num_points: int = 0
    least_items: int = 1

    def encode(self, batch: Batch, progress: float) -> tuple[Tensor, ...]:
        """Embeddings and codes, each (batch, ...); row i depends on item i only. Float embeddings may carry gradient."""
        raise NotImplementedError

    def compare(self, embeddings: tuple[Tensor, ...], progress: float) -> StepOutput:
        """The loss of the whole world batch, from what `encode` returned on all processes, in rank order."""
        raise NotImplementedError

    def after_step(self, output: StepOutput, progress: float) -> None:
        """Called after the optimizer's step: teachers and queues move here."""

    def forward(self, batch: Batch, progress: float) -> StepOutput:
        """Encode this process's items, gather, compare. Every process computes the same loss."""
        return self.compare(gather_all(self.encode(batch, progress)), progress)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Begin from weights of the backbone (its own `state_dict`)."""
        self.backbone.load_state_dict(weights)

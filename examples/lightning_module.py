"""A medcl method as a LightningModule, for projects that have a Lightning trainer already (pip install lightning; medcl does not need it).

Lightning brings its own data order and checkpoints: what medcl promises about going on bit for bit is not promised here.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch

from medcl.foundation.types import Batch, StepOutput
from medcl.methods import Method


class Pretraining(lightning.LightningModule):
    """Give it any method; its loader yields `medcl.foundation.types.Batch`."""

    def __init__(self, method: Method, num_steps: int, lr: float = 1e-3) -> None:
        super().__init__()
        self.method, self.num_steps, self.lr = method, num_steps, lr
        self._output: StepOutput | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self._output = self.method(batch, self.global_step / self.num_steps)
        self.log_dict({"loss": self._output.loss.detach(), **{name: float(value) for name, value in self._output.scalars.items()}})
        return self._output.loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self._output is not None:  # teachers and queues move after the optimizer did
            self.method.after_step(self._output, self.global_step / self.num_steps)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)

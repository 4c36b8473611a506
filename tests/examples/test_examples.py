"""Methods in other people's loops."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_plain_torch_learns() -> None:
    losses = runpy.run_path(str(EXAMPLES / "plain_torch.py"))["main"]()
    assert sum(losses[-5:]) < 0.7 * sum(losses[3:8])


def test_lightning_learns() -> None:
    lightning = pytest.importorskip("lightning")
    from medcl.encoders import ResNetConfig
    from medcl.foundation.types import Batch
    from medcl.methods import SimCLRConfig

    method = SimCLRConfig().build(ResNetConfig(depth=10, spatial_dims=2, width=8, stem_kernel=3).build())
    before = method.head.out.weight.detach().clone()
    batch = Batch(tuple(torch.randn(4, 1, 16, 16) for _ in range(2)), torch.arange(4), torch.arange(4))
    module = runpy.run_path(str(EXAMPLES / "lightning_module.py"))["Pretraining"](method, num_steps=2)
    trainer = lightning.Trainer(max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    trainer.fit(module, [batch, batch])
    assert not torch.equal(before, method.head.out.weight)

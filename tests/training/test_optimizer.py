"""Optimizers and the schedule of their rate."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest
import torch

from medcl.encoders import build_seeded
from medcl.foundation.errors import Stopped
from medcl.methods import SimCLRConfig
from medcl.training import train
from medcl.training.optimizer import AdamWConfig, LARSConfig, SGDConfig, build_optimizer
from medcl.training.schedule import ScheduleConfig, learning_rate_share
from tests.encoders.small_encoders import CONFIGS
from tests.training.small_runs import made_batches, made_config, made_method


def test_schedule() -> None:
    config = ScheduleConfig(warmup_steps=4, final_share=0.1)
    shares = [learning_rate_share(step, 104, config) for step in range(104)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares[54] == pytest.approx(0.55) and shares[-1] == pytest.approx(0.1, abs=0.001)
    assert all(a >= b for a, b in itertools.pairwise(shares[4:]))
    assert learning_rate_share(0, 10, ScheduleConfig(warmup_steps=0)) == 1.0
    rising = [learning_rate_share(step, 8, ScheduleConfig(warmup_steps=8, rise="exponential")) for step in range(8)]
    assert rising == pytest.approx([10 ** (-4 + (step + 1) / 2) for step in range(8)])


def test_norms_and_biases_do_not_decay() -> None:
    method = made_method("moco")
    groups = build_optimizer(AdamWConfig(weight_decay=0.3), method).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert all(parameter.ndim > 1 for parameter in groups[0]["params"]) and all(parameter.ndim == 1 for parameter in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == sum(parameter.requires_grad for parameter in method.parameters())
    assert isinstance(build_optimizer(SGDConfig(), method), torch.optim.SGD)


def test_early_stages_move_less_with_layer_decay() -> None:
    method = made_method("moco")
    groups = build_optimizer(AdamWConfig(layer_decay=0.5, weight_decay=0.1), method).param_groups
    share = {id(value): group["lr_share"] for group in groups for value in group["params"]}
    stages = [method.backbone.conv1, method.backbone.layer1, method.backbone.layer2, method.backbone.layer3, method.backbone.layer4]
    found = [share[id(next(iter(stage.parameters())))] for stage in stages]
    assert found == sorted(found) and found[-1] == 0.5 and found[1] == pytest.approx(0.5**4)
    assert share[id(method.head.out.weight)] == 1.0
    assert {group["lr_share"] for group in build_optimizer(AdamWConfig(), method).param_groups} == {1.0}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_encoder_has_stages_that_move_by_themselves(name: str) -> None:
    """A DenseNet's and a ViT's blocks are all in one child, and were one stage."""
    method = build_seeded(SimCLRConfig(projection_dim=4), build_seeded(CONFIGS[name], seed=0), seed=0)
    groups = build_optimizer(AdamWConfig(layer_decay=0.5), method).param_groups
    share = {id(value): group["lr_share"] for group in groups for value in group["params"]}
    found = [share[id(value)] for value in method.backbone.parameters() if value.requires_grad]
    assert found == sorted(found) and found[-1] == 0.5
    assert len(set(found)) >= len(method.backbone.channels), "fewer stages than maps"
    assert {share[id(value)] for value in method.head.parameters()} == {1.0}


def test_lars_is_its_algorithm_and_resumes(tmp_path: Path) -> None:
    """You et al. 2017, algorithm 1, number by number for two steps."""
    layer = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(LARSConfig(lr=0.5, weight_decay=0.1, momentum=0.9, trust=0.02), layer)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    moved, shifted = torch.zeros_like(weight), torch.zeros_like(bias)
    for step in range(2):
        layer.weight.grad, layer.bias.grad = torch.full((2, 3), 1.0 + step), torch.full((2,), 2.0)
        trust = 0.02 * weight.norm() / (layer.weight.grad.norm() + 0.1 * weight.norm())
        moved = 0.9 * moved + 0.5 * trust * (layer.weight.grad + 0.1 * weight)
        shifted = 0.9 * shifted + 0.5 * layer.bias.grad
        weight, bias = weight - moved, bias - shifted
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach(), weight)
        torch.testing.assert_close(layer.bias.detach(), bias)
    lars, weights = {"name": "lars", "lr": 1.0}, []
    for cuts in ((6,), (4, 6)):
        for steps in cuts:
            method, config = made_method("simclr"), made_config(num_steps=6, optimizer=lars, time_limit_s=None if steps == 6 else 1e-6)
            with contextlib.suppress(Stopped):
                train(method, made_batches(method), config, folder=tmp_path / str(len(cuts)))
        weights.append(method.head.out.weight.detach())
    assert torch.equal(*weights)

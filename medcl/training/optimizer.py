"""AdamW and SGD, with weight decay where it belongs: on matrices and kernels, not on norms and biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import nn

from medcl.foundation.config import Settings


class AdamWConfig(Settings):
    """AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of the parameter groups."""
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), fused=True)


class SGDConfig(Settings):
    """Stochastic gradient descent with momentum, as SimCLR's and MoCo's papers use it."""

    name: Literal["sgd"] = "sgd"
    lr: float = Field(default=0.03, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of the parameter groups."""
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=True)


def _named(value: Any) -> Any:
    """`optimizer: {lr: 0.01}` means AdamW, so that one number can be changed on the command line."""
    return {"name": "adamw", **value} if isinstance(value, Mapping) else value


OptimizerConfig = Annotated[AdamWConfig | SGDConfig, Field(discriminator="name"), BeforeValidator(_named)]


def build_optimizer(config: AdamWConfig | SGDConfig, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all parameters that learn; those with fewer than two axes (norms, biases, temperatures) do not decay."""
    decaying, free = [], []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (decaying if parameter.ndim > 1 else free).append(parameter)
    groups = [{"params": decaying, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return config.build([group for group in groups if group["params"]])

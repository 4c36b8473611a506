"""AdamW, SGD and LARS, with weight decay where it belongs: on matrices and kernels, not on norms and biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from medcl.foundation.config import Settings
from medcl.foundation.distributed import is_split


class AdamWConfig(Settings):
    """AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101).

    layer_decay: part of the learning rate that each stage of the backbone has of the stage after it, where a run starts from given
    weights (`initial`) whose early stages should move less; 1 = all alike.
    """

    name: Literal["adamw"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    layer_decay: float = Field(default=1.0, gt=0, le=1)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of the parameter groups."""
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), fused=True)


class SGDConfig(Settings):
    """Stochastic gradient descent with momentum, as MoCo's paper uses it. layer_decay: as AdamW's."""

    name: Literal["sgd"] = "sgd"
    lr: float = Field(default=0.03, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    layer_decay: float = Field(default=1.0, gt=0, le=1)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of the parameter groups."""
        split = any(is_split(parameter) for group in groups for parameter in group["params"])  # torch has no fused step for these
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=not split, foreach=split)


class LARSConfig(Settings):
    """LARS for world batches of thousands (You et al. 2017, https://arxiv.org/abs/1708.03888), as SimCLR's paper uses it.

    trust: the paper's coefficient eta, how far a layer moves relative to its own length.
    """

    name: Literal["lars"] = "lars"
    lr: float = Field(default=0.3, gt=0)
    weight_decay: float = Field(default=1e-6, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    trust: float = Field(default=1e-3, gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of the parameter groups."""
        return LARS(groups, self)


class LARS(torch.optim.Optimizer):
    """`v = m v + lr eta |w| / (|g| + b |w|) (g + b w)`, `w = w - v` (algorithm 1); b is the weight decay.

    Norms and biases (fewer than two axes) move as with SGD and momentum: their lengths say nothing about a good step.
    """

    def __init__(self, groups: list[dict[str, Any]], config: LARSConfig) -> None:
        super().__init__(groups, {"lr": config.lr, "weight_decay": config.weight_decay})
        self.config = config

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group["lr"], group["weight_decay"])

    def _move(self, weight: Tensor, gradient: Tensor, lr: float, decay: float) -> None:
        share = 1.0
        if weight.ndim > 1:
            length, steepness = weight.norm(), gradient.norm()
            # A layer of zeros has no length to measure by; it moves as with SGD.
            share = torch.where(length * steepness > 0, self.config.trust * length / (steepness + decay * length), 1.0)
        buffer = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
        buffer.mul_(self.config.momentum).add_(gradient.add(weight, alpha=decay) * (lr * share))
        weight.sub_(buffer)


def _named(value: Any) -> Any:
    """`optimizer: {lr: 0.01}` means AdamW, so that one number can be changed on the command line."""
    return {"name": "adamw", **value} if isinstance(value, Mapping) else value


OptimizerConfig = Annotated[AdamWConfig | SGDConfig | LARSConfig, Field(discriminator="name"), BeforeValidator(_named)]


def build_optimizer(config: AdamWConfig | SGDConfig | LARSConfig, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all parameters that learn; those with fewer than two axes (norms, biases, temperatures) do not decay.

    Each group's `lr_share` is the part of the learning rate that it has.
    """
    shares = _shares(config.layer_decay, module)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parts = name.split(".")
            share = next((shares[stage] for depth in (2, 3) if (stage := ".".join(parts[:depth])) in shares), 1.0)
            key = share, config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault(key, []).append(parameter)
    # Decaying ones first, early stages before late ones: the order by which a checkpoint numbers them.
    ordered = sorted(groups.items(), key=lambda item: (item[1][0].ndim < 2, item[0][0]))
    return config.build([{"params": params, "weight_decay": decay, "lr_share": share} for (share, decay), params in ordered])


def _shares(layer_decay: float, module: nn.Module) -> dict[str, float]:
    """Part of the learning rate by stage of the backbone (`backbone.layer1`); what is not named here has all of it."""
    if layer_decay == 1:
        return {}
    backbone, stages = module.get_submodule("backbone"), []
    for name, child in backbone.named_children():
        inside = [f"{name}.{part}" for part, _ in child.named_children()] if name == getattr(backbone, "stages_in", None) else [name]
        stages += [name for name in inside if any(True for _ in backbone.get_submodule(name).parameters())]
    return {f"backbone.{name}": layer_decay ** (len(stages) - number) for number, name in enumerate(stages)}

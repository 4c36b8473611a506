"""The residual encoder of nnU-Net's ResEnc presets, tensor names and all; torch alone, so that this file can travel with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_SLOPE = 0.01


class ResidualEncoder(nn.Module):
    """A stem and stages of residual blocks, (batch, channel, *space) -> the output of every stage, fine to coarse.

    Architecture: Isensee et al. 2024, "nnU-Net Revisited" (https://arxiv.org/abs/2404.09556); blocks of He et al. 2019 (ResNet-D: the
    shortcut averages, then projects). Names: those of `dynamic_network_architectures` 0.4, without its second names for the same
    tensors (`all_modules.N`). channels, blocks, kernels, strides: one for each stage; kernels and strides with a number per axis.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        blocks: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.convs = nn.Sequential(_Layer(in_channels, channels[0], kernels[0], [1] * len(kernels[0]), active=True))
        entering = [channels[0], *channels[:-1]]
        stages = zip(entering, channels, blocks, kernels, strides, strict=True)
        self.stages = nn.Sequential(*(_Stage(*stage) for stage in stages))

    def forward(self, image: Tensor) -> list[Tensor]:
        """The output of every stage."""
        value = self.stem.convs(image)  # pyright: ignore[reportCallIssue]
        maps = []
        for stage in self.stages:
            value = stage(value)
            maps.append(value)
        return maps


class _Stage(nn.Module):
    def __init__(self, channels: int, out: int, blocks: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        rest = [_Block(out, out, kernel, [1] * len(kernel)) for _ in range(blocks - 1)]
        self.blocks = nn.Sequential(_Block(channels, out, kernel, stride), *rest)

    def forward(self, value: Tensor) -> Tensor:
        return self.blocks(value)


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = _Layer(channels, out, kernel, stride, active=True)
        self.conv2 = _Layer(out, out, kernel, [1] * len(kernel), active=False)
        # As nnU-Net begins: every block passes its input on (Goyal et al. 2017, section 5.1).
        nn.init.zeros_(self.conv2.norm.weight)
        pool: Any = nn.AvgPool2d if len(kernel) == 2 else nn.AvgPool3d
        skip = [pool(tuple(stride), tuple(stride))] if any(step != 1 for step in stride) else []
        if channels != out:
            skip.append(_Layer(channels, out, [1] * len(kernel), [1] * len(kernel), active=False, bias=False))
        self.skip = nn.Sequential(*skip)

    def forward(self, value: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.conv2(self.conv1(value)) + self.skip(value), _SLOPE)


class _Layer(nn.Module):
    def __init__(self, channels: int, out: int, kernel: Sequence[int], stride: Sequence[int], *, active: bool, bias: bool = True) -> None:
        super().__init__()
        conv: Any
        conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if len(kernel) == 2 else (nn.Conv3d, nn.InstanceNorm3d)
        padding = tuple((length - 1) // 2 for length in kernel)
        self.conv = conv(channels, out, tuple(kernel), tuple(stride), padding, bias=bias)
        self.norm = norm(out, eps=1e-5, affine=True)
        self.active = active
        nn.init.kaiming_normal_(self.conv.weight, a=_SLOPE)
        if bias:
            nn.init.zeros_(self.conv.bias)

    def forward(self, value: Tensor) -> Tensor:
        value = self.norm(self.conv(value))
        return nn.functional.leaky_relu(value, _SLOPE) if self.active else value


def embedding(maps: list[Tensor]) -> Tensor:
    """Mean of the last stage over space: (batch, dim)."""
    return torch.flatten(maps[-1], 2).mean(2)

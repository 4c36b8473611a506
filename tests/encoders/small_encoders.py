"""One small encoder of every kind and number of dimensions, for tests, and what each is shown."""

from __future__ import annotations

from typing import Any

from medcl.encoders import DenseNetConfig, ResEncConfig, ResNetConfig, SegResNetConfig, SwinUNETRConfig, ViTConfig


def small_configs() -> dict[str, Any]:
    """Name and dimensions -> settings."""
    found: dict[str, Any] = {}
    for dims in (2, 3):
        side = 64 if dims == 2 else 32
        found |= {
            f"resnet {dims}D": ResNetConfig(depth=10, width=4, spatial_dims=dims),
            f"densenet {dims}D": DenseNetConfig(width=4, spatial_dims=dims),
            f"segresnet {dims}D": SegResNetConfig(width=4, blocks=(1, 1, 2), spatial_dims=dims),
            f"resenc {dims}D": ResEncConfig(width=4, widest=16, blocks=(1, 2, 1, 1), spatial_dims=dims),
            f"vit {dims}D": ViTConfig(size=(side, side // 2, side)[:dims], patch=16, width=24, heads=2, depth=4, spatial_dims=dims),
            f"swin_unetr {dims}D": SwinUNETRConfig(width=12, window=3, depths=(1, 2, 1, 1), spatial_dims=dims),
        }
    return found


CONFIGS = small_configs()


def sides(config: Any) -> tuple[int, ...]:
    """What the encoder is shown."""
    return config.size if isinstance(config, ViTConfig) else (64, 64) if config.spatial_dims == 2 else (32, 32, 32)

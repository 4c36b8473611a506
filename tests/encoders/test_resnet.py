from __future__ import annotations

import pytest
import torch
from monai.networks.nets import resnet as monai_resnet

from medcl.encoders import Encoder, ResNetConfig, build_seeded
from medcl.foundation import config
from medcl.foundation.errors import UserError


def _small(**settings) -> Encoder:
    return build_seeded(ResNetConfig(**{"width": 8, "stem_kernel": 3, "stem_stride": 1, **settings}), seed=0)


@pytest.mark.parametrize("norm", ["group", "instance"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("depth", [10, 18, 34, 50])
def test_features_have_the_shapes_that_the_encoder_promises(depth: int, dims: int, norm: str) -> None:
    encoder = _small(depth=depth, spatial_dims=dims, norm=norm)
    side = 2 * encoder.stride
    with torch.no_grad():
        features = encoder(torch.randn(2, 1, *[side] * dims))
    assert features.pooled.shape == (2, encoder.dim)
    assert tuple(level.shape[1] for level in features.dense) == encoder.channels
    assert features.dense[-1].shape[2:] == (2,) * dims
    torch.testing.assert_close(features.pooled, features.dense[-1].flatten(2).mean(dim=2))
    assert encoder.dim == encoder.channels[-1] == 64 * (4 if depth == 50 else 1)


def test_any_size_is_welcome() -> None:
    encoder = _small(depth=10, spatial_dims=3)
    with torch.no_grad():
        assert encoder(torch.randn(1, 1, 20, 33, 17)).pooled.shape == (1, encoder.dim)


def test_stem_settings_reach_the_network() -> None:
    encoder = _small(depth=10, spatial_dims=2, stem_kernel=5, stem_stride=2, stem_pool=False, in_channels=3)
    with torch.no_grad():
        features = encoder(torch.randn(1, 3, 32, 32))
    assert features.dense[0].shape[2:] == (16, 16) and encoder.stride == 16
    assert encoder.state_dict()["conv1.weight"].shape == (8, 3, 5, 5)


@pytest.mark.parametrize("depth", [18, 50])
def test_keys_and_shapes_are_monais_own(depth: int) -> None:
    block, layers = {18: ("basic", [2, 2, 2, 2]), 50: ("bottleneck", [3, 4, 6, 3])}[depth]
    theirs = monai_resnet.ResNet(block, layers, [16, 32, 64, 128], spatial_dims=3, n_input_channels=1, feed_forward=False).state_dict()
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    wanted = {key: value.shape for key, value in theirs.items() if not key.endswith(statistics)}
    ours = {key: value.shape for key, value in ResNetConfig(depth=depth, width=16).build().state_dict().items()}
    assert ours == wanted


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_no_layer_looks_across_items(norm: str) -> None:
    """MONAI's own blocks are BatchNorm whatever norm is asked for; ours are not."""
    encoder = _small(depth=18, spatial_dims=2, norm=norm).train()
    assert not any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in encoder.modules())
    images = torch.randn(3, 1, 64, 64)
    changed = torch.cat([images[:1], 5 * torch.randn(2, 1, 64, 64)])
    with torch.no_grad():
        torch.testing.assert_close(encoder(images).pooled[0], encoder(changed).pooled[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("width", "groups"), [(64, 32), (128, 32), (16, 8), (10, 5), (14, 7), (9, 3), (5, 1)])
def test_groups_divide_every_width(width: int, groups: int) -> None:
    encoder = ResNetConfig(depth=10, spatial_dims=2, width=width).build()
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {groups}


def test_initial_weights_are_a_function_of_the_seed_and_disturb_no_one() -> None:
    settings = ResNetConfig(depth=10, spatial_dims=2, width=8)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (build_seeded(settings, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_an_even_kernel_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"a.yaml: 'stem_kernel': must be odd.*take 3, 5 or 7"):
        config.validate(ResNetConfig, {"stem_kernel": 4}, "a.yaml")

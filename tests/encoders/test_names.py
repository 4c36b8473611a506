"""Each encoder in the network it is meant for: every tensor has its place there, and the features are the same."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from monai.networks.nets import resnet
from monai.networks.nets.densenet import DenseNet121
from monai.networks.nets.flexible_unet import FlexibleUNet
from monai.networks.nets.segresnet_ds import SegResNetDS
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unetr import UNETR
from torch import Tensor, nn

from medcl.encoders import DenseNetConfig, Encoder, ResEncConfig, ResNetConfig, SegResNetConfig, SwinUNETRConfig, ViTConfig, build_seeded


def _fill(network: nn.Module, prefix: str, encoder: Encoder) -> nn.Module:
    """Put the encoder's tensors in their places; every tensor under the prefix must be one of them."""
    tensors = {prefix + key: value for key, value in encoder.state_dict().items()}
    assert set(tensors) == {key for key in network.state_dict() if key.startswith(prefix) and not key.startswith("class_layers")}
    answer = network.load_state_dict(tensors, strict=False)
    assert answer.unexpected_keys == []
    return network.eval()


@pytest.mark.parametrize("dims", [2, 3])
def test_swin_unetr(dims: int) -> None:
    encoder = build_seeded(SwinUNETRConfig(width=12, window=3, spatial_dims=dims), seed=0).eval()
    network: Any = _fill(SwinUNETR(1, 2, feature_size=12, window_size=3, spatial_dims=dims), "swinViT.", encoder)
    image = torch.randn(1, 1, *(32,) * dims)
    with torch.no_grad():
        _same(network.swinViT(image), encoder(image).dense)


@pytest.mark.parametrize("dims", [2, 3])
def test_unetr(dims: int) -> None:
    size = (32, 16, 32)[:dims]
    encoder = build_seeded(ViTConfig(size=size, width=24, heads=2, depth=12, spatial_dims=dims), seed=0).eval()
    network: Any = _fill(UNETR(1, 2, size, hidden_size=24, mlp_dim=96, num_heads=2, spatial_dims=dims), "vit.", encoder)
    image = torch.randn(1, 1, *size)
    with torch.no_grad():
        tokens, hidden = network.vit(image)
        _same([network.proj_feat(each) for each in (hidden[3], hidden[6], hidden[9], tokens)], encoder(image).dense)


@pytest.mark.parametrize("dims", [2, 3])
def test_segresnet(dims: int) -> None:
    encoder = build_seeded(SegResNetConfig(width=8, spatial_dims=dims), seed=0).eval()
    network: Any = _fill(SegResNetDS(spatial_dims=dims, init_filters=8, norm="instance"), "encoder.", encoder)
    image = torch.randn(1, 1, *(32,) * dims)
    with torch.no_grad():
        _same(network.encoder(image), encoder(image).dense)


@pytest.mark.parametrize("dims", [2, 3])
def test_densenet_121(dims: int) -> None:
    encoder = build_seeded(DenseNetConfig(width=8, norm="instance", spatial_dims=dims), seed=0).eval()
    norm = ("instance", {"affine": True})
    network: Any = _fill(DenseNet121(dims, 1, 5, init_features=8, growth_rate=4, norm=norm), "", encoder)
    image = torch.randn(1, 1, *(64,) * dims)
    with torch.no_grad():
        assert torch.equal(network.class_layers.out(encoder(image).pooled), network(image))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("anisotropic", [False, True])
def test_resenc_is_that_of_dynamic_network_architectures(dims: int, anisotropic: bool) -> None:
    package = "dynamic_network_architectures.building_blocks.residual_encoders"
    theirs_module = pytest.importorskip(package, reason="pip install --no-deps dynamic-network-architectures==0.4.4")
    kernels, strides = ([[3] * dims] * 4, [[1] * dims, *[[2] * dims] * 3])
    if anisotropic:
        kernels, strides = [[3] * (dims - 1) + [1], *kernels[1:]], [strides[0], [2] * (dims - 1) + [1], *strides[2:]]
    config = ResEncConfig(blocks=(1, 3, 2, 2), width=4, widest=12, spatial_dims=dims, kernels=kernels, strides=strides)
    encoder = build_seeded(config, seed=0).eval()
    theirs = theirs_module.ResidualEncoder(
        1,
        4,
        [4, 8, 12, 12],
        nn.Conv2d if dims == 2 else nn.Conv3d,
        kernels,
        strides,
        [1, 3, 2, 2],
        conv_bias=True,
        norm_op=nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        return_skips=True,
    ).eval()
    with torch.no_grad():
        for value in encoder.parameters():  # the last norm of a block begins at zero: what it hides must be seen too
            value.normal_(0, 0.3)
    ours = encoder.state_dict()
    assert set(ours) == {key for key in theirs.state_dict() if ".all_modules." not in key}
    assert theirs.load_state_dict(ours, strict=False).unexpected_keys == []
    image = torch.randn(2, 1, *(32,) * dims)
    with torch.no_grad():
        _same(theirs(image), encoder(image).dense)


def _resnet(depth: int, dims: int) -> tuple[Any, nn.Module, str]:
    return ResNetConfig(depth=depth, spatial_dims=dims), getattr(resnet, f"resnet{depth}")(spatial_dims=dims, n_input_channels=1), ""


def _flexible(depth: int, dims: int) -> tuple[Any, nn.Module, str]:
    shortcut = "padding" if depth in (18, 34) else "without_bias"
    network = FlexibleUNet(1, 2, f"resnet{depth}", pretrained=False, spatial_dims=dims)
    return ResNetConfig(depth=depth, spatial_dims=dims, shortcut=shortcut), network, "encoder."


def _resencl(dims: int) -> tuple[Any, nn.Module, str]:
    """The network of nnU-Net's ResEncL plans: 32 to 320 channels (2D: 512), blocks 1, 3, 4, 6, 6, 6."""
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet", reason="pip install --no-deps -r tests/oracles.txt")
    widest, blocks = (320 if dims == 3 else 512), [1, 3, 4, 6, 6, 6]
    channels = [min(32 * 2**stage, widest) for stage in range(6)]
    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    affine = {"eps": 1e-5, "affine": True}
    network = unet.ResidualEncoderUNet(1, 6, channels, conv, 3, [1, *[2] * 5], blocks, 2, [1] * 5, True, norm, affine, nonlin=nn.LeakyReLU)
    return ResEncConfig(spatial_dims=dims, widest=widest), network, "encoder."


# At the widths at which they are used: the settings of the encoder, the network it is meant for, where it is in there.
FULL = {
    **{f"ResNet-{depth}": partial(_resnet, depth) for depth in (10, 18, 34, 50)},
    **{f"ResNet-{depth} in FlexibleUNet": partial(_flexible, depth) for depth in (10, 18, 34, 50)},
    "DenseNet121": lambda dims: (DenseNetConfig(spatial_dims=dims, width=64), DenseNet121(dims, 1, 5), ""),
    "ResEncL": _resencl,
    "UNETR": lambda dims: (
        ViTConfig(size=(96,) * dims, width=768, heads=12, depth=12, spatial_dims=dims),
        UNETR(1, 2, (96,) * dims, spatial_dims=dims),
        "vit.",
    ),
    "SwinUNETR": lambda dims: (
        SwinUNETRConfig(width=48, spatial_dims=dims),
        SwinUNETR(1, 2, feature_size=48, spatial_dims=dims),
        "swinViT.",
    ),
    "SegResNetDS": lambda dims: (SegResNetConfig(width=32, spatial_dims=dims), SegResNetDS(spatial_dims=dims, norm="instance"), "encoder."),
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", FULL)
def test_at_full_width_every_tensor_of_the_encoder_has_its_place_and_every_place_its_tensor(name: str, dims: int) -> None:
    """Names and shapes, without the memory. BatchNorm's statistics, the heads and nnU-Net's second names are no weights of an encoder."""
    with torch.device("cpu" if name == "SwinUNETR" else "meta"):  # a Swin transformer reads a tensor's values while it is built
        config, network, prefix = FULL[name](dims)
        ours = {prefix + key: value.shape for key, value in config.build().state_dict().items()}
    others = (
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "fc.weight",
        "fc.bias",
        "class_layers.out.weight",
        "class_layers.out.bias",
    )
    theirs = {key: value.shape for key, value in network.state_dict().items() if key.startswith(prefix) and not key.endswith(others)}
    assert len(ours) > 30 and ours == {key: shape for key, shape in theirs.items() if ".all_modules." not in key}


def _same(theirs: Any, ours: Any) -> None:
    found: list[tuple[Tensor, Tensor]] = list(zip(theirs, ours, strict=True))
    assert len(found) > 2
    for their_map, our_map in found:
        torch.testing.assert_close(our_map, their_map, rtol=1e-5, atol=1e-6)

"""What must hold for every image encoder of the union."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch

from medcl.encoders import EncoderConfig, ResEncConfig, ResNetConfig, SwinUNETRConfig, ViTConfig, build_seeded, inflate
from medcl.foundation.config import Settings, validate
from medcl.foundation.errors import UserError
from tests.encoders.small_encoders import CONFIGS, sides

every_encoder = pytest.mark.parametrize("name", sorted(CONFIGS))


class Holder(Settings):
    """One encoder in a YAML."""

    encoder: EncoderConfig  # type: ignore[valid-type]


def test_every_settings_class_of_the_union_is_tested_here() -> None:
    ours = {cls for cls in get_args(get_args(EncoderConfig)[0]) if cls.__module__.startswith("medcl.")}
    assert ours == {type(config) for config in CONFIGS.values()}


@every_encoder
def test_features_have_the_shapes_that_the_encoder_promises(name: str) -> None:
    config = CONFIGS[name]
    encoder = build_seeded(config, seed=0).eval()
    with torch.no_grad():
        features = encoder(torch.randn(2, 1, *sides(config)))
    assert features.pooled.shape == (2, encoder.dim) and encoder.spatial_dims == config.spatial_dims
    assert tuple(level.shape[1] for level in features.dense) == encoder.channels
    assert tuple(features.dense[-1].shape[2:]) == tuple(side // encoder.stride for side in sides(config))
    finer = [level.shape[2] for level in features.dense]
    assert finer == sorted(finer, reverse=True)
    torch.testing.assert_close(features.pooled, features.dense[-1].flatten(2).mean(2), rtol=1e-5, atol=1e-6)


@every_encoder
def test_no_layer_looks_across_items_and_every_tensor_learns(name: str) -> None:
    config = CONFIGS[name]
    encoder = build_seeded(config, seed=0).train()
    images = torch.randn(3, 1, *sides(config))
    changed = torch.cat([images[:1], 5 * torch.randn_like(images[1:])])
    features = encoder(images)
    with torch.no_grad():
        torch.testing.assert_close(features.pooled[0], encoder(changed).pooled[0], rtol=1e-4, atol=1e-5)
    (features.pooled.pow(2).sum() + sum(level.pow(3).mean() for level in features.dense)).backward()
    learning = {key: value.grad for key, value in encoder.named_parameters() if value.requires_grad}
    idle = [key for key, gradient in learning.items() if gradient is None or not gradient.isfinite().all()]
    assert idle == []


@every_encoder
def test_settings_survive_yaml_copies_are_alike_and_seeds_count(name: str) -> None:
    config = CONFIGS[name]
    again = validate(Holder, {"encoder": config.model_dump(mode="json")}, "a.yaml").encoder
    assert again == config
    first, twin, other = (build_seeded(each, seed=seed) for each, seed in ((config, 1), (again, 1), (config, 2)))
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in first.state_dict().items())
    assert any(not torch.equal(value, other.state_dict()[key]) for key, value in first.state_dict().items())
    image = torch.randn(1, 1, *sides(config))
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(first.eval())(image).pooled, first(image).pooled)


@pytest.mark.parametrize(("name", "wrong"), [("vit 3D", (32, 32, 32)), ("swin_unetr 2D", (48, 64)), ("resenc 3D", (32, 32, 28))])
def test_a_size_that_does_not_fit_is_refused_in_words(name: str, wrong: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"sides \["):
        build_seeded(CONFIGS[name], seed=0)(torch.zeros(1, 1, *wrong))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "vit", "size": [40, 40, 40]}, r"'encoder': size \[40, 40, 40\]: every side must be a multiple of patch 16"),
        ({"name": "vit", "size": [32, 32]}, "has 2 numbers, spatial_dims is 3"),
        ({"name": "resenc", "strides": [[1, 1, 1]]}, "expected 3 numbers for each of the 6 stages"),
        ({"name": "resenc", "blocks": [1, 1], "kernels": [[2, 3, 3], [3, 3, 3]]}, "every length must be odd"),
        ({"name": "densenet", "width": 7}, "encoder.width"),
        ({"name": "resnett"}, "resnet"),
    ],
)
def test_wrong_settings_name_the_key(content: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(Holder, {"encoder": content}, "a.yaml")


def test_width_and_depth_reach_every_encoder() -> None:
    for name, config in CONFIGS.items():
        wider = config.model_copy(
            update={"width": 2 * config.width, "widest": 64} if isinstance(config, ResEncConfig) else {"width": 2 * config.width}
        )
        assert wider.build().dim >= 2 * config.build().dim, name


def test_a_padding_shortcut_passes_the_gradient() -> None:
    """MONAI's own is cut off (`out.data`); the values are MONAI's."""
    from monai.networks.nets.resnet import ResNet

    x = torch.randn(1, 4, 5, 5, 5, requires_grad=True)
    encoder = ResNetConfig(depth=18, width=4, shortcut="padding").build()
    ours = encoder._downsample_basic_block(x, 8, 2)
    assert torch.equal(ours, ResNet._downsample_basic_block(encoder, x, 8, 2))
    ours.sum().backward()
    assert x.grad is not None and float(x.grad.sum()) == 4 * 27


# -- 2D into 3D --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["resnet", "densenet", "segresnet", "resenc", "vit"])
def test_a_volume_of_equal_slices_gives_the_features_of_its_slice(kind: str) -> None:
    flat_config, deep_config = CONFIGS[f"{kind} 2D"], CONFIGS[f"{kind} 3D"]
    if isinstance(deep_config, ViTConfig):
        flat_config = flat_config.model_copy(update={"size": (32, 64)})
        deep_config = deep_config.model_copy(update={"size": (64, 32, 32)})
    flat, deep = (build_seeded(config, seed=4).eval() for config in (flat_config, deep_config))
    inflate(flat.state_dict(), deep)
    picture = torch.randn(1, 1, 32, 64)  # rows, columns = y, x
    volume = picture.transpose(2, 3)[..., None].expand(1, 1, 64, 32, 32)
    with torch.no_grad():
        wanted, found = flat(picture), deep(volume)
    torch.testing.assert_close(found.pooled, wanted.pooled, rtol=1e-4, atol=1e-5)
    for deep_map, flat_map in zip(found.dense, wanted.dense, strict=True):
        each = flat_map.transpose(2, 3)[..., None].expand(deep_map.shape)
        torch.testing.assert_close(deep_map, each, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_inflated_is_refused_and_nothing_changes() -> None:
    swin = build_seeded(CONFIGS["swin_unetr 3D"], seed=0)
    with pytest.raises(UserError, match="no 3D form"):
        inflate(SwinUNETRConfig(width=12, spatial_dims=2).build().state_dict(), swin)
    deep = build_seeded(CONFIGS["resnet 3D"], seed=0)
    before = {key: value.clone() for key, value in deep.state_dict().items()}
    for other in (ResNetConfig(depth=18, width=4, spatial_dims=2), ResNetConfig(depth=10, width=8, spatial_dims=2)):
        with pytest.raises(UserError, match="take the same settings"):
            inflate(other.build().state_dict(), deep)
    assert all(torch.equal(value, before[key]) for key, value in deep.state_dict().items())

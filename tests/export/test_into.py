"""`--to monai --into`: MONAI's segmentation networks with a pretrained encoder, loaded with their own arguments changed."""

from __future__ import annotations

import json
import runpy
import warnings

import pytest
import torch

from medcl.encoders import ResNetConfig, SegResNetConfig, SwinUNETRConfig, ViTConfig
from medcl.export.backbone import load_backbone
from medcl.export.targets import export
from medcl.foundation.errors import MedclError, UserError
from tests.export.made_backbone import save_made

CASES = {
    "SwinUNETR": (SwinUNETRConfig(width=12, window=2, depths=(1, 1, 1, 1), spatial_dims=2), (64, 64), "swinViT."),
    "UNETR": (ViTConfig(size=(32, 48), width=24, heads=2, spatial_dims=2), (32, 48), "vit."),
    "SegResNetDS": (SegResNetConfig(width=8, norm="group"), (32, 32, 32), "encoder."),
    "FlexibleUNet": (ResNetConfig(depth=18, shortcut="padding", spatial_dims=2), (64, 64), "encoder."),
}


@pytest.mark.parametrize("into", CASES)
def test_the_whole_encoder_arrives_and_the_network_runs_with_other_classes(into, tmp_path) -> None:
    config, size, prefix = CASES[into]
    save_made(tmp_path / "bb", config, size)
    exported = export(tmp_path / "bb", "monai", tmp_path / "out", into=into)
    encoder = load_backbone(tmp_path / "bb").encoder
    total = len(encoder.state_dict())
    assert f"loaded {total}/{total}" in exported.lines[1] and f"other tensors of {into} stay random" in exported.lines[2]
    assert exported.proof["largest_difference"] <= 1e-5 and len(exported.proof["inputs"]) == 3
    network = runpy.run_path(str(tmp_path / "out" / "load_backbone.py"))["load"](tmp_path / "out", out_channels=5)
    assert type(network).__name__ == into and type(network).__module__.startswith("monai.")
    state = network.state_dict()
    assert all(torch.equal(state[prefix + name], tensor) for name, tensor in encoder.state_dict().items())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = network(torch.zeros(1, 1, *size))
    assert (answer[0] if isinstance(answer, list) else answer).shape == (1, 5, *size)


def test_the_loader_never_passes_a_file_without_the_encoder(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    save_made(tmp_path / "bb", CASES["SegResNetDS"][0], 32)
    export(tmp_path / "bb", "monai", tmp_path / "out", into="SegResNetDS")
    load = runpy.run_path(str(tmp_path / "out" / "load_backbone.py"))["load"]
    weights = load_file(tmp_path / "out" / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, tmp_path / "out" / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors: altered since the export"):
        load(tmp_path / "out")
    (tmp_path / "out" / "card.json").unlink()  # without it, counting is what is left
    for spoiled in (
        {},
        {name.removeprefix("encoder."): tensor for name, tensor in weights.items()},
        {name: tensor for name, tensor in weights.items() if "conv_init" not in name},
    ):
        save_file(spoiled, tmp_path / "out" / "model.safetensors")
        with pytest.raises(ValueError, match=r"loaded \d+/\d+ tensors"):
            load(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["monai"]["target"] = "os.system"
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"only classes of monai.networks.nets"):
        load(tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "size", "into", "message"),
    [
        (ResNetConfig(depth=18, spatial_dims=2), 64, "FlexibleUNet", "encoder.shortcut is projection, its resnet18 has padding"),
        (ResNetConfig(depth=10, width=8, shortcut="without_bias", spatial_dims=2), 64, "FlexibleUNet", "encoder.width is 8"),
        (ViTConfig(size=(32, 32), width=24, heads=2, depth=4, spatial_dims=2), 32, "UNETR", "encoder.depth is 4 .*UNETR has 12 and 16"),
        (SegResNetConfig(width=8, spatial_dims=2), 32, "SwinUNETR", "encoder.name is 'segresnet', and SwinUNETR holds a swin_unetr"),
    ],
)
def test_what_does_not_fit_is_refused_by_field(config, size, into, message, tmp_path) -> None:
    save_made(tmp_path / "bb", config, size)
    with pytest.raises(UserError, match=message):
        export(tmp_path / "bb", "monai", tmp_path / "out", into=into)
    assert not (tmp_path / "out").exists()


def test_a_network_that_took_nothing_fails_the_export(tmp_path, monkeypatch) -> None:
    from medcl.export import monai_into

    save_made(tmp_path / "bb", CASES["SegResNetDS"][0], 32)
    monkeypatch.setattr(monai_into, "count_matching", lambda ours, theirs: 0)
    with pytest.raises(MedclError, match=r"loaded 0/\d+ encoder tensors; nothing was written"):
        export(tmp_path / "bb", "monai", tmp_path / "out", into="SegResNetDS")
    assert not (tmp_path / "out").exists()

"""nnU-Net takes the checkpoints: 2.8 with its own loader and planned network, master by the rules of its loader."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medcl.encoders import ResEncConfig
from medcl.export.backbone import load_backbone
from medcl.export.targets import export
from medcl.foundation.errors import MedclError, UserError
from tests.export.made_backbone import save_made
from tests.export.made_plans import write_plans

REASON = "pip install --no-deps -r tests/oracles.txt"
ANISOTROPIC = {"kernels": ((3, 3, 1), (3, 3, 3), (3, 3, 3)), "strides": ((1, 1, 1), (2, 2, 1), (2, 2, 2))}
CONFIGS = {
    "3D": (ResEncConfig(width=4, widest=12, blocks=(1, 2, 2)), (0, 1, 2)),
    "3D anisotropic": (ResEncConfig(width=4, widest=12, blocks=(1, 2, 2), **ANISOTROPIC), (2, 0, 1)),
    "2D": (ResEncConfig(width=4, widest=12, blocks=(1, 2, 2), spatial_dims=2), (0, 1, 2)),
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def case(request, tmp_path_factory) -> tuple[Path, Any, tuple[int, ...]]:
    config, transpose = CONFIGS[request.param]
    folder = tmp_path_factory.mktemp("resenc") / "backbone"
    save_made(folder, config, 32)
    return folder, load_backbone(folder).encoder, transpose


def _planned(plans: Path, dims: int) -> torch.nn.Module:
    """The network that nnU-Net itself builds from the plans."""
    build = pytest.importorskip("nnunetv2.utilities.get_network_from_plans", reason=REASON).get_network_from_plans
    chosen = json.loads(plans.read_text())["configurations"]["3d_fullres" if dims == 3 else "2d"]["architecture"]
    return build(chosen["network_class_name"], chosen["arch_kwargs"], chosen["_kw_requires_import"], 1, 3, deep_supervision=False).eval()


def _same_features(encoder: Any, network: Any, transpose: tuple[int, ...]) -> None:
    image = torch.randn(2, 1, *(32,) * (encoder.spatial_dims - 1), 16 if encoder.spatial_dims == 2 else 32)
    axes = [2 + (2, 1, 0)[axis] for axis in transpose] if encoder.spatial_dims == 3 else [2, 3]
    with torch.no_grad():
        wanted, found = encoder(image).dense, network.encoder(image.permute(0, 1, *axes))
    for ours, theirs in zip(wanted, found, strict=True):
        torch.testing.assert_close(theirs, ours.permute(0, 1, *axes), rtol=1e-4, atol=1e-5)


def test_nnunets_own_loader_takes_the_whole_checkpoint(case, tmp_path) -> None:
    folder, encoder, transpose = case
    load = pytest.importorskip("nnunetv2.run.load_pretrained_weights", reason=REASON).load_pretrained_weights
    plans = write_plans(tmp_path / "plans.json", encoder, transpose=transpose)
    exported = export(folder, "nnunet", tmp_path / "out", plans=plans)
    network: Any = _planned(plans, encoder.spatial_dims)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with contextlib.redirect_stdout(io.StringIO()):
        load(network, str(tmp_path / "out" / "checkpoint.pth"))
    _same_features(encoder, network, transpose)
    after = network.state_dict()
    kept = [name for name in before if torch.equal(before[name], after[name]) and before[name].std() > 0]
    assert kept and all(".seg_layers." in name for name in kept)
    assert all(torch.equal(after[f"encoder.{name}"], after[f"decoder.encoder.{name}"]) for name in encoder.state_dict())
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *(32,) * encoder.spatial_dims)).isfinite().all()
    assert exported.proof["loaded"] == exported.proof["total"] == len(encoder.state_dict()) and len(exported.proof["inputs"]) == 3


def test_masters_rules_are_kept(case, tmp_path) -> None:
    """What its loader does: the tensors under two keys, prefix cut off, loaded strictly into stem and stages; nothing unpickled."""
    folder, encoder, _ = case
    plans = write_plans(tmp_path / "plans.json", encoder)
    export(folder, "nnunet", tmp_path / "out")
    content = torch.load(tmp_path / "out" / "checkpoint.pth", weights_only=True)
    assert set(content) == {"network_weights", "nnssl_adaptation_plan", "citations"}
    plan, weights = content["nnssl_adaptation_plan"], content["network_weights"]
    assert plan["pretrain_num_input_channels"] == 1 and plan["recommended_downstream_patchsize"] == [32] * encoder.spatial_dims
    network: Any = _planned(plans, encoder.spatial_dims)
    assert network.key_to_encoder == plan["key_to_encoder"] and network.key_to_stem == plan["key_to_stem"]
    used = 0
    for key in (plan["key_to_encoder"], plan["key_to_stem"]):
        part = {name.removeprefix(key + "."): tensor for name, tensor in weights.items() if name.startswith(key + ".")}
        network.get_submodule(key).load_state_dict(part)
        used += len(part)
    assert used == len(weights)
    assert all(key + ".weight" in weights for key in plan["keys_to_in_proj"])
    if tuple(network.encoder.kernel_sizes[0]) == (3,) * encoder.spatial_dims:
        _same_features(encoder, network, (0, 1, 2))


def test_the_default_encoder_is_called_by_its_presets_name() -> None:
    from medcl.export.nnunet import _adaptation_plan

    recipe = SimpleNamespace(spacing_mm=(1.0, 1.0, 1.0))
    backbone: Any = SimpleNamespace(
        encoder=ResEncConfig().build(), card={"contract": {}}, contract=SimpleNamespace(size=(160, 160, 160), recipe=recipe)
    )
    plan = _adaptation_plan(backbone, (2, 1, 0))
    assert plan["architecture_plans"] == {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None}
    assert 2 * len(backbone.encoder.state_dict()) == 448  # as many as nnFoundationCNN's checkpoint has under `encoder.`


def test_where_the_plans_contradict_the_contract_the_export_says_so(case, tmp_path) -> None:
    folder, encoder, _ = case
    for scheme in ("CTNormalization", "ZScoreNormalization", "NoNormalization"):
        plans = write_plans(tmp_path / "plans.json", encoder, scheme)
        exported = export(folder, "nnunet", tmp_path / scheme, plans=plans)
        said = any(f"these plans apply {scheme}" in line for line in exported.lines)
        assert said == (scheme != "NoNormalization")
        assert list(exported.proof["warnings"]) == json.loads((tmp_path / scheme / "card.json").read_text())["proof"]["warnings"]
    if encoder.spatial_dims == 3:
        assert "z-score" in "\n".join(export(folder, "nnunet", tmp_path / "master").lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_blocks_per_stage": [1, 3, 2]}, r"encoder.blocks gives \[1, 2, 2\], the plans have \[1, 3, 2\]"),
        ({"features_per_stage": [4, 8, 16]}, r"encoder.width, encoder.widest gives \[4, 8, 12\]"),
        ({"strides": [1, 2, 1]}, "encoder.strides gives"),
        ({"conv_bias": False}, "conv_bias is False"),
        ({"norm_op": "torch.nn.BatchNorm3d"}, "norm_op is torch.nn.BatchNorm3d"),
    ],
)
def test_plans_with_another_network_are_refused_by_field(tmp_path, changes, message) -> None:
    save_made(tmp_path / "bb", CONFIGS["3D"][0], 32)
    plans = write_plans(tmp_path / "plans.json", load_backbone(tmp_path / "bb").encoder, **changes)
    with pytest.raises(UserError, match=message):
        export(tmp_path / "bb", "nnunet", tmp_path / "out", plans=plans)
    with pytest.raises(UserError, match=r"has no configuration '2d'.*3d_fullres, cascade"):
        export(tmp_path / "bb", "nnunet", tmp_path / "out", plans=plans, configuration="2d")
    with pytest.raises(UserError, match="give --plans too"):
        export(tmp_path / "bb", "nnunet", tmp_path / "out", configuration="2d")
    assert not (tmp_path / "out").exists()


def test_a_second_copy_that_differs_fails_the_export(tmp_path, monkeypatch) -> None:
    """The trap of nnU-Net 2.8: a random `decoder.encoder.` would win in silence."""
    from medcl.export import nnunet

    save_made(tmp_path / "bb", CONFIGS["3D"][0], 32)
    plans = write_plans(tmp_path / "plans.json", load_backbone(tmp_path / "bb").encoder)
    whole = nnunet._named

    def spoiled(tensors, prefix):
        found = whole(tensors, prefix)
        if prefix == "decoder.encoder.":
            found["decoder.encoder.stem.convs.0.conv.weight"] = torch.zeros(4, 1, 3, 3, 3)
        return found

    monkeypatch.setattr(nnunet, "_named", spoiled)
    with pytest.raises(MedclError, match=r"loaded .* encoder tensors; nothing was written"):
        export(tmp_path / "bb", "nnunet", tmp_path / "out", plans=plans)
    assert not (tmp_path / "out").exists()

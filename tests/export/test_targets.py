"""Every export target: written, loaded back by the software it is for, compared; refused with a reason where it cannot be."""

from __future__ import annotations

import json
import runpy
import sys
import warnings

import numpy as np
import pytest
import torch

from medcl.export.backbone import load_backbone
from medcl.export.targets import TARGETS, export
from medcl.foundation.errors import MedclError, UserError
from medcl.foundation.files import read_card, sha256_of_file
from tests.export.made_backbone import make_backbone


@pytest.fixture(params=["volume_backbone", "picture_backbone"])
def backbone_folder(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("to", ["backbone", "huggingface", "monai"])
def test_loaded_back_all_tensors_and_equal(backbone_folder, tmp_path, to):
    exported = export(backbone_folder, to, tmp_path / "out")
    total = len(load_backbone(backbone_folder).encoder.state_dict())
    assert exported.proof["loaded"] == exported.proof["total"] == total
    assert exported.proof["largest_difference"] <= 1e-5
    assert f"loaded {total}/{total}" in "\n".join(exported.lines)
    card = read_card(tmp_path / "out", "export", "backbone")
    assert card["contract"] == read_card(backbone_folder, "backbone")["contract"] and card["proof"]["loaded"] == total
    if to != "backbone":
        assert len(exported.proof["inputs"]) == 3
        assert all(sha256_of_file(tmp_path / "out" / name) == digest for name, digest in card["files"].items())


@pytest.mark.parametrize("to", ["huggingface", "monai"])
def test_same_backbone_same_bytes(volume_backbone, tmp_path, to):
    for name in ("one", "two"):
        export(volume_backbone, to, tmp_path / name)
    assert (tmp_path / "one" / "card.json").read_bytes() == (tmp_path / "two" / "card.json").read_bytes()


def test_huggingface_folder_loads_without_medcl(volume_backbone, tmp_path):
    export(volume_backbone, "huggingface", tmp_path / "hf")
    assert "medcl" not in (tmp_path / "hf" / "load_backbone.py").read_text().split('"""')[2]
    network = runpy.run_path(str(tmp_path / "hf" / "load_backbone.py"))["load"](tmp_path / "hf")
    image = torch.randn(2, 1, 48, 40, 40)
    with torch.no_grad():
        assert torch.equal(network(image), load_backbone(volume_backbone)(image).pooled)
    assert type(network).__module__.startswith("monai.")
    assert (tmp_path / "hf" / "README.md").read_text().startswith("---\nlibrary_name: medcl")
    assert "HU" in (tmp_path / "hf" / "README.md").read_text()


def test_monai_bundle_loads_with_monais_own_loader(volume_backbone, tmp_path):
    export(volume_backbone, "monai", tmp_path / "bundle")
    text = (tmp_path / "bundle" / "configs" / "inference.json").read_text()
    assert "medcl" not in text and '"_target_": "monai.networks.nets.ResNet"' in text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.bundle import load

        network = load("bundle", bundle_dir=str(tmp_path), workflow_type="inference", device="cpu").eval()
    image = torch.randn(1, 1, 40, 40, 40)
    with torch.no_grad():
        assert torch.equal(network(image), load_backbone(volume_backbone)(image).pooled)
    metadata = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["value_range"] == [-1.0, 1.0]
    assert metadata["medcl_contract"]["units"] == ["HU"]


@pytest.mark.parametrize("name", ["volume_backbone", pytest.param("picture_backbone", marks=pytest.mark.slow)])
def test_onnx_any_batch_and_space_and_nothing_of_this_machine_inside(name, tmp_path, request):
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    import onnxruntime

    folder = request.getfixturevalue(name)
    exported = export(folder, "onnx", tmp_path / "out")
    backbone = load_backbone(folder)
    assert exported.proof["largest_difference"] <= 1e-4 and len(exported.proof["inputs"]) == 3
    assert exported.proof["loaded"] == exported.proof["total"]
    path = tmp_path / "out" / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((1, 1, 40, 40, 40), (3, 1, 48, 56, 40)):
        image = torch.randn(shape[: 2 + backbone.encoder.spatial_dims])
        with torch.no_grad():
            expected = backbone(image).pooled.numpy()
        np.testing.assert_allclose(session.run(None, {"image": image.numpy()})[0], expected, atol=1e-4 * np.abs(expected).max())
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert metadata["medcl_contract"] == backbone.card["contract"]
    content = path.read_bytes()
    assert b"site-packages" not in content and str(tmp_path).encode() not in content and b"stack_trace" not in content


def test_onnx_missing_package_says_which_extra(volume_backbone, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime is not installed: pip install 'medcl\[onnx\]'"):
        export(volume_backbone, "onnx", tmp_path / "out")


def test_nnunet_refuses_a_plain_resnet_with_the_reason(volume_backbone, tmp_path):
    with pytest.raises(UserError, match=r"encoder.name is 'resnet'.*has no place for its tensors"):
        export(volume_backbone, "nnunet", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_loads_wrongly_leaves_nothing(volume_backbone, tmp_path, monkeypatch):
    """The loader of the other side gives other numbers: the export fails and no folder appears."""
    from medcl.export import monai

    def spoiled(folder):
        network = load_backbone(volume_backbone).encoder
        with torch.no_grad():
            network.get_parameter("layer4.0.conv1.weight").mul_(1.5)
        return network

    monkeypatch.setattr(monai, "_load", spoiled)
    with pytest.raises(MedclError, match="loaded 38/39"):
        export(volume_backbone, "monai", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(volume_backbone, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        export(volume_backbone, "backbone", tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_the_folder_one_is_in_is_not_replaced(volume_backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".", "a/.."):
        with pytest.raises(UserError, match="is the folder that you are in"):
            export(volume_backbone, "backbone", name)
    assert list(tmp_path.iterdir()) == []


def test_unknown_target_and_missing_run(tmp_path, volume_backbone):
    with pytest.raises(UserError, match="expected one of backbone, onnx"):
        export(volume_backbone, "torchscript", tmp_path / "out")
    with pytest.raises(UserError, match="no such folder"):
        export(tmp_path / "nowhere", "onnx", tmp_path / "out")


def test_the_command_line_offers_exactly_these_targets():
    from medcl import cli

    assert set(cli.TARGETS) == set(TARGETS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--to", "onnx", "--out", "out", "--into", "UNETR"], "--into: --to onnx takes no such option"),
        (["--to", "monai", "--out", "out", "--into", "UNet"], "--into UNet: expected one of SwinUNETR, UNETR"),
        (["--to", "monai", "--out", "out", "--into", "UNETR"], "encoder.name is 'resnet', and UNETR holds a vit"),
        (["--to", "onnx"], "needs RUN, --to and --out"),
        (["--check", "out"], "leave out RUN"),
    ],
)
def test_options_that_do_not_go_together_are_refused(volume_backbone, tmp_path, monkeypatch, capsys, line, message):
    from medcl import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["medcl", "export", str(volume_backbone), *line])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("depth", "norm"), [(18, "group"), (34, "instance"), (50, "group"), (50, "instance")])
def test_every_resnet_is_what_monai_builds_from_its_description(tmp_path, depth, norm):
    make_backbone(tmp_path / "bb", dims=2, norm=norm, depth=depth, stem_kernel=3, stem_stride=1, stem_pool=False)
    for to in ("monai", "huggingface"):
        assert export(tmp_path / "bb", to, tmp_path / to).proof["largest_difference"] == 0.0

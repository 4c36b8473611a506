"""Fifty ways and more to alter what any target wrote: each is refused by hash or parser, naming the file and the way out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medcl.encoders import ResEncConfig, SegResNetConfig
from medcl.export.backbone import load_backbone
from medcl.export.targets import TARGETS, check_export, export
from medcl.foundation.errors import UserError
from tests.export.made_backbone import save_made

pytestmark = pytest.mark.xdist_group("checked")  # one process makes what they share

OPTIONS: dict[str, dict[str, str]] = {"monai into SegResNetDS": {"to": "monai", "into": "SegResNetDS"}}
FILES = {
    "backbone": ("weights.safetensors", "card.json", "README.md", "training_items.parquet"),
    "huggingface": ("model.safetensors", "config.json", "card.json", "load_backbone.py"),
    "onnx": ("model.onnx", "card.json"),
    "monai": ("models/model.pt", "configs/inference.json", "scripts/standard.py", "card.json"),
    "monai into SegResNetDS": ("model.safetensors", "card.json"),
    "nnunet": ("checkpoint.pth", "card.json"),
}
MUTATIONS = [
    (to, name, how, place)
    for to, names in FILES.items()
    for name in names
    for how, place in (("bit", 0.0), ("bit", 0.37), ("byte", 0.11), ("byte", 0.999), ("cut", 0.0), ("empty", 0.0))
]


@pytest.fixture(scope="module")
def written(volume_backbone, tmp_path_factory) -> dict[str, Path]:
    """Every target's folder, of an encoder that it takes."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    place = tmp_path_factory.mktemp("written")
    save_made(place / "resenc", ResEncConfig(width=4, widest=8, blocks=(1, 1), spatial_dims=2), 32)
    save_made(place / "segresnet", SegResNetConfig(width=8, spatial_dims=2), 32)
    sources = {"nnunet": place / "resenc", "monai into SegResNetDS": place / "segresnet"}
    for to in FILES:
        export(sources.get(to, volume_backbone), out=place / to, **OPTIONS.get(to, {"to": to}))
    return {to: place / to for to in FILES}


def test_every_target_and_at_least_fifty_mutations() -> None:
    assert {OPTIONS.get(to, {"to": to})["to"] for to in FILES} == set(TARGETS)
    assert len(MUTATIONS) >= 50


def test_whole_folders_pass(written) -> None:
    for to, folder in written.items():
        lines = check_export(folder).lines
        assert "files as the card says" in lines[0] or to == "backbone"


@pytest.mark.parametrize(("to", "name", "how", "place"), MUTATIONS)
def test_an_altered_file_is_refused_by_its_name(written, tmp_path, to, name, how, place) -> None:
    folder = Path(shutil.copytree(written[to], tmp_path / "out"))
    content = bytearray((folder / name).read_bytes())
    if how in ("bit", "byte"):
        content[int(place * (len(content) - 1))] ^= 4 if how == "bit" else 0xFF
    (folder / name).write_bytes(content[:-20] if how == "cut" else b"" if how == "empty" else content)
    with pytest.raises(UserError) as refusal:
        check_export(folder)
    assert name in str(refusal.value) or (name == "card.json" and str(folder) in str(refusal.value))
    assert any(way in str(refusal.value) for way in ("again", "make it"))
    if to == "backbone":
        with pytest.raises(UserError):
            load_backbone(folder)


@pytest.mark.parametrize("key", ["contract", "licence", "proof", "files", "cohort"])
def test_an_edited_card_is_refused(written, tmp_path, key) -> None:
    folder = Path(shutil.copytree(written["huggingface"], tmp_path / "out"))
    card = json.loads((folder / "card.json").read_text())
    card[key] = "mine" if isinstance(card[key], str) else {**card[key], "more": 1}
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="the card was altered"):
        check_export(folder)


def test_a_file_more_or_less_is_named(written, tmp_path) -> None:
    folder = Path(shutil.copytree(written["onnx"], tmp_path / "out"))
    (folder / "extra.py").write_text("print()")
    with pytest.raises(UserError, match=r"extra.py: added since the export"):
        check_export(folder)
    (folder / "extra.py").unlink()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "extra.pyc").touch()
    with pytest.raises(UserError, match=r"extra.pyc: added since the export; delete the __pycache__"):
        check_export(folder)
    shutil.rmtree(folder / "__pycache__")
    (folder / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"model.onnx: missing since the export"):
        check_export(folder)
    shutil.copytree(written["backbone"], tmp_path / "bb")
    (tmp_path / "bb" / "extra.py").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"extra.py: added since the export"):
        check_export(tmp_path / "bb")
    with pytest.raises(UserError, match=r"has no card\.json"):
        check_export(tmp_path)

"""Fifty ways to alter what was written: each is refused by hash or parser, naming the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medcl.export.backbone import load_backbone
from medcl.export.targets import check_export, export
from medcl.foundation.errors import UserError

PLACES = (0.0, 0.03, 0.11, 0.37, 0.5, 0.73, 0.9, 0.999)


@pytest.fixture(scope="module")
def written(volume_backbone, tmp_path_factory) -> dict[str, Path]:
    """A backbone, an export with safetensors and one with ONNX."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    place = tmp_path_factory.mktemp("written")
    for to in ("backbone", "huggingface", "onnx"):
        export(volume_backbone, to, place / to)
    return {to: place / to for to in ("backbone", "huggingface", "onnx")}


def _mutations() -> list[tuple[str, str, str, float]]:
    """(export, file, how, where): 5 files in 8 places, each cut, each emptied, cards with a changed word."""
    files = [("backbone", "weights.safetensors"), ("backbone", "card.json"), ("huggingface", "model.safetensors")]
    files += [("onnx", "model.onnx"), ("onnx", "card.json")]
    found = [(to, name, "flip", place) for to, name in files for place in PLACES]
    return found + [(to, name, how, 0.0) for to, name in files for how in ("cut", "empty")]


MUTATIONS = _mutations()


def test_there_are_fifty() -> None:
    assert len(MUTATIONS) == 50


def test_whole_folders_pass(written) -> None:
    for to, folder in written.items():
        lines = check_export(folder).lines
        assert "files as the card says" in lines[0] or to == "backbone"


@pytest.mark.parametrize(("to", "name", "how", "place"), MUTATIONS)
def test_an_altered_file_is_refused_by_its_name(written, tmp_path, to, name, how, place) -> None:
    folder = Path(shutil.copytree(written[to], tmp_path / "out"))
    content = bytearray((folder / name).read_bytes())
    if how == "flip":
        content[int(place * (len(content) - 1))] ^= 4
    (folder / name).write_bytes(content[:-20] if how == "cut" else b"" if how == "empty" else content)
    with pytest.raises(UserError) as refusal:
        check_export(folder)
    assert name in str(refusal.value) or str(folder) in str(refusal.value)
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
    (folder / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"model.onnx: missing since the export"):
        check_export(folder)
    with pytest.raises(UserError, match=r"has no card\.json"):
        check_export(tmp_path)

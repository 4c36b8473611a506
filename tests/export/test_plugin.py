"""The example plugin, installed as anyone would, extends medcl from YAML and the command line; a broken one is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from medcl.export import targets
from medcl.foundation import plugins
from medcl.foundation.config import union_of
from medcl.foundation.errors import UserError
from medcl.methods import MoCoConfig, SimCLRConfig

pytestmark = pytest.mark.xdist_group("plugin")  # one process makes what they share

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> tuple[Path, dict[str, Any], str]:
    """The folder in which it was used, what came of each kind of addition, and all that was said."""
    place = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(ROOT / "examples" / "plugin", place / "source")  # a build leaves files beside its source
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    _run([*install, "--target", str(place / "site"), str(source)], {})
    said = _run(["-m", "tests.export.use_plugin", str(place)], {"PYTHONPATH": os.pathsep.join([str(place / "site"), str(ROOT)])})
    return place, json.loads(next(line for line in said.splitlines() if line.startswith("{"))), said


def test_a_method_and_an_encoder_are_named_in_yaml_and_trained(used) -> None:
    _, found, _ = used
    assert found["method"] == {"name": "align_uniform", "weight": 1.0, "t": 1.5}
    assert found["encoder"] == {"name": "patch_mean", "spatial_dims": 2, "width": 8}


def test_an_augmentation_is_a_step_of_a_policy(used) -> None:
    assert used[1]["augmentation"]["name"] == "vignette" and used[1]["augmentation"]["max_loss"] == 0.3


def test_a_modality_brings_its_own_prohibitions(used) -> None:
    modalities, refusal = used[1]["modality"]
    assert modalities == ["oct"] and "flip_up_down is unsafe for oct: the vitreous lies on top" in refusal


def test_an_export_target_is_offered_by_the_command_line_where_it_is_installed(used) -> None:
    place, found, said = used
    assert found["export"] == "medcl_example.export_csv"
    assert "loaded 2/2 encoder tensors; largest relative difference" in said and (place / "csv" / "weights.csv").is_file()
    again = [sys.executable, "-m", "medcl", "export", str(place / "run"), "--to", "csv", "--out", str(place / "again")]
    without = subprocess.run(again, capture_output=True, text=True, cwd=ROOT)
    assert without.returncode == 2 and "expected one of backbone, onnx" in without.stderr


def test_a_plugin_that_cannot_be_loaded_is_named_with_the_way_out(monkeypatch) -> None:
    broken = EntryPoint("mine", "not_there.method:MyConfig", "medcl.methods")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [broken])
    with pytest.raises(UserError, match=r"package 'not_there': its medcl.methods 'mine' = .*No module named.*pip uninstall not_there"):
        union_of("medcl.methods", MoCoConfig)


def test_nothing_of_medcls_own_is_replaced(monkeypatch) -> None:
    monkeypatch.setattr(
        targets, "entry_points", lambda group: [EntryPoint("onnx", "evil.onnx", group), EntryPoint("csv", "fine.csv", group)]
    )
    assert targets.targets() == {**targets.TARGETS, "csv": "fine.csv"}

    class Other(SimCLRConfig):
        """Of the same name."""

    monkeypatch.setattr(plugins, "entry_points", lambda group: [EntryPoint("mine", "x:y", group)])
    monkeypatch.setattr(EntryPoint, "load", lambda self: Other)
    with pytest.raises(UserError, match=r"medcl.methods: 'simclr' names both medcl.methods.simclr.SimCLRConfig and .*Other"):
        union_of("medcl.methods", MoCoConfig, SimCLRConfig)


def _run(arguments: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout

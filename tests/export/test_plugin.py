"""The example plugin, installed as anyone would, extends medcl from YAML and the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_package_is_found_and_used(tmp_path: Path) -> None:
    source = shutil.copytree(ROOT / "examples" / "plugin", tmp_path / "source")  # a build leaves files beside its source
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    _run([*install, "--target", str(tmp_path / "site"), str(source)], {})
    said = _run(["-m", "tests.export.use_plugin", str(tmp_path)], {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])})
    assert "loaded 2/2 encoder tensors; largest relative difference" in said
    assert "flip_up_down is unsafe for oct: the vitreous lies on top" in said
    assert (tmp_path / "csv" / "weights.csv").is_file()
    without = subprocess.run(
        [sys.executable, "-m", "medcl", "export", str(tmp_path / "run"), "--to", "csv", "--out", str(tmp_path / "again")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert without.returncode == 2 and "expected one of backbone, onnx" in without.stderr


def _run(arguments: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout

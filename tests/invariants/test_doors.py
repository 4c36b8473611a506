"""One door for each outside package, and a command line that answers at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# package -> files that may import it (path prefixes relative to medcl/)
DOORS = {
    "pydicom": ("ingest/dicom", "doctor.py"),
    "nibabel": ("ingest/nifti",),
    "torchio": ("views/acquisition.py",),
    "torch.utils.tensorboard": ("training/watchers.py",),
    "mlflow": ("training/trackers.py",),
    "wandb": ("training/trackers.py",),
    "tokenizers": ("encoders/tokenizer.py",),
    "pandas": ("ingest/", "store/", "evaluation/", "reporting/", "export/", "loading/texts.py"),
    "skimage": (),
    "monai": ("encoders/", "views/acquisition.py", "export/monai", "evaluation/segmentation.py", "store/prepare.py"),
    "blosc2": ("store/",),
    "matplotlib": ("reporting/", "views/audit.py", "views/sheet.py", "training/watchers.py"),
    "typer": ("cli.py",),
}


@pytest.mark.parametrize("package", sorted(DOORS))
def test_one_door(package: str) -> None:
    pattern = re.compile(rf"^\s*(import {re.escape(package)}\b|from {re.escape(package)}[\w.]* import)", re.MULTILINE)
    intruders = []
    for path in (ROOT / "medcl").rglob("*.py"):
        name = path.relative_to(ROOT / "medcl").as_posix()
        if pattern.search(path.read_text(encoding="utf-8")) and not name.startswith(DOORS[package]):
            intruders.append(name)
    assert not intruders


@pytest.mark.parametrize("module", ["medcl", "medcl.cli", "medcl.ingest", "medcl.store"])
def test_import_is_light(module: str) -> None:
    heavy = "torch", "monai", "torchio", "tensorboard"
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_help_answers_in_half_a_second() -> None:
    """Processor time, so that a busy machine cannot fail it; the wall time of an idle one is the same."""
    times = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-m", "medcl", "--help"], capture_output=True, check=True)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(times) < 0.5, times

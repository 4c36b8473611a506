"""Every shipped config expands to what its golden file says, and runs three steps on made data."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from medcl.api import evaluate, pretrain
from medcl.foundation.config import to_yaml
from medcl.run_config import load_pretrain, load_study
from medcl.views.policy import load_policy
from tests.invariants.conftest import ROOT, MadeData

PRETRAIN = sorted([*ROOT.glob("configs/pretrain/*.yaml"), ROOT / "datasets/made/ct_moco.yaml", ROOT / "datasets/made/xray_convirt.yaml"])
STUDIES = sorted([*ROOT.glob("configs/evaluate/*.yaml"), *ROOT.glob("datasets/made/*_study.yaml")])
GOLDEN = ROOT / "tests" / "golden"

pytestmark = pytest.mark.xdist_group("made")


def name_of(path: Path) -> str:
    """Where the golden file of a config lies."""
    return "__".join(path.relative_to(ROOT).parts)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in configs are relative to where the command is typed."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", [*PRETRAIN, *STUDIES], ids=name_of)
def test_expands_to_its_golden_file(path: Path) -> None:
    settings = load_pretrain(path) if path in PRETRAIN else load_study(path)
    golden = GOLDEN / name_of(path)
    assert golden.is_file(), f"new config: run `PYTHONPATH=. python tests/golden/renew.py` and commit {golden.name}"
    assert yaml.safe_load(to_yaml(settings)) == yaml.safe_load(golden.read_text()), (
        "a default changed: renew the golden files, look at the diff"
    )


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.glob("*.yaml")} == {name_of(path) for path in [*PRETRAIN, *STUDIES]}


@pytest.mark.parametrize("path", PRETRAIN, ids=name_of)
def test_a_config_opens_with_its_command(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# medcl pretrain {path.relative_to(ROOT)}")


@pytest.mark.parametrize("path", PRETRAIN, ids=name_of)
def test_a_pretraining_runs_three_steps(path: Path, made: MadeData, tmp_path: Path) -> None:
    settings = load_pretrain(path)
    modality = load_policy(settings.views.policy).modality
    size = [16, 16, 16] if settings.encoder.spatial_dims == 3 else [32, 32]
    changed = {
        "store": str(made.store[modality]),
        "views.size": size,
        "training.num_steps": 3,
        "training.world_batch": 4,
        "encoder.width": 4,
        "probe_label": None,
        "splits": ["train", "val", "test"],
    }
    run = pretrain(path, changed, out=tmp_path / "run")
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 3 and math.isfinite(records[-1]["loss"])
    assert (run.folder / "card.json").is_file() and (run.backbone / "weights.safetensors").is_file()


@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_a_study_runs_with_fits_of_three_steps(path: Path, made: MadeData, tmp_path: Path) -> None:
    settings = load_study(path)
    segments = settings.task.name == "segmentation"
    flat = any(getattr(init, "spatial_dims", 3) == 2 for init in settings.inits.values()) or settings.task.name == "retrieval"
    modality = "xray" if flat else "ct"
    base = ROOT / "datasets/made" / ("xray_convirt.yaml" if flat else "ct_moco.yaml")
    shrunk = {
        "store": str(made.store[modality]),
        "training.num_steps": 3,
        "training.world_batch": 4,
        "encoder.width": 4,
        "probe_label": None,
    }
    run = pretrain(base, shrunk, out=tmp_path / "run")
    small = {"name": "resnet", "depth": 10, "spatial_dims": 2 if flat else 3, "width": 4, "stem_kernel": 3}
    inits = {name: small if hasattr(init, "depth") else str(run.folder) for name, init in settings.inits.items()}
    changed: dict = {"data": str(made.store[modality]), "inits": inits, "draws": 1, "fractions": [1.0], "resamples": 100}
    changed |= {
        "finetune.num_steps": 3,
        "finetune.batch": 4,
        "finetune.looks": 1,
        "finetune.learning_rates": [0.001],
        "transductive": True,
    }
    if settings.task.name == "classification":
        changed["task.label"] = "effusion"
    if segments:
        changed["task.labels"] = []
    study = evaluate(path, changed, out=tmp_path / "study")
    assert (study.folder / "page.html").is_file() and (study.folder / "results.csv").read_text().count("\n") > 2

"""No identifier of a patient leaves ingest: canaries planted in the made cohort are looked for in every artefact."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from medcl.api import evaluate, pretrain
from medcl.views.audit import preview_store
from tests.invariants.conftest import ROOT, MadeData

pytestmark = pytest.mark.xdist_group("made")


def _text_of(path: Path) -> str:
    if path.suffix == ".parquet":
        return str(path) + pd.read_parquet(path).to_csv()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return str(path) + "".join(archive.read(name).decode("latin-1") for name in archive.namelist())
    return str(path) + path.read_bytes().decode("latin-1")


def test_no_canary_outside_private(made: MadeData, tmp_path: Path) -> None:
    canaries = [line.strip() for line in (made.cohort / "canaries.txt").read_text().splitlines() if line.strip()]
    assert len(canaries) > 100
    preview_store(made.store["xray"], tmp_path / "preview", paired=True, count=2)
    small = {"store": str(made.store["xray"]), "training.num_steps": 2, "training.world_batch": 4, "encoder.width": 4, "probe_label": None}
    run = pretrain(ROOT / "datasets/made/xray_convirt.yaml", small, out=tmp_path / "run")
    changed = {"data": str(made.store["xray"]), "inits": {"convirt": str(run.folder)}, "draws": 1, "fractions": [1.0], "resamples": 100}
    evaluate(ROOT / "datasets/made/xray_study.yaml", changed, out=tmp_path / "study")
    roots = [*made.data.values(), tmp_path]
    files = [path for root in roots for path in root.rglob("*") if path.is_file() and "private" not in path.parts]
    assert len(files) > 30
    leaks = {}
    for path in files:
        text = _text_of(path)
        found = [canary for canary in canaries if canary in text]
        if found:
            leaks[path.name] = found[:3]
    assert not leaks


def test_private_is_for_its_owner_alone(made: MadeData) -> None:
    for folder in made.data.values():
        assert (folder / "private").stat().st_mode & 0o777 == 0o700


def test_no_patient_in_two_splits(made: MadeData) -> None:
    for folder in made.data.values():
        manifest = pd.read_parquet(folder / "manifest.parquet")
        assert set(manifest["split"]) <= {"train", "val", "test", ""}
        assert manifest.groupby("patient_key")["split"].nunique().max() == 1

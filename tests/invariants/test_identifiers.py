"""No identifier of a patient leaves ingest: canaries planted wherever text can stand are looked for in every artefact."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from medcl import cli
from medcl.api import evaluate, pretrain
from medcl.export.embed import embed_files
from medcl.export.targets import TARGETS, export
from medcl.foundation.errors import UserError
from medcl.ingest.audit import Finder, audit_privacy, leaks_of, needle
from medcl.reporting.page import write_report
from medcl.views.audit import preview_store
from tests.invariants.canaries import plant
from tests.invariants.conftest import ROOT, MadeData

pytestmark = pytest.mark.xdist_group("made")


def leaks(canaries: Iterable[str], *roots: Path) -> tuple[int, set[tuple[str, str]]]:
    """How many files there are outside private/, and (file, canary) of every canary in them, however it is packed."""
    finder = Finder([needle(canary, "canary", canary) for canary in canaries])
    files = [(path, root) for root in roots for path in root.rglob("*") if path.is_file() and "private" not in path.parts]
    return len(files), {(leak.file, leak.fingerprint) for path, root in files for leak in leaks_of(path, root, finder)}


def test_no_canary_from_raw_scans_to_the_page(made: MadeData, tmp_path: Path) -> None:
    canaries = [line.strip() for line in (made.cohort / "canaries.txt").read_text().splitlines() if line.strip()]
    assert len(canaries) > 100
    preview_store(made.store["xray"], tmp_path / "preview", paired=True, count=2)
    small = {"store": str(made.store["xray"]), "training.num_steps": 2, "training.world_batch": 4, "encoder.width": 4, "probe_label": None}
    run = pretrain(ROOT / "datasets/made/xray_convirt.yaml", small, out=tmp_path / "run")
    changed = {"data": str(made.store["xray"]), "inits": {"convirt": str(run.folder)}, "draws": 1, "fractions": [1.0], "resamples": 100}
    evaluate(ROOT / "datasets/made/xray_study.yaml", changed, out=tmp_path / "study")
    written = set()
    for target in TARGETS:
        try:
            export(run.folder, target, tmp_path / "exports" / target)
        except UserError:
            continue  # a target that cannot take this encoder
        written.add(target)
    assert written >= {"backbone", "monai", "huggingface"}
    embed_files(run.folder, sorted((made.cohort / "xray").iterdir())[:2], tmp_path / "embeddings.parquet")
    write_report([run.folder, tmp_path / "study"], tmp_path / "page.html")
    count, found = leaks(canaries, *made.data.values(), tmp_path)
    assert count > 50
    assert not found
    for data in made.data.values():
        assert not audit_privacy(tmp_path, data).leaks


@dataclass
class Said:
    """What a command ended with and said."""

    code: int
    text: str


def medcl(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object) -> Said:
    """Run a command in this process; readers run in children all the same."""
    monkeypatch.setattr(sys, "argv", ["medcl", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capfd.readouterr()
    return Said(int(end.value.code or 0), output.out + output.err)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, while the canaries are planted
def test_no_text_of_any_field_gets_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Every text field that DICOM knows and many more places, read well and badly; forced failures and killed readers too."""
    export_folder, cage = plant(tmp_path / "in")
    assert len(cage.all) > 5000 and len(set(cage.all)) == len(cage.all)
    out = tmp_path / "out"
    monkeypatch.setattr("tempfile.tempdir", str(out))
    out.mkdir()
    tables = ["--reports", export_folder / "reports.csv", "--labels", export_folder / "labels.csv"]
    said = [
        medcl(monkeypatch, capfd, "ingest", export_folder / "xray", "--out", out / "xray", *tables, "--json"),
        medcl(monkeypatch, capfd, "ingest", export_folder, "--out", out / "all", "--reports", export_folder / "reports.xlsx"),
        medcl(monkeypatch, capfd, "convert", export_folder, "--out", out / "nifti", "--quiet"),
        medcl(monkeypatch, capfd, "prepare", out / "xray", "--out", out / "xray" / "store", "--recipe", "xray"),
        medcl(monkeypatch, capfd, "preview", out / "xray" / "store", "--paired", "--count", "1", "--out", out / "preview"),
        *_beyond_the_store(monkeypatch, capfd, export_folder, out),
        medcl(monkeypatch, capfd, "ingest", "--audit-privacy", out, "--out", out / "all"),
    ]
    assert not [one.text for one in said if one.code]
    reports = pd.read_parquet(out / "xray" / "reports.parquet")
    assert len(reports) == 4 and all("The left lung is clear" in text for text in reports["findings"])
    with monkeypatch.context() as patch:
        patch.setattr("medcl.ingest.run.volume_ids", lambda scans, _: {}[repr(scans)])
        said.append(medcl(monkeypatch, capfd, "ingest", export_folder, "--out", out / "failed"))
    assert said[-1].code == 1 and "KeyError" in said[-1].text
    with monkeypatch.context() as patch:
        patch.setattr("medcl.training.loop.math.isfinite", lambda _: False)
        said.append(medcl(monkeypatch, capfd, *_pretrain(out), "--out", out / "not_finite"))
    assert said[-1].code == 2 and "not finite" in said[-1].text
    few = [ROOT / "datasets/made/xray_study.yaml", f"data={out / 'xray' / 'store'}", f"inits.pretrained={out / 'run'}"]
    said.append(medcl(monkeypatch, capfd, "evaluate", *few, "--out", out / "study"))
    assert said[-1].code == 3
    assert len(list(out.glob("*.traceback.txt"))) == 1
    (out / "said.txt").write_text("\n".join(one.text for one in said))
    count, found = leaks(cage.all, out)
    assert count > 30
    assert not found


def _pretrain(out: Path) -> list[object]:
    settings = ["training.num_steps=2", "training.world_batch=4", "encoder.width=4", "probe_label=null", "training.log_every=1"]
    return ["pretrain", ROOT / "datasets/made/xray_convirt.yaml", f"store={out / 'xray' / 'store'}", *settings]


def _beyond_the_store(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], scans: Path, out: Path) -> list[Said]:
    """A backbone from the store, and all that is made of it."""
    run = out / "run"
    return [
        medcl(monkeypatch, capfd, *_pretrain(out), "--out", run),
        medcl(monkeypatch, capfd, "export", run, "--to", "monai", "--out", out / "bundle"),
        medcl(monkeypatch, capfd, "embed", run, scans / "xray", "--out", out / "embeddings.parquet"),
        medcl(monkeypatch, capfd, "report", run, "--out", out / "page.html"),
    ]


def test_private_is_for_its_owner_alone(made: MadeData) -> None:
    for folder in made.data.values():
        assert (folder / "private").stat().st_mode & 0o777 == 0o700


def test_no_patient_in_two_splits(made: MadeData) -> None:
    for folder in made.data.values():
        manifest = pd.read_parquet(folder / "manifest.parquet")
        assert set(manifest["split"]) <= {"train", "val", "test", ""}
        assert manifest.groupby("patient_key")["split"].nunique().max() == 1

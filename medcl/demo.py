"""`medcl demo`: a made cohort through the whole path, from raw scans to a backbone and a page."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from medcl.api import Run, Study, evaluate, pretrain
from medcl.foundation.files import CARD
from medcl.foundation.progress import Progress, Silent
from medcl.ingest.run import ingest
from medcl.reporting.page import write_report
from medcl.run_config import load_pretrain
from medcl.store.prepare import prepare
from medcl.store.recipe import load_recipe
from medcl.views.audit import preview_store

PATIENTS, XRAY_PATIENTS = 600, 480
MINUTES = 10


@dataclass(frozen=True)
class Demo:
    """A finished demo. page: the HTML file to open. lines: what was done, where things are, what to try next."""

    page: Path
    lines: list[str]


def demo(out: Path | str, minutes: float = MINUTES, progress: Progress | None = None) -> Demo:
    """Run everything once, small; the same call again goes on where it stopped.

    minutes: how long it may take on two cores; training and study grow and shrink with it, the cohort stays. Every figure on the page is
    measured on the way, none is shipped.
    """
    out, progress = Path(out), progress or Silent()
    made = import_module("made_cohort")
    settings = Path(made.__file__ or "").parent
    steps = _Steps(progress)
    cohort = out / "cohort"
    if not (cohort / "done").exists():
        steps.say(f"making a cohort of {PATIENTS} patients: CT as DICOM, X-rays with reports, a few broken files")
        _make(made.make, cohort)
    for name, recipe in (("ct", settings / "ct_recipe.yaml"), ("xray", settings / "xray_recipe.yaml")):
        steps.say(f"{name}: ingest, prepare, preview")
        _ingest_and_prepare(cohort, out / name, name, str(recipe), progress)
    share = minutes / MINUTES
    steps.say("pretraining on CT without labels: MoCo")
    ct = _pretrain(settings / "ct_moco.yaml", out, "ct", share, progress)
    steps.say("pretraining on X-rays with their reports: ConVIRT")
    xray = _pretrain(settings / "xray_convirt.yaml", out, "xray", share, progress)
    steps.say("the study: how many labels does the CT backbone save?")
    study = _evaluate(settings / "ct_study.yaml", out, ct, progress)
    steps.say("retrieval: does ConVIRT find the report of an X-ray?")
    retrieval = _evaluate(settings / "xray_study.yaml", out, xray, progress)
    page = out / "page.html"
    write_report([study.folder, retrieval.folder, ct.folder, xray.folder], page)
    return Demo(page, _lines(out, page, steps.seconds(), [*study.lines, *retrieval.lines]))


class _Steps:
    """Says which step begins, numbered, and how long all of it took."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.count, self.start = progress, 0, time.monotonic()

    def say(self, what: str) -> None:
        self.count += 1
        self.progress.say(f"[{self.count}] {what}")

    def seconds(self) -> float:
        return time.monotonic() - self.start


def _make(make: Callable[..., Any], cohort: Path) -> None:
    """Made whole or not at all: an unfinished cohort is thrown away and made again."""
    shutil.rmtree(cohort, ignore_errors=True)
    make(cohort, PATIENTS, xray_patients=XRAY_PATIENTS, mr_patients=0)
    (cohort / "done").touch()


def _ingest_and_prepare(cohort: Path, out: Path, name: str, recipe: str, progress: Progress) -> None:
    data, store = out / "data", out / "store"
    if not (data / CARD).is_file():
        ingest(
            [cohort / name], data, reports=cohort / f"{name}_reports.csv", labels=cohort / f"{name}_labels.csv", jobs=2, progress=progress
        )
    if not (store / CARD).is_file():
        prepare(data, store, load_recipe(recipe), jobs=2, progress=progress)
    if not (out / "preview" / "index.html").is_file():
        preview_store(store, out / "preview", paired=name == "xray", count=4, progress=progress)


def _pretrain(settings: Path, out: Path, name: str, share: float, progress: Progress) -> Run:
    steps = int(load_pretrain(settings).training.num_steps * share)
    overrides = {"store": str(out / name / "store"), "training.num_steps": max(20, steps)}
    return pretrain(settings, overrides, out=out / name / "run", progress=progress)


def _evaluate(settings: Path, out: Path, run: Run, progress: Progress) -> Study:
    name = run.folder.parent
    overrides = {"data": str(name / "store"), "inits.pretrained": str(run.backbone)}
    return evaluate(settings, overrides, out=name / "study", jobs=2, progress=progress)


def _lines(out: Path, page: Path, seconds: float, findings: list[str]) -> list[str]:
    return [
        *findings,
        f"made cohort: {out / 'cohort'}; what became of each file: {out / 'ct' / 'data' / 'ledger.parquet'}",
        f"contact sheets: {out / 'ct' / 'preview' / 'index.html'}, {out / 'xray' / 'preview' / 'index.html'}",
        f"backbones: {out / 'ct' / 'run' / 'backbone'}, {out / 'xray' / 'run' / 'backbone'}; curves: tensorboard --logdir {out}",
        f"page: {page} (all of it in {seconds / 60:.1f} minutes)",
    ]

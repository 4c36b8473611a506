"""How long a study takes after its embeddings: 3 initialisations x 4 fractions x 5 draws x (kNN + linear probe) on PneumoniaMNIST.

python -m benchmarks.study_speed --data .../pneumoniamnist_rebuilt.npz [--jobs 2] [--out reports/statistics/study_speed.md]

The initialisations are three ResNet-18 of width 32 with random weights of their own; the raw-pixel floor is a fourth. Timed apart: the
embeddings, the fits, and what is concluded from them (intervals, tests, page). Beside ours, in the same run and on the same
embeddings and draws: scikit-learn's logistic regression, the same strengths, validation choosing.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from medcl.encoders import ResNetConfig, build_seeded
from medcl.evaluation.jobs import Jobs, fill
from medcl.evaluation.linear import STRENGTHS
from medcl.evaluation.settings import StudyConfig
from medcl.evaluation.study import OpenStudy, begin_study, run_study
from medcl.foundation.config import validate
from medcl.foundation.progress import Silent
from medcl.ingest.run import ingest
from medcl.reporting.page import write_study_page
from medcl.store.prepare import prepare
from medcl.store.recipe import load_recipe
from medcl.training.launch import one_thread

ENCODER = ResNetConfig(depth=18, spatial_dims=2, width=32, stem_kernel=3, stem_stride=1)


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description="Seconds of a study without fine-tunes.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, one_thread():
        folder = Path(place)
        config, out = _study(said.data, folder), folder / "study"
        timed: dict[str, tuple[float, float]] = {}
        study = begin_study(config, out, Silent())
        timed["embeddings"] = _time(lambda: [study.make_ready(name) for name in study.unready()])
        timed["fits"] = _time(partial(fill, study, Jobs(said.jobs)))
        timed["conclusions"] = _time(partial(_conclude, config, out))
        timed["again"] = _time(partial(_again, study))
        ours = _time(partial(_probes, study, _ours))
        theirs = _time(partial(_probes, study, _theirs))
        text = _text(timed, ours, theirs, len(study.keys), said.jobs)
    print(text)
    if said.out is not None:
        said.out.parent.mkdir(parents=True, exist_ok=True)
        said.out.write_text(text + "\n", encoding="utf-8")


def _study(data: Path, folder: Path) -> StudyConfig:
    ingest([data], folder / "data", jobs=2)
    prepare(folder / "data", folder / "store", load_recipe("xray"), jobs=2)
    for seed in (1, 2):
        save_file(build_seeded(ENCODER, seed=seed).state_dict(), folder / f"seed{seed}.safetensors")
    inits: dict[str, Any] = {"random": ENCODER.model_dump()}
    inits |= {f"seed{seed}": {"weights": str(folder / f"seed{seed}.safetensors"), "encoder": ENCODER.model_dump()} for seed in (1, 2)}
    content = {"data": str(folder / "store"), "task": {"name": "classification", "label": "label"}, "inits": inits}
    content |= {"modes": ["knn", "linear"], "views": {"policy": "xray", "size": [28, 28]}, "recipe": "xray"}
    return validate(StudyConfig, content, "study_speed")


def _conclude(config: StudyConfig, out: Path) -> None:
    """What is left of `medcl evaluate` where every fit is there."""
    run_study(config, out, before_card=write_study_page)


def _time(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall, and of this process's processor."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - used


def _again(study: OpenStudy) -> None:
    """Every fit once more, kept nowhere."""
    for key in study.keys:
        study.frozen_fits(key.init).fit(key.mode, study.draws.rows[key.fraction, key.draw])


def _probes(study: OpenStudy, probe: Callable[[OpenStudy, str, np.ndarray], None]) -> None:
    """The linear probes of the three initialisations, one after another."""
    for key in study.keys:
        if key.mode == "linear" and key.init != "pixels":
            probe(study, key.init, study.draws.rows[key.fraction, key.draw])


def _ours(study: OpenStudy, name: str, rows: np.ndarray) -> None:
    study.frozen_fits(name).fit("linear", rows)


def _theirs(study: OpenStudy, name: str, rows: np.ndarray) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    features, label, val = study.frozen_fits(name).features, study.cases.target.label, study.draws.val
    model = LogisticRegression(tol=1e-6, max_iter=2000, warm_start=True)
    best = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        for strength in STRENGTHS:
            model.set_params(C=strength).fit(features[rows], label[rows])
            best = max(best, roc_auc_score(label[val], model.predict_proba(features[val])[:, 1]))


def _text(timed: dict[str, tuple[float, float]], ours: tuple[float, float], theirs: tuple[float, float], fits: int, jobs: int) -> str:
    embeddings, side_by_side, concluded, again = timed.values()
    lines = [
        f"{fits} fits; {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} when done.",
        "",
        "| what | s on the wall | s of the processor |",
        "|---|---|---|",
        f"| embeddings | {embeddings[0]:.1f} | {embeddings[1]:.1f} |",
        f"| fits, {jobs} processes and their start | {side_by_side[0]:.1f} | in other processes |",
        f"| intervals, tests, tables, page | {concluded[0]:.1f} | {concluded[1]:.1f} |",
        f"| **all after the embeddings** | **{side_by_side[0] + concluded[0]:.1f}** | |",
        f"| the same fits in this process | {again[0]:.1f} | {again[1]:.1f} |",
        "",
        "The aim is 90 s on the wall after the embeddings.",
        "",
        "| linear probes, 3 initialisations x (3 fractions x 5 draws + 1) x 7 strengths, one thread | s of the processor |",
        "|---|---|",
        f"| L-BFGS along the principal axes (ours) | {ours[1]:.1f} |",
        f"| scikit-learn's LogisticRegression, warm start | {theirs[1]:.1f} |",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

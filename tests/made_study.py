"""A made study: predictions whose quality grows with the labels, as if encoders had been trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medcl.evaluation.closeup import look_closer
from medcl.evaluation.facts import CLOSEUP, FACTS, MAP, NEIGHBOURS, embedding_map, neighbour_sheet, put_picture, versions
from medcl.evaluation.fits import Fit, FitKey
from medcl.evaluation.scores import Predictions
from medcl.evaluation.subgroups import Grouping
from medcl.evaluation.summary import Plan, summarise, write_summary
from medcl.evaluation.targets import Colouring
from medcl.foundation.files import write_card, write_json

FRACTIONS = (0.01, 0.05, 0.1, 1.0)
SKILL = {"random": (0.3, 0.8, 1.1, 1.6), "moco": (1.2, 2.0, 2.2, 2.4), "simclr": (0.6, 1.1, 1.4, 1.75)}


def made_plan(inits: tuple[str, ...] = ("random", "moco", "simclr"), modes: tuple[str, ...] = ("linear", "finetune"), **changes) -> Plan:
    """The plan of the made study."""
    content = {"task": "classification", "metric": "auroc", "inits": inits, "modes": modes, "fractions": FRACTIONS}
    return Plan(**{**content, "reference": "random", "resamples": 300, "seed": 0, **changes})


def made_fits(
    plan: Plan, draws: int = 5, cases: int = 240, train: int = 800, signal: float = 1.0
) -> tuple[list[Fit], dict[str, np.ndarray]]:
    """Fits of every (init, mode, fraction, draw), and the patients of the test cases by mode."""
    rng = np.random.default_rng(7)
    label = np.arange(cases) % 2
    patient = np.array([f"p{case // 2:03d}" for case in range(cases)])
    shared = rng.normal(size=cases)
    fits = []
    for init in plan.inits:
        for mode in plan.modes:
            for place, fraction in enumerate(plan.fractions):
                for draw in range(draws):
                    skill = signal * (SKILL[init][place] - (0.2 if mode == "linear" else 0.0) + rng.normal(0, 0.15))
                    logit = skill * (label - 0.5) * 1.2 + 0.8 * shared + 0.6 * rng.normal(size=cases)
                    p = 1 / (1 + np.exp(-logit))
                    outcome = Predictions(np.stack([1 - p, p], 1), label, np.array([0.5, 0.5]))
                    count = round(fraction * train)
                    fits.append(Fit(FitKey(init, mode, fraction, draw), count, count, outcome, {"strength": 0.01}, 0.8))
    return fits, dict.fromkeys(plan.modes, patient)


def made_groupings(name: str = "scanner A") -> list[Grouping]:
    """Sex (known of most), age (one band too small), and a scanner whose name the user chose."""
    case = np.arange(240)
    sex = np.where(case // 2 % 10 == 9, -1, case // 2 % 2)
    age = np.where(case < 100, 0, np.where(case < 228, 1, -1))
    return [
        Grouping("sex", ("female", "male"), sex, 0, 24),
        Grouping("age", ("18-39", "40-64"), age, 1, 0),
        Grouping("scanner", (name, "scanner B"), (case > 200).astype(int), 0, 0),
    ]


def _picture(row: int, label: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[:90, :70]
    return np.exp(-((rows - 45 - row % 9) ** 2 + (columns - 35) ** 2) / (300.0 + 500 * label[row]))


def write_made_study(
    folder: Path, *, title: str = "pneumonia", transductive: bool = False, group_name: str = "scanner A", **changes
) -> Path:
    """A STUDY folder as `run_study` leaves it before the page is made."""
    plan = made_plan(**{"modes": ("knn", "linear", "finetune"), **changes})
    fits, patient = made_fits(plan)
    write_summary(folder, summarise(plan, fits, patient))
    rng = np.random.default_rng(1)
    label = np.arange(400) % 2
    embeddings = {
        name: rng.normal(size=(400, 8)) + skill * label[:, None] for name, skill in zip(plan.inits, (0.3, 1.5, 0.9), strict=False)
    }
    train, test = np.arange(160), np.arange(160, 400)
    by = Colouring("", ("0", "1"), label)
    sheet = neighbour_sheet(embeddings, train, test, by)
    for row in map(int, sheet["label"]):
        put_picture(sheet, row, _picture(row, label))
    closeup = look_closer(plan, fits, patient, made_groupings(group_name)) | {"side": 72, "pictures": {}}
    for found in closeup["hardest"]:
        put_picture(closeup, found["case"], _picture(found["case"], label[test]))
    write_json(folder / CLOSEUP, closeup)
    write_json(folder / MAP, embedding_map(embeddings, train, test, [by]))
    write_json(folder / NEIGHBOURS, sheet)
    write_json(folder / FACTS, _facts(plan, title, transductive))
    write_card(folder, "study", inputs={"store": "0" * 64}, settings={"seed": 0}, counts={"fits": len(fits)})
    return folder


def _facts(plan: Plan, title: str, transductive: bool) -> dict:
    part = {"cases": 240, "patients": 120, "per_class": [120, 120]}
    encoder = "ResNet-18, 2D"
    inits: dict = {"random": {"kind": "random", "words": f"{encoder}, random weights", "dim": 512}}
    for name in plan.inits[1:]:
        inits[name] = {"kind": "backbone", "words": f"{encoder}, pretrained by {name}", "method": name, "steps": 2000, "world_batch": 256}
        inits[name] |= {
            "dim": 512,
            "weights": "ab" * 32,
            "policy": "xray",
            "licence": "CC BY 4.0",
            "overrides": {"gamma": "display values"},
        }
    refusal = {
        "fraction": 0.001,
        "num_patients": 1,
        "needed_patients": 6,
        "needed_fraction": 0.0075,
        "reason": "fewer than 2 patients of class 0",
    }
    return {
        "title": title,
        "task": {"name": "classification", "label": title, "classes": ["0", "1"]},
        "metric": plan.metric,
        "reference": plan.reference,
        "transductive": transductive,
        "parts": {
            "origin": "the data's own train, validation and test parts",
            "train": {**part, "cases": 800, "patients": 800},
            "val": part,
            "test": part,
        },
        "refused": [refusal],
        "notes": [],
        "inits": inits,
        "modes": list(plan.modes),
        "protocol": {"draws": 5, "resamples": plan.resamples, "lines": ["Linear probe: strength from 7 values, chosen on validation."]},
        "leaks": "no test patient and no test image was in any pretraining set (moco, simclr).",
        "settings": {"data": "data/pneumonia", "draws": 5, "fractions": list(plan.fractions)},
        "versions": versions(),
        "hashes": {"store": "cd" * 32},
    }

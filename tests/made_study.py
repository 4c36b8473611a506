"""A made study: predictions whose quality grows with the labels, as if encoders had been trained."""

from __future__ import annotations

import numpy as np

from medcl.evaluation.fits import Fit, FitKey
from medcl.evaluation.scores import Predictions
from medcl.evaluation.summary import Plan

FRACTIONS = (0.01, 0.05, 0.1, 1.0)
SKILL = {"random": (0.3, 0.8, 1.1, 2.0), "moco": (1.2, 2.0, 2.2, 2.6), "simclr": (0.6, 1.2, 1.6, 2.1)}


def made_plan(inits: tuple[str, ...] = ("random", "moco", "simclr"), modes: tuple[str, ...] = ("linear", "finetune"), **changes) -> Plan:
    """The plan of the made study."""
    content = {"task": "classification", "metric": "auroc", "inits": inits, "modes": modes, "fractions": FRACTIONS}
    return Plan(**{**content, "reference": "random", "resamples": 300, "seed": 0, **changes})


def made_fits(plan: Plan, draws: int = 5, cases: int = 240, train: int = 800, signal: float = 1.0) -> tuple[list[Fit], np.ndarray]:
    """Fits of every (init, mode, fraction, draw), and the patient of every test case."""
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
                    logit = skill * (label - 0.5) * 1.6 + 0.8 * shared + 0.6 * rng.normal(size=cases)
                    p = 1 / (1 + np.exp(-logit))
                    outcome = Predictions(np.stack([1 - p, p], 1), label, np.array([0.5, 0.5]))
                    count = round(fraction * train)
                    fits.append(Fit(FitKey(init, mode, fraction, draw), count, count, outcome, {"strength": 0.01}, 0.8))
    return fits, patient

"""Do a study's intervals hold what they promise? 400 simulated studies of each kind, beside an image-level bootstrap.

Run: python benchmarks/study_calibration.py [--studies 400] [--out reports/statistics/calibration.md]

A simulated study is a test set of 120 patients with one to three cases each (the label is the patient's), five draws of
labelled patients, and two initialisations. The score of a case is

    s = mu(init, draw) y + b u(patient) + c v(case) + e w(init, draw, case),     b^2 + c^2 + e^2 = 1,

all of u, v, w standard normal, mu(init, draw) normal around m(init) with standard deviation tau (half of its variance
shared by the initialisations, which are trained on the same draw). So the expected AUROC is known:
E Phi(mu / sqrt 2) = Phi(m / sqrt(2 + tau^2)), and where m is the same for both, the true difference is zero.
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm

from medcl.evaluation import statistics
from medcl.evaluation.scores import Predictions
from medcl.evaluation.statistics import Estimate, Outcome, Resamples
from medcl.foundation.randomness import generator

PATIENTS, DRAWS, RESAMPLES = 120, 5, 1000
PATIENT_SHARE, CASE_SHARE = 0.5, 0.2  # b^2 and c^2
TAUS = (0.0, 0.2, 0.5)
EFFECTS = (0.0, 0.15, 0.3, 0.45, 0.6)
FRACTIONS = np.array([0.01, 0.05, 0.1, 1.0])


@dataclass(frozen=True)
class Simulated:
    """One study's test set. patient, label: (cases,); outcomes: per initialisation one per draw."""

    patient: np.ndarray
    label: np.ndarray
    outcomes: tuple[list[Outcome], ...]


def simulate(key: tuple[int, ...], means: tuple[float, ...], tau: float) -> Simulated:
    """One study; `means`: m of each initialisation."""
    draw = generator(0, "study calibration", *key)
    patient = np.repeat(np.arange(PATIENTS), draw.integers(1, 4, PATIENTS))
    label = (np.arange(PATIENTS) % 2)[patient]
    shared = np.sqrt(PATIENT_SHARE) * draw.normal(size=PATIENTS)[patient] + np.sqrt(CASE_SHARE) * draw.normal(size=len(patient))
    of_draw = draw.normal(size=DRAWS)
    found: list[list[Outcome]] = []
    for mean in means:
        outcomes: list[Outcome] = []
        for number in range(DRAWS):
            mu = mean + tau * (of_draw[number] + draw.normal()) / np.sqrt(2)
            score = mu * label + shared + np.sqrt(1 - PATIENT_SHARE - CASE_SHARE) * draw.normal(size=len(patient))
            probability = norm.cdf(score)
            outcomes.append(Predictions(np.stack([1 - probability, probability], axis=1), label, np.array([0.5, 0.5])))
        found.append(outcomes)
    return Simulated(patient, label, tuple(found))


def estimate_of(outcomes: list[Outcome], resamples: Resamples) -> Estimate:
    """AUROC as a study estimates it."""
    cases = resamples.patients.shape[1]
    values = np.array([statistics.score_once(outcome, cases)["auroc"] for outcome in outcomes])
    return statistics.estimate(
        values, np.stack([statistics.score(outcome, resamples.patients)["auroc"] for outcome in outcomes]), resamples
    )


def coverage(studies: int, tau: float) -> dict[str, float]:
    """Shares of studies whose intervals hold the truth: AUROC and difference, patients or images resampled, and p < 0.05."""
    mean = 0.8
    truth = norm.cdf(mean / np.sqrt(2 + tau**2))
    hits: dict[str, list[bool]] = {name: [] for name in ("auroc", "difference", "images", "images_difference", "p")}
    for study in range(studies):
        made = simulate((study, round(100 * tau)), (mean, mean), tau)
        for name, units in (("", made.patient), ("images", np.arange(len(made.patient)))):
            resamples = statistics.resample_patients(units, RESAMPLES, study)
            one, other = (estimate_of(outcomes, resamples) for outcomes in made.outcomes)
            low, high = one.interval()
            hits[name or "auroc"].append(bool(low <= truth <= high))
            low, high = statistics.difference(one, other).interval()
            hits[f"{name}_difference".lstrip("_")].append(bool(low <= 0 <= high))
        hits["p"].append(p_value(made, study) < 0.05)
    return {name: float(np.mean(values)) for name, values in hits.items()}


def p_value(made: Simulated, seed: int) -> float:
    """The study's permutation test of the difference in AUROC."""
    return statistics.permutation_p(made.outcomes[0], made.outcomes[1], made.patient, RESAMPLES, seed)["auroc"]


def power(studies: int, effect: float, tau: float) -> tuple[float, float]:
    """(share of studies with p < 0.05, power of a z test that knew the spread) for a planted difference of the means.

    The second is computed: the mean difference over draws is normal, its mean and spread those of the simulated studies.
    A study has to learn the spread of draws from five of them, so it must stay below.
    """
    differences, rejected = [], []
    for study in range(studies):
        made = simulate((study, round(100 * tau), round(100 * effect)), (0.8 + effect, 0.8), tau)
        cases = len(made.patient)
        auroc = [[statistics.score_once(outcome, cases)["auroc"] for outcome in outcomes] for outcomes in made.outcomes]
        differences.append(np.mean(auroc[0]) - np.mean(auroc[1]))
        rejected.append(p_value(made, study) < 0.05)
    shift = abs(np.mean(differences)) / np.std(differences)
    return float(np.mean(rejected)), float(norm.sf(norm.isf(0.025) - shift) + norm.cdf(-norm.isf(0.025) - shift))


def savings_claimed(studies: int, tau: float) -> tuple[float, float]:
    """Shares of studies that claim a label saving where labels say nothing, and where nothing is gained by pretraining.

    First: all AUROC are 0.5, so the reference is not above chance. Second: both curves rise alike from m = 0.5 to 1.1.
    """
    claims = np.zeros((studies, 2), dtype=bool)
    for study in range(studies):
        for kind, means in enumerate((np.zeros(4), np.linspace(0.5, 1.1, 4))):
            made = simulate((study, kind, 7), tuple(np.concatenate([means, means[-1:]])), tau)
            resamples = statistics.resample_patients(made.patient, RESAMPLES, study)
            *curve, target = [estimate_of(outcomes, resamples) for outcomes in made.outcomes]
            saving = statistics.label_saving(FRACTIONS, curve, target)
            claims[study, kind] = target.interval()[0] > 0.5 and saving.fraction is not None and saving.high < 1.0
    return float(claims[:, 0].mean()), float(claims[:, 1].mean())


def main() -> None:
    """Simulate, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("reports/statistics/calibration.md"))
    given = parser.parse_args()
    start = time.process_time()
    lines = [
        f"{given.studies} simulated studies in each row; {PATIENTS} patients with 1 to 3 cases, {DRAWS} draws, {RESAMPLES} resamples.",
        f"A share of {given.studies} has a standard error of {100 * np.sqrt(0.05 * 0.95 / given.studies):.1f} points near 95%.",
        "",
        "## Two initialisations that are equally good: how many 95% intervals hold the truth",
        "",
        "| tau: how much draws differ | AUROC | difference | p < 0.05 | AUROC, images resampled | difference, images resampled |",
        "|---|---|---|---|---|---|",
    ]
    for tau in TAUS:
        found = coverage(given.studies, tau)
        shown = [f"{100 * found[name]:.1f}%" for name in ("auroc", "difference", "p", "images", "images_difference")]
        lines.append(f"| {tau:g} | " + " | ".join(shown) + " |")
    lines += ["", "## A planted difference: how often it is found (p < 0.05), and the power of a z test that knew the spread", ""]
    lines += ["| tau | planted difference of the means | found | z test |", "|---|---|---|---|"]
    for tau in TAUS[:2]:
        for effect in EFFECTS:
            found_share, most = power(given.studies, effect, tau)
            lines.append(f"| {tau:g} | {effect:g} | {100 * found_share:.1f}% | {100 * most:.1f}% |")
    nothing, alike = savings_claimed(given.studies, TAUS[1])
    lines += ["", "## Label savings claimed where there are none", "", "| what | claimed |", "|---|---|"]
    lines += [f"| labels say nothing (every AUROC is 0.5) | {100 * nothing:.1f}% |"]
    lines += [f"| both curves are the same | {100 * alike:.1f}% |", ""]
    lines.append(f"{time.process_time() - start:.0f} s of CPU; {platform.machine()}, numpy {np.__version__}.")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

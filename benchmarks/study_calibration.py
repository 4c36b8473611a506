"""Do a study's intervals hold what they promise? 400 simulated studies of each kind, beside an image-level bootstrap.

Run: python benchmarks/study_calibration.py [--studies 400] [--jobs 2] [--out reports/statistics/calibration.md]

A simulated study is a test set of 120 patients with one to three cases each (the label is the patient's), five draws of
labelled patients, and two initialisations. The score of a case is

    s = mu(init, draw) y + b u(patient) + c v(case) + e w(init, draw, case),     b^2 + c^2 + e^2 = 1,

all of u, v, w standard normal (in one table u is u(init, patient): each initialisation finds patients of its own hard),
mu(init, draw) normal around m(init) with standard deviation tau (half of its variance shared by the initialisations, which
are trained on the same draw). So the expected AUROC is known: E Phi(mu / sqrt 2) = Phi(m / sqrt(2 + tau^2)), and where m is
the same for both, the true difference is zero. Where m is 0, labels say nothing: that is what permuting them does.
"""

from __future__ import annotations

import argparse
import platform
import resource
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, norm

from medcl.evaluation import statistics
from medcl.evaluation.delong import compare_aurocs
from medcl.evaluation.learning_curve import Law, NoLaw, fit_law
from medcl.evaluation.scores import Predictions, ranking
from medcl.evaluation.statistics import Estimate, Outcome, Resamples
from medcl.foundation.randomness import generator

PATIENTS, DRAWS, RESAMPLES, PERMUTATIONS = 120, 5, 600, 400
PATIENT_SHARE, CASE_SHARE = 0.5, 0.2  # b^2 and c^2
SETTINGS = ((0.0, 0.2), (0.8, 0.0), (0.8, 0.2), (0.8, 0.5))  # m and tau
EFFECTS = (0.0, 0.15, 0.3, 0.45, 0.6)
FRACTIONS = np.array([0.01, 0.05, 0.1, 1.0])
NUMBERS = ("auroc", "auprc", "balanced_accuracy", "f1", "brier", "ece")
PROMISED = (0.93, 0.97)
LAW_WORDS = {"between": "between the fractions", "twice": "at twice the labels", "refused": "no law shown, for it misses a point"}


@dataclass(frozen=True)
class Simulated:
    """One study's test set. patient, label: (cases,); outcomes: per initialisation one per draw."""

    patient: np.ndarray
    label: np.ndarray
    outcomes: tuple[list[Outcome], ...]


def simulate(key: tuple[int, ...], means: tuple[float, ...], tau: float, own_patients: bool = False) -> Simulated:
    """One study; `means`: m of each initialisation; own_patients: u is of each initialisation."""
    draw = generator(0, "study calibration", *key)
    patient = np.repeat(np.arange(PATIENTS), draw.integers(1, 4, PATIENTS))
    label = (np.arange(PATIENTS) % 2)[patient]
    of_patient = np.sqrt(PATIENT_SHARE) * draw.normal(size=PATIENTS)[patient]
    of_case = np.sqrt(CASE_SHARE) * draw.normal(size=len(patient))
    of_draw = draw.normal(size=DRAWS)
    found: list[list[Outcome]] = []
    for mean in means:
        outcomes: list[Outcome] = []
        if own_patients:
            of_patient = np.sqrt(PATIENT_SHARE) * draw.normal(size=PATIENTS)[patient]
        for number in range(DRAWS):
            mu = mean + tau * (of_draw[number] + draw.normal()) / np.sqrt(2)
            score = mu * label + (of_patient + of_case) + np.sqrt(1 - PATIENT_SHARE - CASE_SHARE) * draw.normal(size=len(patient))
            probability = norm.cdf(score - mu / 2)
            outcomes.append(Predictions(np.stack([1 - probability, probability], axis=1), label, np.array([0.5, 0.5])))
        found.append(outcomes)
    return Simulated(patient, label, tuple(found))


def estimates_of(outcomes: list[Outcome], resamples: Resamples) -> dict[str, Estimate]:
    """Every number as a study estimates it."""
    cases = resamples.patients.shape[1]
    once = [statistics.score_once(outcome, cases) for outcome in outcomes]
    often = [statistics.score(outcome, resamples.patients) for outcome in outcomes]
    return {
        name: statistics.estimate(np.array([one[name] for one in once]), np.stack([one[name] for one in often]), resamples)
        for name in NUMBERS
    }


def coverage(studies: int, mean: float, tau: float, own_patients: bool = False) -> dict[str, np.ndarray]:
    """For every study whether its interval holds the truth: name -> (studies,).

    `auroc` against its expected value, `difference of NUMBER` against zero; `images` before the name where images, not
    patients, are resampled; `p` where the permutation test of the AUROC finds p < 0.05.
    """
    truth = float(norm.cdf(mean / np.sqrt(2 + tau**2)))
    hits: dict[str, list[bool]] = {}

    def note(name: str, estimate: Estimate, at: float) -> None:
        low, high = estimate.interval()
        hits.setdefault(name, []).append(bool(low <= at <= high))

    for study in range(studies):
        made = simulate((study, round(100 * tau), round(10 * mean)), (mean, mean), tau, own_patients)
        for start, units in (("", made.patient), ("images ", np.arange(len(made.patient)))):
            resamples = statistics.resample_patients(units, RESAMPLES, study)
            one, other = (estimates_of(outcomes, resamples) for outcomes in made.outcomes)
            note(f"{start}auroc", one["auroc"], truth)
            for name in NUMBERS:
                note(f"{start}difference of {name}", statistics.difference(one[name], other[name]), 0.0)
        hits.setdefault("p", []).append(p_value(made, study) < 0.05)
    return {name: np.array(values) for name, values in hits.items()}


def p_value(made: Simulated, seed: int) -> float:
    """The study's permutation test of the difference in AUROC."""
    return statistics.permutation_p(made.outcomes[0], made.outcomes[1], made.patient, PERMUTATIONS, seed)["auroc"]


def power(studies: int, effect: float, tau: float) -> tuple[np.ndarray, float]:
    """Whether each study finds (p < 0.05) a planted difference of the means, and how often it should: see `computed_power`."""
    means = (0.8 + effect, 0.8)
    found = [p_value(simulate((study, round(100 * tau), 1000 + round(100 * effect)), means, tau), study) < 0.05 for study in range(studies)]
    return np.array(found), computed_power(means, tau)


def computed_power(means: tuple[float, float], tau: float, studies: int = 3000) -> float:
    """Power of the test that normal theory gives, from the planted means and what 3000 other test sets say of the spread.

    The difference of a draw is delta + what all draws of a study share + its own part; delta is known. The test rejects
    where the mean over draws exceeds the 97.5% point of shared + own / sqrt(draws) * t, t with draws - 1 degrees of
    freedom, the spread of the own part being learned from the draws.
    """
    delta = float(np.subtract(*norm.cdf(np.array(means) / np.sqrt(2 + tau**2))))
    apart = np.zeros((studies, DRAWS))
    for study in range(studies):
        made = simulate((study, round(100 * tau), 5000 + round(100 * means[0])), means, tau)
        scores = [[ranking(_score(fit), made.label == 1, np.ones((1, len(made.label))))[0][0] for fit in arm] for arm in made.outcomes]
        apart[study] = np.subtract(*np.array(scores))
    own = float(np.mean(np.var(apart, axis=1, ddof=1)))
    shared = max(float(np.var(apart.mean(1), ddof=1)) - own / DRAWS, 0.0)
    random = generator(0, "computed power")
    learned = np.sqrt(own * random.chisquare(DRAWS - 1, 400) / (DRAWS - 1) / DRAWS)
    noise = np.sqrt(shared) * random.normal(size=20_000)
    t = random.standard_t(DRAWS - 1, 20_000)
    limits = np.array([np.quantile(np.abs(noise + spread * t), 0.95) for spread in learned])
    spread = np.sqrt(shared + own / DRAWS)
    return float(np.mean(norm.sf((limits - delta) / spread) + norm.cdf((-limits - delta) / spread)))


def _score(outcome: Outcome) -> np.ndarray:
    assert isinstance(outcome, Predictions)
    return outcome.probabilities[:, 1]


def single_fits(studies: int) -> dict[str, np.ndarray]:
    """One fit on each side, one case for each patient, nothing between them: whether DeLong and the permutation find p < 0.05."""
    found: dict[str, list[bool]] = {"delong": [], "permutation": []}
    for study in range(studies):
        made = simulate((study, 1, 77), (0.8, 0.8), 0.0)
        first = np.unique(made.patient, return_index=True)[1]
        pair = [arm[0] for arm in made.outcomes]
        scores = [_score(outcome)[first] for outcome in pair]
        found["delong"].append(compare_aurocs(scores[0], scores[1], made.label[first] == 1).p_value < 0.05)
        ones, others = ([Predictions(np.stack([1 - score, score], 1), made.label[first], np.array([0.5, 0.5]))] for score in scores)
        found["permutation"].append(statistics.permutation_p([*ones], [*others], first, PERMUTATIONS, study)["auroc"] < 0.05)
    return {name: np.array(values) for name, values in found.items()}


def savings_claimed(studies: int, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether each study claims a label saving where labels say nothing, and where nothing is gained by pretraining.

    First: all AUROC are 0.5, so the reference is not above chance. Second: both curves rise alike from m = 0.5 to 1.1. A real study
    claims less still: there the reference itself must be better with all labels than with the fewest.
    """
    claims = np.zeros((2, studies), dtype=bool)
    for study in range(studies):
        for kind, means in enumerate((np.zeros(4), np.linspace(0.5, 1.1, 4))):
            made = simulate((study, kind, 7), tuple(np.concatenate([means, means[-1:]])), tau)
            resamples = statistics.resample_patients(made.patient, RESAMPLES, study)
            *curve, target = [estimates_of(outcomes, resamples)["auroc"] for outcomes in made.outcomes]
            saving = statistics.label_saving(FRACTIONS, curve, target)
            claims[kind, study] = target.interval()[0] > 0.5 and saving.fraction is not None and saving.high < 1.0
    return claims[0], claims[1]


def laws_covered(studies: int, tau: float) -> dict[str, np.ndarray]:
    """Whether the fitted learning curve's band holds the true law: between the fractions, and at twice the labels.

    `refused`: the studies in which no law was shown; they count in neither of the others.
    """
    n = np.array([8, 40, 80, 800])

    def law(at: float) -> float:
        return 0.9 - 0.04 * (at / n[-1]) ** -0.45

    means = tuple(np.sqrt(2 + tau**2) * norm.ppf([law(at) for at in n]))
    hits: dict[str, list[bool]] = {"between": [], "twice": [], "refused": []}
    for study in range(studies):
        made = simulate((study, 3, 7), means, tau)
        resamples = statistics.resample_patients(made.patient, RESAMPLES, study)
        found = fit_law(n, [estimates_of(outcomes, resamples)["auroc"] for outcomes in made.outcomes], 1.0)
        hits["refused"].append(isinstance(found, NoLaw))
        if isinstance(found, Law):
            place = int(np.searchsorted(found.n, 200))
            hits["between"].append(bool(found.low[place] <= law(found.n[place]) <= found.high[place]))
            hits["twice"].append(found.twice[1] <= law(2 * n[-1]) <= found.twice[2])
    return {name: np.array(values) for name, values in hits.items()}


def share(hits: np.ndarray) -> str:
    """A share of studies with its exact 95% (Clopper-Pearson) interval."""
    found = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, method="exact")
    return f"{100 * hits.mean():.1f}% [{100 * found.low:.1f}-{100 * found.high:.1f}]"


def coverage_tables(rows: dict[tuple[float, float], dict[str, np.ndarray]]) -> list[str]:
    """Tables of coverage, by m and tau: by patients, beside by images; and whether all is as promised."""
    lines = ["## Two initialisations that are equally good: how many 95% intervals hold the truth", ""]
    lines += ["| m | tau | AUROC | difference of AUROC | p < 0.05 | AUROC, images resampled | difference, images resampled |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for (mean, tau), found in rows.items():
        names = ("auroc", "difference of auroc", "p", "images auroc", "images difference of auroc")
        lines.append(f"| {mean:g} | {tau:g} | " + " | ".join(share(found[name]) for name in names) + " |")
    lines += ["", "The same for every number of a study (differences against zero, patients resampled):", ""]
    lines += ["| m | tau | " + " | ".join(NUMBERS[1:]) + " |", "|---|---|" + "---|" * len(NUMBERS[1:])]
    for (mean, tau), found in rows.items():
        lines.append(f"| {mean:g} | {tau:g} | " + " | ".join(share(found[f"difference of {name}"]) for name in NUMBERS[1:]) + " |")
    values = [found[name].mean() for found in rows.values() for name in found if name == "auroc" or name.startswith("difference")]
    outside = sum(not PROMISED[0] <= value <= PROMISED[1] for value in values)
    return [
        *lines,
        "",
        f"Of these {len(values)} shares by patients, {outside} lie outside the promised {PROMISED[0]:.0%} to {PROMISED[1]:.0%}.",
    ]


def own_patients_lines(found: dict[str, np.ndarray]) -> list[str]:
    """Coverage of the differences where each initialisation finds patients of its own hard."""
    lines = [
        "",
        "Where each initialisation finds patients of its own hard (m 0.8, tau 0.2), images mislead about differences, too:",
    ]
    lines += ["", "| difference of | patients resampled | images resampled |", "|---|---|---|"]
    names = [f"difference of {name}" for name in NUMBERS]
    return lines + [
        f"| {name.removeprefix('difference of ')} | {share(found[name])} | {share(found[f'images {name}'])} |" for name in names
    ]


def laws_lines(found: dict[str, np.ndarray]) -> list[str]:
    """How often the fitted curve's band holds the true law."""
    lines = ["## The fitted learning curve (tau 0.2): how often its 95% band holds the true law", "", "| where | share |", "|---|---|"]
    return [*lines, *(f"| {words} | {share(found[name])} |" for name, words in LAW_WORDS.items()), ""]


def main() -> None:
    """Simulate, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("reports/statistics/calibration.md"))
    given = parser.parse_args()
    with ProcessPoolExecutor(given.jobs) as pool:
        covered = {(mean, tau): pool.submit(coverage, given.studies, mean, tau) for mean, tau in SETTINGS}
        planted = {(tau, effect): pool.submit(power, given.studies, effect, tau) for tau in (0.0, 0.2) for effect in EFFECTS}
        apart, curves = pool.submit(coverage, given.studies, 0.8, 0.2, True), pool.submit(laws_covered, given.studies, 0.2)
        singles, claims = pool.submit(single_fits, given.studies), pool.submit(savings_claimed, given.studies, 0.2)
        for number, future in enumerate([*covered.values(), *planted.values(), singles, claims, apart, curves]):
            print(number, _shown(future), flush=True)
    lines = ["# Do a study's intervals hold what they promise?", "", "`benchmarks/study_calibration.py` says how the studies are made.", ""]
    lines += [
        f"{given.studies} simulated studies in each row; {PATIENTS} patients with 1 to 3 cases, {DRAWS} draws, {RESAMPLES} resamples, "
        f"{PERMUTATIONS} permutations. In brackets: the exact 95% interval of each share, for it stands on so many studies. m: what "
        "labels say (0: nothing, as when they are permuted); tau: how much draws differ. Resampling images is the warning: cases of "
        "one patient are not independent.",
        "",
        *coverage_tables({key: future.result() for key, future in covered.items()}),
        *own_patients_lines(apart.result()),
        "",
        "## A planted difference: how often it is found (p < 0.05), and how often normal theory says it should be",
        "",
        "| tau | planted difference of the means | found | computed |",
        "|---|---|---|---|",
    ]
    for (tau, effect), future in planted.items():
        found, expected = future.result()
        lines.append(f"| {tau:g} | {effect:g} | {share(found)} | {100 * expected:.1f}% |")
    lines += ["", "## One fit on each side, one case for each patient, no difference: p < 0.05", "", "| test | found |", "|---|---|"]
    lines += [f"| {name} | {share(hits)} |" for name, hits in singles.result().items()]
    nothing, alike = claims.result()
    lines += ["", "## Label savings claimed where there are none", "", "| what | claimed |", "|---|---|"]
    lines += [f"| labels say nothing (every AUROC is 0.5) | {share(nothing)} |"]
    lines += [f"| both curves are the same | {share(alike)} |", ""]
    lines += laws_lines(curves.result())
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    lines.append(f"{seconds:.0f} s of CPU; {platform.machine()}, numpy {np.__version__}.")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _shown(future: Future) -> str:
    """A result while the others are still being computed."""
    found = future.result()
    if isinstance(found, dict):
        return ", ".join(f"{name} {share(hits)}" for name, hits in found.items())
    return ", ".join(share(part) if isinstance(part, np.ndarray) else f"{100 * part:.1f}%" for part in found)


if __name__ == "__main__":
    main()

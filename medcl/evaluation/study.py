"""A study from settings to a whole folder: fit by fit, each kept as it is finished, so that it can stop and go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import medcl
from medcl.evaluation import facts as pages
from medcl.evaluation.embed import embed_init, is_embedded
from medcl.evaluation.finetune import Budget, FinetuneFits, field_maker
from medcl.evaluation.fits import Fit, FitFolder, FitKey, basis_of, hash_of_array
from medcl.evaluation.frozen import FrozenFits
from medcl.evaluation.initialisations import Initialisation, initialisations
from medcl.evaluation.leaks import LeakReport, Scored, check_leaks
from medcl.evaluation.retrieval import retrieve_from_run
from medcl.evaluation.segmentation import SegmentationFits, structures
from medcl.evaluation.settings import READS_TEXT, FinetuneConfig, RetrievalTask, SegmentationTask, StudyConfig
from medcl.evaluation.study_data import Stores, StudyCases, draw, hash_of_store, study_cases, write_draws
from medcl.evaluation.summary import FULLEST_FIRST, HEADLINE, RESULTS, SUMMARY, Plan, summarise, write_summary
from medcl.evaluation.supervised import learn_weights
from medcl.evaluation.targets import in_words
from medcl.evaluation.zero_shot import fit_nothing, questions
from medcl.foundation.errors import Stopped, UserError
from medcl.foundation.files import CARD, hash_of_folder, read_json, sha256_of_file, write_card, write_json
from medcl.foundation.progress import Progress, Silent
from medcl.training.launch import Place, StopRequest, here, one_thread

__all__ = ["StudyConfig", "StudyResult", "run_study"]

BEGUN = "begun.json"
TRAINED = ("finetune", "distill", "frozen")


@dataclass(frozen=True)
class StudyResult:
    """A finished study. headline: what `headline.json` says; lines: for a person."""

    folder: Path
    headline: dict[str, Any]
    lines: list[str]


def run_study(
    config: StudyConfig,
    out: Path | str,
    progress: Progress | None = None,
    *,
    before_card: Callable[[Path], object] | None = None,
    ahead: Callable[[OpenStudy], object] | None = None,
) -> StudyResult:
    """Run a study, or go on with it: fits that stand on the same data, weights and settings are not done again.

    before_card: called with the folder when everything but the card is written (it makes the page). ahead: called with the open study
    before the first fit (other processes fill its folder). Raises UserError for settings that do not fit the data or the folder,
    DataError for data that fail and for a leak, Stopped after a signal.
    """
    out, progress = Path(out), progress or Silent()
    with one_thread():
        study = begin_study(config, out, progress)
        if ahead is not None:
            ahead(study)
        return _conclude(study, study.fit_all(study.keys), before_card)


def begin_study(config: StudyConfig, out: Path, progress: Progress, alone: bool = True) -> OpenStudy:
    """Open the folder for a study. alone: whether no other process may be doing the same now."""
    _begin(config, out)
    return OpenStudy(config, out, progress, alone=alone)


def _conclude(study: OpenStudy, fits: list[Fit], before_card: Callable[[Path], object] | None) -> StudyResult:
    out = study.out
    summary = summarise(study.plan, fits, study.patients, study.progress)
    write_summary(out, summary)
    study.write_facts(fits)
    if before_card is not None:
        before_card(out)
    study.write_card(len(fits))
    return StudyResult(out, summary.headline, [*summary.headline["sentences"], f"{len(fits)} fits: {out / RESULTS}"])


def _begin(config: StudyConfig, out: Path) -> None:
    """Open the folder; the card of an earlier state goes, since the folder is about to change."""
    task = config.task.model_dump(mode="json", exclude={"prompts"})  # new prompts ask the same data anew
    content = {"data": hash_of_folder(config.data) if (config.data / CARD).is_file() else "", "task": task}
    there = [path.name for path in out.iterdir()] if out.is_dir() else []  # listed first: the tasks of an array begin at one moment
    if (out / BEGUN).is_file():
        if read_json(out / BEGUN) != content:
            raise UserError(f"--out {out}: this study was begun with other data or another task; take another --out")
    elif any(BEGUN not in name for name in there):
        raise UserError(f"--out {out}: exists and holds no study; name a new folder, or remove this one")
    elif content["data"]:
        write_json(out / BEGUN, content)
    (out / CARD).unlink(missing_ok=True)


class OpenStudy:
    """What the fits share."""

    def __init__(self, config: StudyConfig, out: Path, progress: Progress, *, place: Place | None = None, alone: bool = True) -> None:
        self.config, self.out, self.progress = config, out, progress
        self.stores = Stores(config.data, out, progress, alone)
        self.inits = initialisations(config, self.stores)
        self.place: Place = place or here()
        self.folder = FitFolder(out)
        opened = [init.store for init in self.inits]
        self.cases = study_cases(opened, config.task)
        if "zeroshot" in config.modes:
            questions(config.task, self.cases.classes)
        self.draws = draw(self.cases, _one_draw(config))
        self.inits = [self._trained_first(init) for init in self.inits]
        self.paired = self._paired()
        self.leaks = self._guard()
        self.draws_hash = write_draws(out, self.cases, self.draws)
        self.numbers = self._numbers()
        self.keys = [key for mode in config.modes for init in self.inits for key in self._keys(init, mode)]
        for mode in READS_TEXT:
            if mode in config.modes and mode not in {key.mode for key in self.keys}:
                raise UserError(f"modes: '{mode}' needs an init that read reports; give the RUN folder of a convirt pretraining")
        self._may_fit = True
        self._frozen: dict[str, FrozenFits] = {}
        self._fitters: dict[str, _Fitter] = {}
        self._embedded: dict[str, np.ndarray] = {}

    def _trained_first(self, init: Initialisation) -> Initialisation:
        """An init that begins with another label, with the weights that it learned from it."""
        if init.first is None:
            return init
        budget = Budget(self.config.finetune, self.place, self.config.seed)
        build = partial(init.build, self.config.seed)
        given = learn_weights(init.first, build, init.store, init.maker, self.cases, self.draws, budget, self.out)
        return replace(init, given=given)

    @property
    def plan(self) -> Plan:
        """What the summary must know."""
        config = self.config
        names = tuple(init.name for init in self.inits)
        fractions = tuple(sorted({key.fraction for key in self.keys}))
        return Plan(config.task.name, config.metric, names, config.modes, fractions, config.reference, config.resamples, config.seed)

    @property
    def patients(self) -> dict[str, np.ndarray]:
        """Patients of the test cases, by mode."""
        own = self.cases.cases.patient[self.draws.test]
        paired = self.paired.cases.patient[self._paired_test()] if self.paired else own
        return {mode: paired if mode == "retrieval" else own for mode in self.config.modes}

    def fit_all(self, keys: Sequence[FitKey]) -> list[Fit]:
        """The fits of these keys, one after another. Raises Stopped after a signal, everything finished kept."""
        fits = []
        with StopRequest() as stop:
            for key in self.progress.track(keys, len(keys), "fits"):
                fits.append(self.fit(key))
                if stop.reason is not None and len(fits) < len(keys):
                    raise Stopped(f"stopped by {stop.reason} after {len(fits)} of {len(keys)} fits; the same command goes on")
        return fits

    def fit(self, key: FitKey) -> Fit:
        """One fit, done now or before. Where a mode is tuned, `key.mode` may name one trial of it: `finetune@0.001`."""
        init = self._init(key.init)
        mode, _, rate = key.mode.partition("@")
        if rate:
            return self._trial(init, replace(key, mode=mode), float(rate))
        if mode == "retrieval":
            return self._retrieval(init, key)
        if mode == "zeroshot":
            return self._zero_shot(init, key)
        return self._tuned(init, key) if mode in TRAINED else self._on_embeddings(init, key)

    def stages(self) -> list[list[FitKey]]:
        """Everything to fit: what stands on nothing else, then what needs the learning rates that the first stage tries."""
        rates = self.config.finetune.learning_rates
        tuned = [key for key in self.keys if key.mode in TRAINED]
        trials = [replace(key, mode=_at(key.mode, rate)) for key in tuned if key.draw == 0 for rate in rates]
        return [[key for key in self.keys if key.mode not in TRAINED] + trials, [key for key in tuned if key.draw > 0]]

    def is_fitted(self, key: FitKey) -> bool:
        """Whether a fit, and what it stands on, is there already."""
        self._may_fit = False
        try:
            self.fit(key)
        except _NotFittedError:
            return False
        finally:
            self._may_fit = True
        return True

    def unready(self) -> list[str]:
        """Names of the inits whose embeddings are needed and not computed yet."""
        used = {key.init for key in self.keys if key.mode in ("knn", "linear")}
        return [init.name for init in self.inits if init.name in used and not is_embedded(init, self.config.seed, self.out)]

    def make_ready(self, name: str) -> None:
        """Compute and keep the embeddings of one init."""
        self.embeddings(self._init(name))

    def _init(self, name: str) -> Initialisation:
        return next(init for init in self.inits if init.name == name)

    def _keys(self, init: Initialisation, mode: str) -> list[FitKey]:
        config = self.config
        if mode in READS_TEXT:
            reads_text = init.backbone is not None and init.backbone.card["method"].get("name") == "convirt"
            return [FitKey(init.name, mode, 1.0 if mode == "retrieval" else 0.0, 0)] if reads_text else []
        if init.kind == "pixels" and mode != "linear":
            return []
        # With all labels a fit without randomness is the same in every draw: one is enough.
        return [
            FitKey(init.name, mode, fraction, number)
            for fraction in self.draws.fractions
            for number in range(config.draws)
            if number == 0 or fraction < 1 or mode in TRAINED
        ]

    # Frozen embeddings

    def embeddings(self, init: Initialisation) -> np.ndarray:
        """(cases, dim), in the order of the cases."""
        if init.name not in self._embedded:
            found = embed_init(init, self.config.seed, self.out, self.place.device, self.progress)
            self._embedded[init.name] = found[self.cases.rows_of(init.store)]
        return self._embedded[init.name]

    def _on_embeddings(self, init: Initialisation, key: FitKey) -> Fit:
        rows = self.draws.rows[key.fraction, key.draw]
        return self._once(key, self._basis(init, key, rows), lambda: self._fit_frozen(key, rows))

    def frozen_fits(self, name: str) -> FrozenFits:
        """What fits on one init's embeddings share."""
        if name not in self._frozen:
            init = self._init(name)
            self._frozen[name] = FrozenFits(self.embeddings(init), self.cases.target, self.draws, raw=init.kind == "pixels")
        return self._frozen[name]

    def _fit_frozen(self, key: FitKey, rows: np.ndarray) -> Fit:
        found = self.frozen_fits(key.init).fit(key.mode, rows)
        return Fit(key, *self._counts(rows), found.outcome, found.choice, found.validation)

    # Fine-tunes: the learning rate is chosen by validation at the first draw of each fraction

    def _tuned(self, init: Initialisation, key: FitKey) -> Fit:
        rates = self.config.finetune.learning_rates
        if key.draw > 0 and len(rates) == 1:
            chosen = self._trial(init, key, rates[0])
        else:
            trials = [self._trial(init, replace(key, draw=0), rate) for rate in rates]
            best = max(trials, key=lambda trial: trial.validation)
            chosen = best if key.draw == 0 else self._trial(init, key, float(best.choice["learning_rate"]))
        return replace(chosen, key=key, choice={**chosen.choice, "tried": in_words(rates)})

    def _trial(self, init: Initialisation, key: FitKey, rate: float) -> Fit:
        rows = self.draws.rows[key.fraction, key.draw]
        own = replace(key, mode=_at(key.mode, rate))
        free = {"workers", "learning_rates"} | ({"distill"} if key.mode != "distill" else set())
        budget = self.config.finetune.model_dump(mode="json", exclude=free)
        basis = self._basis(init, key, rows, budget=budget, rate=rate)
        if init.name not in self._fitters:
            self._fitters[init.name] = _Fitter(self, init)
        return self._once(own, basis, lambda: self._fitters[init.name].fit(own, key, rows, rate))

    # Images and texts

    def _zero_shot(self, init: Initialisation, key: FitKey) -> Fit:
        task, test = self.config.task, self.draws.test
        basis = self._basis(init, key, test, **task.model_dump(include={"prompts"}))
        return self._once(key, basis, lambda: fit_nothing(key, init, self.cases, test, task, self.place.device))

    def _retrieval(self, init: Initialisation, key: FitKey) -> Fit:
        assert self.paired is not None
        rows = self.paired.rows_of(init.store)[self._paired_test()]
        return self._once(key, self._basis(init, key, rows), lambda: self._retrieve(init, key, rows))

    def _retrieve(self, init: Initialisation, key: FitKey, rows: np.ndarray) -> Fit:
        assert init.folder is not None
        found = retrieve_from_run(init.folder, init.store, rows, init.maker, self.place.device)
        chance: dict[str, float | str] = {f"chance_{name}": value for name, value in found.chance.items()}
        return Fit(key, 0, 0, found.measured, chance)

    def _paired(self) -> StudyCases | None:
        if "retrieval" not in self.config.modes:
            return None
        return study_cases([init.store for init in self.inits], RetrievalTask())

    def _paired_test(self) -> np.ndarray:
        assert self.paired is not None
        return draw(self.paired, self.config.model_copy(update={"fractions": (1.0,), "draws": 1})).test

    # What all fits need

    def _once(self, key: FitKey, basis: str, make: Callable[[], Fit]) -> Fit:
        found = self.folder.load(key, basis)
        if found is None and not self._may_fit:
            raise _NotFittedError
        return found if found is not None else self.folder.save(make(), basis)

    def _basis(self, init: Initialisation, key: FitKey, rows: np.ndarray, **more: Any) -> str:
        parts = [self.cases.volume[part].astype(str) for part in (self.draws.val, self.draws.test)]
        cases = [hash_of_array(part) for part in (*parts, self.cases.cases.label)]
        own = {"init": init.basis(self.config.seed), "store": hash_of_store(init.store), "mode": key.mode, "draw": key.draw}
        return basis_of(**own, cases=cases, rows=rows.tolist(), seed=self.config.seed, numbers=self.numbers, code=medcl.__version__, **more)

    def _counts(self, rows: np.ndarray) -> tuple[int, int]:
        return len(rows), len(np.unique(self.cases.cases.patient[rows]))

    def _guard(self) -> LeakReport:
        folders = {init.name: init.folder for init in self.inits if init.folder is not None}
        tests = [(self.cases, self.draws.test)] + ([(self.paired, self._paired_test())] if self.paired else [])
        patient = np.concatenate([cases.cases.patient[rows] for cases, rows in tests])
        pixels = np.concatenate([cases.pixel_hash[rows] for cases, rows in tests])
        near = np.concatenate([cases.near_hash[rows] for cases, rows in tests])
        return check_leaks(folders, Scored(patient, pixels, near), self.config.transductive)

    def _numbers(self) -> tuple[int, ...]:
        task = self.config.task
        if not isinstance(task, SegmentationTask):
            return ()
        store = self.inits[0].store
        return structures(store, self.cases.rows_of(store)[self.draws.train], task.labels)

    # The folder

    def write_facts(self, fits: Sequence[Fit]) -> None:
        """Everything the page says beside the numbers."""
        write_json(self.out / pages.FACTS, pages.study_facts(self))
        write_json(self.out / pages.CLOSEUP, pages.study_closeup(self, fits))
        pages.write_what_encoders_see(self)

    def write_card(self, num_fits: int) -> None:
        """The last file."""
        inputs = {
            "data": hash_of_folder(self.config.data),
            **{init.name: init.weights for init in self.inits if init.kind not in ("random", "pixels")},
        }
        counts = {part: len(self.draws.splits.rows(part)) for part in ("train", "val", "test")} | {"fits": num_fits}
        files = {name: sha256_of_file(self.out / name) for name in (RESULTS, SUMMARY, HEADLINE, pages.FACTS)}
        write_card(self.out, "study", inputs=inputs, settings=pages.shown_settings(self.config), counts=counts, files=files)


class _NotFittedError(Exception):
    """Asked whether a fit is there: it is not."""


class _Fitter:
    """Fine-tunes of one init, for either task."""

    def __init__(self, study: OpenStudy, init: Initialisation) -> None:
        self.study, self.init = study, init
        self._ready: FinetuneFits | SegmentationFits | None = None

    def fit(self, own: FitKey, key: FitKey, rows: np.ndarray, rate: float) -> Fit:
        """One fit at one learning rate."""
        fits = self._ready = self._ready or self._make()
        counts = self.study._counts(rows)
        if isinstance(fits, SegmentationFits):
            measured, choice, validation = fits.fit(rows, key.draw, rate, frozen=key.mode == "frozen")
            return Fit(own, *counts, measured, choice, validation)
        if key.mode == "distill":
            found = fits.distill(rows, key.draw, rate, self.study.config.finetune.distill)
        else:
            found = fits.fit(rows, key.draw, rate)
        return Fit(own, *counts, found.outcome, found.choice, found.validation)

    def _make(self) -> FinetuneFits | SegmentationFits:
        study, init = self.study, self.init
        config: FinetuneConfig = study.config.finetune
        rows = study.cases.rows_of(init.store)
        budget = Budget(config, study.place, study.config.seed)

        build = partial(init.build, study.config.seed)
        maker = field_maker(init.maker, init.store, rows, config.field_voxels) if build(0).any_size else init.maker
        if isinstance(study.config.task, SegmentationTask):
            tolerance_mm = study.config.task.tolerance_mm
            return SegmentationFits(build, init.store, rows, maker, study.numbers, study.draws, budget, tolerance_mm)
        return FinetuneFits(build, init.store, rows, maker, study.cases.target, study.draws, budget)


def _at(mode: str, rate: float) -> str:
    """The name of one trial of a mode that is tuned: the rate can be read back from it."""
    short = f"{rate:g}"
    return f"{mode}@{short if float(short) == rate else repr(rate)}"


def _one_draw(config: StudyConfig) -> StudyConfig:
    """Where nothing is learned from labels: one fraction, one draw."""
    return config if set(config.modes) & set(FULLEST_FIRST) else config.model_copy(update={"fractions": (1.0,), "draws": 1})

"""`medcl.pretrain` and `medcl.evaluate`: settings in, a whole RUN or STUDY folder out."""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcl.encoders import Encoder, build_seeded
from medcl.encoders import tokenizer as tokens
from medcl.evaluation.probe import Probe
from medcl.export.backbone import Provenance, find_backbone, items_of, save_backbone
from medcl.foundation import config as yaml_settings
from medcl.foundation import distributed
from medcl.foundation.errors import UserError
from medcl.foundation.files import CARD, hash_of_folder, read_json, write_card, write_json, write_text
from medcl.foundation.lock import alone_in, holds_anything
from medcl.foundation.progress import Progress, Silent
from medcl.loading.batches import Batches
from medcl.loading.texts import ReportTexts, report_of_rows
from medcl.methods import ConVIRTConfig, Method
from medcl.run_config import Overrides, PretrainConfig, check_views, load_pretrain, load_study, rows_to_learn_from, views_to_make
from medcl.store.volume_store import VolumeStore
from medcl.training.checkpoint import TENSORS
from medcl.training.launch import here, joined, naming_lost_ranks
from medcl.training.loop import TrainResult, train
from medcl.training.metrics import read_metrics
from medcl.training.rehearsal import Rehearsal, rehearse
from medcl.training.watchers import CollapseWatch, LearningWatch, ProbeWatch, TensorBoardWatch, WaitingWatch, Watcher
from medcl.views.batched import ViewMaker

CONFIG, INPUTS, TOKENIZER = "config.yaml", "inputs.json", "tokenizer.json"
SPEED = ("items_per_s", "waiting_share", "memory_gib", "gpu_memory_gib", "tflop_per_s")
# What may change between two starts of one run: none of it touches what is learned, beyond rounding.
_OF_TRAINING = ("workers", "pieces", "checkpoint_every", "keep", "log_every", "probe_every", "time_limit_s", "on_unreadable")
_OF_NETWORK = ("recompute", "shard", "compile", "exact")
FREE = ("watch", *(f"training.{key}" for key in _OF_TRAINING), *(f"training.network.{key}" for key in _OF_NETWORK))


@dataclass(frozen=True)
class Run:
    """A finished pretraining. backbone: the folder others load. lines: for a person; empty on all but the first process."""

    folder: Path
    backbone: Path
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Study:
    """A finished study. headline: what `headline.json` says."""

    folder: Path
    headline: dict[str, Any]
    lines: list[str]


def pretrain(path: Path | str, overrides: Overrides = (), *, out: Path | str | None = None, progress: Progress | None = None) -> Run:
    """Pretrain a backbone as a YAML says; the same call again goes on where it stopped.

    overrides: `key.path=value` texts, or a mapping of key path to value. out: the RUN folder; default runs/<name of the YAML>.
    Raises UserError for wrong settings, DataError for data that fail, Stopped where a signal or the time limit ended it.
    """
    settings = load_pretrain(path, overrides)
    folder = Path(out) if out else Path("runs") / Path(path).stem
    progress = progress or Silent()
    with joined() as place, naming_lost_ranks(), ExitStack() as held:
        quiet = progress if place.rank == 0 else Silent()
        store = VolumeStore(settings.store)
        run = _Pretraining(settings, store, folder, quiet)
        if place.rank == 0:
            run.check_folder()
            if not (folder / CARD).is_file():
                held.enter_context(alone_in(folder))
                run.open_folder()
        distributed.barrier()
        if (folder / CARD).is_file():
            return Run(folder, folder / "backbone", [f"{folder} is finished already"] if place.rank == 0 else [])
        result = run.learn(place)
        if place.rank == 0:
            run.close_folder(result)
        distributed.barrier()
        return Run(folder, folder / "backbone", _lines(folder, result) if place.rank == 0 else [])


def rehearse_pretraining(
    path: Path | str, overrides: Overrides = (), *, out: Path | str | None = None, progress: Progress | None = None
) -> tuple[Rehearsal, list[str]]:
    """What `pretrain` with the same arguments would take, from ten steps on this process; nothing is written.

    Returns the figures and lines for a person. Raises UserError where the run cannot fit into memory or on the disk, and what
    `pretrain` would raise for wrong settings or data.
    """
    settings = load_pretrain(path, overrides)
    folder = Path(out) if out else Path("runs") / Path(path).stem
    run = _Pretraining(settings, VolumeStore(settings.store), folder, progress or Silent())
    run.check_folder()
    run.watchers()
    figures = rehearse(run.method, run.batches(here().gpu), settings.training, here(), weights=run.initial())
    free = shutil.disk_usage(next(parent for parent in [folder, *folder.absolute().parents] if parent.is_dir())).free
    if figures.checkpoints_bytes > free:
        raise UserError(
            f"--out {folder}: checkpoints need {_size(figures.checkpoints_bytes)} and {_size(free)} are free there; take another --out, "
            "make room or lower training.keep.last"
        )
    return figures, _expected(figures, free, run.maker.overrides)


def preview(
    path: Path | str, overrides: Overrides = (), *, out: Path | str, seed: int = 0, count: int = 8, progress: Progress | None = None
) -> dict[str, Any]:
    """Draw and measure the views that `pretrain` with the same arguments would learn from; see `medcl.views.audit.preview`.

    Raises UserError for settings that `pretrain` would refuse too, DataError where a bound of the policy is breached.
    """
    from medcl.views.audit import preview as preview_views

    settings = load_pretrain(path, overrides)
    run = _Pretraining(settings, VolumeStore(settings.store), Path(out), progress or Silent())
    return preview_views(run.store, run.maker, out, seed=seed, count=count, progress=progress)


def evaluate(
    path: Path | str,
    overrides: Overrides = (),
    *,
    out: Path | str | None = None,
    jobs: int = 1,
    dask: str | None = None,
    progress: Progress | None = None,
) -> Study:
    """Run a label-efficiency study as a YAML says, and make its page; the same call again goes on where it stopped.

    jobs: how many fits are made side by side, in processes here. dask: address of a Dask scheduler whose workers make them instead
    (they must see the data and the study's folder under the same paths). Neither changes a number.
    """
    from medcl.evaluation.jobs import Jobs, fill
    from medcl.evaluation.study import run_study
    from medcl.reporting.page import write_study_page

    settings = load_study(path, overrides)
    folder = Path(out) if out else Path("runs") / Path(path).stem
    ahead = partial(fill, jobs=Jobs(jobs, dask))
    result = run_study(settings, folder, progress=progress or Silent(), before_card=write_study_page, ahead=ahead)
    return Study(folder, result.headline, [*result.lines, f"page: {folder / 'page.html'}"])


def evaluate_share(
    path: Path | str, overrides: Overrides = (), *, task: int, tasks: int, out: Path | str | None = None, progress: Progress | None = None
) -> list[str]:
    """The fits of one task of an array, into the folder of a study that `evaluate` concludes when all tasks are done.

    task: from 0 to tasks - 1. Returns lines for a person.
    """
    from medcl.evaluation.jobs import Jobs, fill_share
    from medcl.evaluation.study import begin_study
    from medcl.training.launch import one_thread

    jobs = Jobs(task=task, tasks=tasks)
    folder = Path(out) if out else Path("runs") / Path(path).stem
    with one_thread():
        study = begin_study(load_study(path, overrides), folder, progress or Silent(), alone=False)
        count = fill_share(study, jobs)
    return [f"task {task} of {tasks}: {count} of {sum(map(len, study.stages()))} fits are in {folder}"]


class _Pretraining:
    """One run: what is built from the settings, the folder it fills."""

    def __init__(self, settings: PretrainConfig, store: VolumeStore, folder: Path, progress: Progress) -> None:
        self.settings, self.store, self.folder, self.progress = settings, store, folder, progress
        encoder = build_seeded(settings.encoder, seed=settings.training.seed, purpose="encoder")
        self.method: Method = build_seeded(settings.method, encoder, seed=settings.training.seed, purpose="method")
        self.num_views = views_to_make(settings, self.method)
        check_views(settings, self.method)
        self.maker = ViewMaker(settings.views, store.recipe, paired=self.method.uses_text)
        self.rows = np.array(rows_to_learn_from(settings, store, self.method.uses_text))

    def check_folder(self) -> None:
        """Raise UserError unless a run could begin in the folder, or goes on in it with the same settings and store; write nothing."""
        if self.goes_on():
            self._same_as_before()
        elif self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"--out {self.folder}: there is a file where a folder is to be; choose another --out")
        elif not (self.folder / INPUTS).is_file() and holds_anything(self.folder):
            raise UserError(f"--out {self.folder}: exists and holds no run; name a new folder, or remove this one")
        elif (given := self.initial()) is not None and not given.exists():
            raise UserError(f"initial: {given}: no such file; expected a backbone folder or its weights.safetensors")

    def goes_on(self) -> bool:
        """Whether a run has saved something here. One that ended before that, by a mistake in its settings, say, begins anew."""
        saved = (self.folder / CARD).is_file() or any((self.folder / "checkpoints").glob("step-*"))
        return saved and (self.folder / INPUTS).is_file()

    def open_folder(self) -> None:
        """Write what a run begins with: INPUTS first, by which a run that was killed right here is known again."""
        self.check_folder()  # again: whoever held the folder until now may have begun another run
        if self.goes_on():
            return
        write_json(self.folder / INPUTS, self._inputs())
        write_text(self.folder / CONFIG, yaml_settings.to_yaml(self.settings))
        if self.method.uses_text:
            self._train_tokenizer().save(self.folder / TOKENIZER)

    def learn(self, place: Any) -> TrainResult:
        """The loop, with everything handed in."""
        return train(
            self.method,
            self.batches(place.gpu),
            self.settings.training,
            folder=self.folder,
            place=place,
            watchers=self.watchers(),
            on_save=self.save_backbone,
            weights=self.initial(),
            progress=self.progress,
        )

    def batches(self, gpu: torch.device | None) -> Batches:
        """This process's batches of every step, views computed on the GPU where there is one."""
        training = self.settings.training
        return Batches(
            self.store,
            self.maker,
            num_views=self.num_views,
            num_points=self.method.num_points,
            world_batch=training.world_batch,
            seed=training.seed,
            workers=training.workers,
            rows=self.rows,
            texts=self._texts(),
            device=gpu,
            processes=True,
            on_unreadable=self.progress.say if training.on_unreadable == "skip" else None,
        )

    def initial(self) -> Path | None:
        """The weights to begin from. Raises UserError where they are those of a run that is not finished."""
        given = self.settings.initial
        return find_backbone(given) if given is not None and given.is_dir() and not (given / TENSORS).is_file() else given

    def _told_by(self) -> Path | None:
        """Who says what the first weights were trained on: they, or, where a run outlives them, its own backbone of step 0."""
        given = self.settings.initial
        return self.folder / "backbone" if given is not None and not given.exists() else self.initial()

    def save_backbone(self, step: int, encoder: Encoder) -> None:
        """Write `backbone/`, proven by loading it back; at step 0 too, so that a run that could not be exported never starts."""
        index = self.store.index.iloc[self.rows]
        provenance = Provenance(
            method=self.settings.method.model_dump(mode="json"),
            steps=step,
            world_batch=self.settings.training.world_batch,
            corpus=hash_of_folder(self.settings.store),
            licence=self.settings.licence,
            metrics=last_metrics(self.folder) if step else {},
            items=index,
            initial=items_of(self._told_by()),
        )
        save_backbone(encoder, self.settings.encoder, self.folder / "backbone", views=self.maker, provenance=provenance)

    def close_folder(self, result: TrainResult) -> None:
        """Write the card, last."""
        index = self.store.index.iloc[self.rows]
        write_card(
            self.folder,
            "run",
            inputs=read_json(self.folder / INPUTS),
            settings=self.settings.model_dump(mode="json"),
            counts={"steps": result.steps, "volumes": len(self.rows), "patients": int(index["patient_key"].nunique())},
            corpus_hash=self.store.card.get("corpus_hash", ""),
            views=self.maker.resolved(),
            metrics=last_metrics(self.folder),
        )

    def _inputs(self) -> dict[str, str]:
        return {"store": hash_of_folder(self.settings.store)}

    def _same_as_before(self) -> None:
        changed = self._changed()
        if changed:
            raise UserError(
                f"--out {self.folder}: this run was begun with other settings ({', '.join(changed[:3])}); take another --out, or the old "
                "settings"
            )
        if read_json(self.folder / INPUTS) != self._inputs():
            raise UserError(f"--out {self.folder}: store {self.settings.store} is not the one this run was begun with; take another --out")

    def _changed(self) -> list[str]:
        # Read back through the settings, so that one added since then counts as its default.
        before = _flat(yaml_settings.load(PretrainConfig, self.folder / CONFIG).model_dump(mode="json"))
        now = _flat(self.settings.model_dump(mode="json"))
        free = tuple(f"{key}." for key in FREE)
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key) and not f"{key}.".startswith(free))
        return [f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed]

    def _train_tokenizer(self) -> tokens.Tokenizer:
        texts = self._report_texts()
        return tokens.train([texts[row] for row in self.rows], self._text_settings().vocab_size)

    def _texts(self) -> ReportTexts | None:
        if not self.method.uses_text:
            return None
        # A rehearsal has no folder yet.
        known = (self.folder / TOKENIZER).is_file()
        tokenizer = tokens.load(self.folder / TOKENIZER) if known else self._train_tokenizer()
        return ReportTexts(self._report_texts(), tokenizer, self._text_settings().length)

    def _report_texts(self) -> list[str]:
        assert self.store.reports is not None
        return report_of_rows(self.store.index, self.store.reports)

    def _text_settings(self) -> Any:
        assert isinstance(self.settings.method, ConVIRTConfig)
        return self.settings.method.text

    def watchers(self) -> Sequence[Watcher]:
        """Who looks on. Raises UserError where a tracker is missing, or the store has no such label to probe."""
        training, watch = self.settings.training, self.settings.watch
        watchers: list[Watcher] = [CollapseWatch(watch, self.progress), LearningWatch(watch, self.progress)]
        if here().gpu is not None:  # on a CPU views and network share the cores: more workers would wait less and learn slower
            watchers.append(WaitingWatch(training.workers, self.progress))
        probe = self._probe()
        if probe is not None:
            watchers.append(ProbeWatch(training.probe_every, probe))
        trackers = [tracker.build(self.folder) for tracker in (watch.mlflow, watch.wandb) if tracker is not None]
        unseen = [row for row in self.rows if self.store.may_hold_text(row)]
        return [*watchers, TensorBoardWatch(self.folder / "tensorboard", training.probe_every, unseen), *trackers]

    def _probe(self) -> Callable[[Encoder], dict[str, float]] | None:
        label = self.settings.probe_label
        return None if label is None else Probe(self.store, self.maker, label, self.rows)


def last_metrics(folder: Path) -> dict[str, float]:
    """The newest finite value of every figure in a run's `metrics.jsonl` but the speed, which differs from machine to machine."""
    found: dict[str, float] = {}
    for record in read_metrics(folder / "metrics.jsonl"):
        found |= {name: value for name, value in record.items() if name not in SPEED and math.isfinite(value)}
    return found


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict):
        return {prefix.rstrip("."): content}
    return {key: value for name, part in content.items() for key, value in _flat(part, f"{prefix}{name}.").items()}


def _expected(figures: Rehearsal, free: int, overrides: dict[str, str]) -> list[str]:
    waiting = figures.waiting_s / figures.step_s
    return [
        f"{figures.parameters:,} parameters learn",
        f"memory: {_size(figures.memory_bytes)} at most in the steps that were tried",
        f"disk: {_size(figures.checkpoints_bytes)} of checkpoints, {_size(free)} free",
        f"time: {figures.num_steps} steps of {figures.step_s:.2f} s, {timedelta(seconds=round(figures.run_s))} in all; {waiting:.0%} of it "
        "waiting for data; probes and checkpoints come on top",
        *(f"override in force: {text}" for text in overrides.values()),
        "no safety override in force" if not overrides else f"{len(overrides)} safety overrides in force",
        "nothing was written",
    ]


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"


def _lines(folder: Path, result: TrainResult) -> list[str]:
    shown = {
        name: result.figures[name] for name in ("loss", "probe/balanced_accuracy", "collapse/effective_rank") if name in result.figures
    }
    figures = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
    return [
        f"{result.steps} steps done; {figures}",
        f"backbone: {folder / 'backbone'}",
        f"curves: {shlex.join(['tensorboard', '--logdir', str(folder / 'tensorboard')])}",
    ]

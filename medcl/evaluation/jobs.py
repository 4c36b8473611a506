"""Fits side by side: in processes here, on a cluster, or as one task of an array. All they do is fill the study's folder of fits.

What is fitted does not depend on who fits it: every process computes with one thread, and a fit is a pure function of what
its file names. So the tables that are made from the folder afterwards are the same, byte for byte.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medcl.evaluation.fits import FitKey
from medcl.evaluation.settings import StudyConfig, WeightsConfig
from medcl.evaluation.study import OpenStudy
from medcl.foundation.cluster import Cluster
from medcl.foundation.errors import DataError, Stopped, UserError
from medcl.foundation.progress import Silent
from medcl.foundation.side_by_side import begin_child, begun, side_by_side
from medcl.training.launch import StopRequest, here, one_thread

Unit = FitKey | str  # a fit, or the name of an init to make ready


@dataclass(frozen=True)
class Jobs:
    """Where fits are made. side_by_side: processes here; dask: address of a scheduler whose workers do it instead.

    task, tasks: this process makes the fits whose place is `task` modulo `tasks`, and nothing else. Raises UserError where they do
    not fit each other.
    """

    side_by_side: int = 1
    dask: str | None = None
    task: int | None = None
    tasks: int | None = None

    def __post_init__(self) -> None:
        if (self.task is None) != (self.tasks is None):
            raise UserError("--task and --tasks belong together, for example --task $SLURM_ARRAY_TASK_ID --tasks $SLURM_ARRAY_TASK_COUNT")
        if self.task is not None and self.tasks is not None and not 0 <= self.task < self.tasks:
            raise UserError(f"--task {self.task} of --tasks {self.tasks}: tasks are counted from 0")
        if self.task is not None and (self.dask or self.side_by_side > 1):
            raise UserError("--task is one process of an array; leave out --jobs and --dask")


def fill(study: OpenStudy, jobs: Jobs) -> None:
    """Make every fit that is not made yet, by the processes of `jobs`. Where there is only this one, nothing is done ahead.

    Raises DataError where a process died, Stopped after a signal; what was finished is kept in either case.
    """
    if jobs.side_by_side == 1 and jobs.dask is None:
        return
    stages: list[Sequence[Unit]] = [study.unready()]
    stages += [[key for key in stage if not study.is_fitted(key)] for stage in study.stages()]
    total = sum(map(len, stages))
    if total < 2:
        return
    with StopRequest() as stop, _workers(study, jobs, total) as (ask, size):
        done = (unit for stage in stages for unit in _made(stage, ask, size, stop))
        for _ in study.progress.track(done, total, "fits"):
            pass


def fill_share(study: OpenStudy, jobs: Jobs) -> int:
    """Make the fits of one task of an array; returns how many are its own."""
    assert jobs.task is not None
    keys = [key for stage in study.stages() for key in stage][jobs.task :: jobs.tasks]
    return len(study.fit_all(keys))


def _made(units: Sequence[Unit], ask: Callable[[Unit], Future[None]], size: int, stop: StopRequest) -> Iterator[Unit]:
    """Make the units of one stage; yield them as they are done."""

    def look() -> None:
        if stop.reason is not None:
            raise Stopped(f"stopped by {stop.reason}; finished fits are kept, the same command goes on")

    try:
        yield from (unit for unit, _ in side_by_side(units, ask, size, look))
    except BrokenExecutor:
        raise DataError(
            "a process that fitted died, most likely for want of memory; finished fits are kept: run the same command with fewer --jobs"
        ) from None


@contextmanager
def _workers(study: OpenStudy, jobs: Jobs, most: int) -> Iterator[tuple[Callable[[Unit], Future[None]], int]]:
    """How to hand out a unit, and how many are worked on at a time."""
    pool: Executor
    before = set(multiprocessing.active_children())
    if jobs.dask is None:
        server, size = multiprocessing.get_context("forkserver"), min(jobs.side_by_side, most)
        server.set_forkserver_preload([__name__])
        arguments = (study.config, study.out, server.Value("i", 0))
        pool = begun(ProcessPoolExecutor(size, mp_context=server, initializer=_begin_worker, initargs=arguments), size)
        ask = partial(pool.submit, _do_in_worker)
    else:
        pool = Cluster(jobs.dask)
        ask, size = partial(pool.submit, _do_on_cluster, pool.share((_absolute(study.config), study.out.absolute()))), pool.size
    try:
        yield ask, size
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.kill()  # an unfinished fit is no file yet
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# Set once in a process that only fits.
_study: OpenStudy | None = None
# Threads of a Dask worker share torch's random state, so only one of them may fit at a time.
_one_at_a_time = threading.Lock()
_opened: dict[str, OpenStudy] = {}


def _begin_worker(config: StudyConfig, out: Path, counter: Any) -> None:
    global _study
    begin_child()
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    _study = OpenStudy(config, out, Silent(), place=here(number))


def _do_in_worker(unit: Unit) -> None:
    assert _study is not None
    with one_thread():
        _do(_study, unit)


def _do_on_cluster(given: tuple[StudyConfig, Path], unit: Unit) -> None:
    config, out = given
    name = f"{out} {config.model_dump_json()}"
    with _one_at_a_time, one_thread():
        if name not in _opened:
            _opened.clear()
            _opened[name] = OpenStudy(config, out, Silent())
        _do(_opened[name], unit)


def _do(study: OpenStudy, unit: Unit) -> None:
    if isinstance(unit, str):
        study.make_ready(unit)
    else:
        study.fit(unit)


def _absolute(config: StudyConfig) -> StudyConfig:
    """Workers elsewhere start in other folders."""
    inits = dict(config.inits)
    for name, given in inits.items():
        if isinstance(given, Path):
            inits[name] = given.absolute()
        elif isinstance(given, WeightsConfig):
            inits[name] = given.model_copy(update={"weights": given.weights.absolute()})
    return config.model_copy(update={"data": config.data.absolute(), "inits": inits})


def cores() -> int:
    """How many fits are made side by side where nobody says: one on each core, or one where there is a GPU."""
    if here().device.type == "cuda":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

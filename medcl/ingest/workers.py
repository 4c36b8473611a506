"""Reading in disposable processes: a file that kills or stalls its reader is one refused file, not a dead ingest."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

SECONDS_PER_TASK = 300
TASKS_IN_FLIGHT = 2  # per process; few, so that few have to be tried again when one of them kills its process


def in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int, when_dead: Callable[[Task], Result]
) -> Iterator[tuple[int, Result]]:
    """Apply a picklable function to every task; yield (index, result) as they finish.

    jobs = 0 works in this very process. Otherwise `jobs` children are started; where one dies, the tasks that were
    under way are tried again alone, and one that kills its child again gives `when_dead(task)`.
    """
    if jobs == 0:
        yield from ((index, function(task)) for index, task in enumerate(tasks))
        return
    waiting = deque(range(len(tasks)))
    while waiting:
        suspects: list[int] = []
        yield from _until_one_dies(function, tasks, waiting, min(jobs, len(waiting)), suspects)
        for index in suspects:
            dead: list[int] = []
            yield from _until_one_dies(function, tasks, deque([index]), 1, dead)
            if dead:
                yield index, when_dead(tasks[index])


def _until_one_dies(
    function: Callable[[Task], Result], tasks: Sequence[Task], waiting: deque[int], jobs: int, suspects: list[int]
) -> Iterator[tuple[int, Result]]:
    """Work through `waiting` in one pool. When a child dies, put what was under way into `suspects` and stop."""
    running: dict[Future[Result], int] = {}
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet_child)
    try:
        while waiting or running:
            while waiting and len(running) < jobs * TASKS_IN_FLIGHT:
                running[pool.submit(_timed, function, tasks[waiting[0]])] = waiting[0]
                waiting.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running[future], future.result()
                del running[future]
    except BrokenProcessPool:
        suspects.extend(sorted(running.values()))
    finally:
        pool.shutdown(cancel_futures=True)


def _timed(function: Callable[[Task], Result], task: Task) -> Result:
    """Run one task; the alarm's default action kills this child when it stalls, even inside C code."""
    signal.alarm(SECONDS_PER_TASK)
    try:
        return function(task)
    finally:
        signal.alarm(0)


def _quiet_child() -> None:
    """Codecs write to stderr from C, sometimes values of headers: children say nothing."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)

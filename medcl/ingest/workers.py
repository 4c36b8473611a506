"""Reading in disposable processes: a file that kills or stalls its reader is one refused file, not a dead ingest."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar, cast

from medcl.foundation.cluster import Cluster

Task = TypeVar("Task")
Result = TypeVar("Result")

SECONDS_PER_TASK = 300
TASKS_IN_FLIGHT = 2  # per process; few, so that few have to be tried again when one of them kills its process


class Workers:
    """`jobs` reading processes, started when first needed; 0: everything happens in this very process.

    most_bytes: address space of each child, 0 for no limit: a file that wants more fails there and not here.
    dask: address of a Dask scheduler whose workers read instead; their own limits on memory and time hold there,
    and what a codec prints goes to their own logs.
    Use as a context manager. Children come from a fork server that has the readers imported already.
    """

    def __init__(self, jobs: int, most_bytes: int = 0, dask: str | None = None) -> None:
        self.jobs = jobs
        self.most_bytes = most_bytes
        self.dask = dask
        self._pool: ProcessPoolExecutor | Cluster | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def work(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], when_dead: Callable[[Task], Result]
    ) -> Iterator[tuple[int, Result]]:
        """Apply a picklable function to every task; yield (index, result) as they finish.

        Where a child dies, the tasks that were under way are tried again one by one, and one that kills its child again
        gives `when_dead(task)`.
        """
        if self.jobs == 0 and self.dask is None:
            yield from ((index, function(task)) for index, task in enumerate(tasks))
            return
        waiting = deque(range(len(tasks)))
        while waiting:
            suspects: list[int] = []
            yield from self._until_one_dies(function, tasks, waiting, TASKS_IN_FLIGHT * self._side_by_side(), suspects)
            for index in suspects:
                dead: list[int] = []
                yield from self._until_one_dies(function, tasks, deque([index]), 1, dead)
                if dead:
                    yield index, when_dead(tasks[index])

    def _until_one_dies(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], waiting: deque[int], in_flight: int, suspects: list[int]
    ) -> Iterator[tuple[int, Result]]:
        """Work through `waiting`. When a child dies, put what was under way into `suspects` and stop."""
        running: dict[Future[Result], int] = {}
        pool = self._open()
        ask = pool.submit if isinstance(pool, Cluster) else partial(pool.submit, _timed)
        try:
            while waiting or running:
                while waiting and len(running) < in_flight:
                    running[ask(function, tasks[waiting[0]])] = waiting[0]
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield running.pop(future), result
        except BrokenExecutor:
            suspects.extend(sorted(running.values()))
            self._close()

    def _side_by_side(self) -> int:
        return self.jobs if self.dask is None else cast(Cluster, self._open()).size

    def _open(self) -> ProcessPoolExecutor | Cluster:
        if self._pool is None and self.dask is not None:
            self._pool = Cluster(self.dask)
        elif self._pool is None:
            context: Any = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["medcl.ingest.dicom", "medcl.ingest.nifti", "medcl.ingest.planning"])
            self._pool = ProcessPoolExecutor(self.jobs, mp_context=context, initializer=_prepare_child, initargs=(self.most_bytes,))
        return self._pool

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _timed(function: Callable[[Task], Result], task: Task) -> Result:
    """Run one task; the alarm's default action kills this child when it stalls, even inside C code."""
    signal.alarm(SECONDS_PER_TASK)
    try:
        return function(task)
    finally:
        signal.alarm(0)


def _prepare_child(most_bytes: int) -> None:
    """Codecs write to stderr from C, sometimes values of headers: children say nothing. Ctrl-C is the parent's affair."""
    if most_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)

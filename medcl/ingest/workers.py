"""Reading in disposable processes: a file that kills or stalls its reader is one refused file, not a dead ingest."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from medcl.foundation.cluster import Cluster
from medcl.foundation.side_by_side import begin_child, begun

Task = TypeVar("Task")
Result = TypeVar("Result")

# Of a file or volume: seconds of the processor that a child may spend on it, and on the wall (a disk may be slow).
CPU_SECONDS, CPU_SECONDS_PER_MIB, WALL_SECONDS = 10.0, 5.0, 300.0
# Address space beyond what the child holds: for libraries, and for each byte of the file. gzip makes at most 1032 of one,
# and a volume takes a few times its own size while it is built.
_MEMORY, _MEMORY_PER_BYTE = 2**30, 6 * 1032
TASKS_IN_FLIGHT = 2  # per process; few, so that few have to be tried again when one of them kills its process


class Workers:
    """`jobs` reading processes, started when first needed; 0: everything happens in this very process.

    most_bytes: address space of each child, 0 for no limit: a file that wants more fails there and not here. seconds: of the
    processor, for a small file; one that takes longer kills its child and is given up.
    dask: address of a Dask scheduler whose workers read instead; their own limits on memory and time hold there,
    and what a codec prints goes to their own logs.
    Use as a context manager. Children come from a fork server that has the readers imported already.
    """

    def __init__(self, jobs: int, most_bytes: int = 0, dask: str | None = None, seconds: float = CPU_SECONDS) -> None:
        self.jobs = jobs
        self.limits = Limits(most_bytes, seconds)
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
            pool = ProcessPoolExecutor(self.jobs, mp_context=context, initializer=_prepare_child, initargs=(self.limits,))
            self._pool = begun(pool, self.jobs)
        return self._pool

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


@dataclass(frozen=True)
class Limits:
    """What a child may take: address space for the largest file (0: no limit), processor seconds for a small one."""

    most_bytes: int
    seconds: float


# Set once when a child starts; None in every other process, where a limit would hit more than one file.
_limits: Limits | None = None


def give_time(size: int) -> None:
    """Set this child's clocks anew for a file (or a volume out of one) of `size` bytes; when one runs out, the child dies.

    The signals keep their default action: that ends even a stalled C library. Does nothing outside a child.
    """
    if _limits is not None:
        seconds = _limits.seconds + CPU_SECONDS_PER_MIB * size / 2**20
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS + seconds)


def give_memory(size: int) -> None:
    """Let this child allocate what files of `size` bytes can need, and no more. Does nothing outside a child."""
    if _limits is not None and _limits.most_bytes:
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
        except OSError:
            return
        soft = min(_limits.most_bytes, pages * resource.getpagesize() + _MEMORY + _MEMORY_PER_BYTE * size)
        resource.setrlimit(resource.RLIMIT_AS, (soft, _limits.most_bytes))


def _timed(function: Callable[[Task], Result], task: Task) -> Result:
    """Run one task with fresh clocks; what it was given is taken back at its end."""
    give_time(0)
    try:
        return function(task)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if _limits is not None and _limits.most_bytes:
            resource.setrlimit(resource.RLIMIT_AS, (_limits.most_bytes, _limits.most_bytes))


def _prepare_child(limits: Limits) -> None:
    """Codecs write to stderr from C, sometimes values of headers: children say nothing."""
    global _limits
    _limits = limits
    if limits.most_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (limits.most_bytes, limits.most_bytes))
    begin_child()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)

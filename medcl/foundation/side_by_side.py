"""Work handed out to processes, here or on a cluster, a little ahead of what they can do at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from typing import TypeVar

from medcl.foundation.errors import UserError
from medcl.foundation.memory import keep_freed

Unit = TypeVar("Unit")
Result = TypeVar("Result")

_AHEAD = 2


def side_by_side(
    units: Iterable[Unit], ask: Callable[[Unit], Future[Result]], size: int, look: Callable[[], None] = lambda: None
) -> Iterator[tuple[Unit, Result]]:
    """Hand out the units, two for each of `size` workers at a time; yield each with its result as it is done.

    look: called at least every half second; what it raises ends the work, as does what a unit raises.
    """
    waiting, running = iter(units), dict[Future[Result], Unit]()
    while True:
        while len(running) < _AHEAD * size:
            try:
                unit = next(waiting)
            except StopIteration:
                break
            running[ask(unit)] = unit
        if not running:
            return
        for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
            result = future.result()
            yield running.pop(future), result
        look()


def begun(pool: ProcessPoolExecutor, size: int) -> ProcessPoolExecutor:
    """The pool, once its `size` processes begin. Raises UserError where they cannot, as from a script that would be run again by each."""
    try:
        wait([pool.submit(os.getpid) for _ in range(size)], return_when=FIRST_COMPLETED).done.pop().result()
    except BrokenExecutor:
        pool.shutdown(cancel_futures=True)
        raise UserError(
            "processes to work in ended as they began. Each of them reads a script that started it again: in a script, call medcl under "
            '`if __name__ == "__main__":`. Elsewhere most likely for want of memory: ask for fewer --jobs'
        ) from None
    return pool


def begin_child() -> None:
    """What a worker process does first: it leaves Ctrl-C to its parent, and ends when the parent does, however that ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed()
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

"""Other machines' processes: a Dask cluster's workers behind the interface of concurrent.futures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

from medcl.foundation.errors import UserError

SECONDS_TO_ANSWER = 20


class Cluster(Executor):
    """The workers of a Dask cluster that runs already; `shutdown` leaves it running.

    address: of the scheduler, such as tcp://10.0.0.5:8786. Workers need medcl installed and see the same folders under the
    same paths. A task whose worker dies, as Dask judges after its own retries, ends in BrokenExecutor, as with a process
    pool. Raises UserError where `distributed` is missing, no scheduler answers, or it has no workers.
    """

    def __init__(self, address: str) -> None:
        try:
            import distributed
        except ImportError:
            raise UserError("--dask: the package distributed is missing; pip install 'medcl[dask]'") from None
        try:
            self._client = distributed.Client(address, timeout=SECONDS_TO_ANSWER)
            self._client.wait_for_workers(1, timeout=SECONDS_TO_ANSWER)
        except (OSError, ValueError, TimeoutError) as error:
            raise UserError(
                f"--dask {address}: no scheduler with workers answers there ({type(error).__name__}); see dask scheduler"
            ) from None
        self._executor = self._client.get_executor(pure=False)
        threads: Any = self._client.nthreads()
        self.size: int = sum(threads.values())

    def share(self, thing: Any) -> Any:
        """Send something to every worker once; give the answer to `submit` in its place."""
        return self._client.scatter(thing, broadcast=True)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn` on some worker."""
        answer: Future[Any] = Future()
        self._executor.submit(_hold, fn, *args, **kwargs).add_done_callback(lambda there: _pass_on(there, answer))
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the cluster; what was submitted and is not finished is cancelled."""
        self._client.close()


def _hold(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Exception | None]:
    """A task that fails tells the caller alone: Dask would write the error, which may name a path, into its log."""
    try:
        return fn(*args, **kwargs), None
    except Exception as error:
        return None, error


def _pass_on(there: Future[Any], answer: Future[Any]) -> None:
    from distributed import KilledWorker

    try:
        result, error = there.result()
    except KilledWorker:
        result, error = None, BrokenExecutor("a Dask worker died")
    except BaseException as lost:  # the connection, or the task was cancelled: the caller's to handle
        result, error = None, lost
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)

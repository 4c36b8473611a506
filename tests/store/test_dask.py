"""A Dask cluster does what processes here do: the same bytes, and a worker that dies costs one file."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from medcl.foundation.cluster import Cluster
from medcl.foundation.errors import UserError
from medcl.ingest.run import ingest
from medcl.ingest.workers import Workers
from medcl.store.prepare import prepare
from medcl.store.recipe import BUILT_IN
from tests.ingest.scanner import phantom, series
from tests.ingest.test_ingest_run import every_byte

pytestmark = pytest.mark.xdist_group("dask")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Two Dask workers in processes of their own."""
    distributed = pytest.importorskip("distributed")
    import dask

    own = dask.config.set({"distributed.scheduler.allowed-failures": 0})
    with own, distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


def test_ingest_and_prepare_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str) -> None:
    for number in range(4):
        series(tmp_path / "in" / str(number), phantom(4, seed=number), patient=f"P{number}", uid=f"2.25.{number}")
    monkeypatch.chdir(tmp_path)  # the workers started elsewhere: relative paths must still be found
    found = {}
    for name, where in (("here", {"jobs": 2}), ("there", {"dask": scheduler})):
        ingest("in", f"{name}/data", key=bytes(32), **where)
        prepare(f"{name}/data", f"{name}/store", BUILT_IN["ct"], **where)
        found[name] = every_byte(tmp_path / name / "data"), every_byte(tmp_path / name / "store")
    assert found["here"] == found["there"]
    assert len(found["here"][1]) > 4


def kill_on_three(number: int) -> int:
    """As a file that crashes a codec does."""
    if number == 3:
        os._exit(1)
    return number * 10


def test_a_worker_that_dies_costs_one_task(scheduler: str) -> None:
    with Workers(1, dask=scheduler) as workers:
        results = dict(workers.work(kill_on_three, list(range(5)), lambda task: -task))
    assert results == {index: -3 if index == 3 else index * 10 for index in range(5)}


class KillOne:
    """Kills one of the cluster's worker processes after the second volume."""

    def __init__(self, address: str) -> None:
        self.address, self.killed = address, 0

    def say(self, message: str) -> None:
        """Nothing."""

    def track(self, items, total: int, what: str, done: int = 0):
        """The items; while some are still under way, one of those who read them dies."""
        from distributed import Client

        for place, item in enumerate(items):
            if what == "reading volumes" and place == 1:
                with Client(self.address) as client:
                    self.killed = next(iter(client.run(os.getpid).values()))
                os.kill(self.killed, signal.SIGKILL)
            yield item


def test_an_ingest_outlives_one_of_its_workers(tmp_path: Path, scheduler: str) -> None:
    for number in range(8):
        series(tmp_path / "in" / str(number), phantom(4, seed=number), patient=f"P{number}", uid=f"2.25.{number}")
    ingest(tmp_path / "in", tmp_path / "here", jobs=0, key=bytes(32))
    killer = KillOne(scheduler)
    ingest(tmp_path / "in", tmp_path / "there", dask=scheduler, key=bytes(32), progress=killer)
    assert killer.killed
    assert every_byte(tmp_path / "there") == every_byte(tmp_path / "here")


def fail(path: str) -> None:
    """As a bug does."""
    raise FileNotFoundError(path)


def test_an_exception_comes_back_and_the_workers_logs_do_not_repeat_it(scheduler: str) -> None:
    distributed = pytest.importorskip("distributed")
    with Cluster(scheduler) as cluster, distributed.Client(scheduler) as client:
        with pytest.raises(FileNotFoundError, match="DOE_JANE"):
            cluster.submit(fail, "/export/DOE_JANE/1.dcm").result()
        assert cluster.submit(len, "four").result() == 4
        assert "DOE_JANE" not in str(client.get_worker_logs()) + str(client.get_scheduler_logs())


def test_no_scheduler_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcl.foundation.cluster.SECONDS_TO_ANSWER", 1)
    with pytest.raises(UserError, match=r"--dask tcp://127\.0\.0\.1:9: no scheduler with workers"):
        Cluster("tcp://127.0.0.1:9")

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest

from medcl.foundation.errors import UserError
from medcl.training import launch

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[03-05],other",
    "SLURM_JOB_ID": "123456",
}


def test_torchrun() -> None:
    assert launch._torchrun(TORCHRUN) == (3, 4, 1, 2, "node1:29500")
    assert launch._torchrun({}) is None
    assert launch._torchrun({"RANK": "0", "WORLD_SIZE": "1"}) is None
    with pytest.raises(UserError, match="MASTER_ADDR, MASTER_PORT is not"):
        launch._torchrun({key: value for key, value in TORCHRUN.items() if not key.startswith("MASTER")})


def test_srun() -> None:
    assert launch._slurm(SRUN) == (5, 8, 1, 4, "gpu03:23456")
    assert launch._slurm({**SRUN, "MASTER_ADDR": "a", "MASTER_PORT": "1"}) == (5, 8, 1, 4, "a:1")
    # sbatch's own shell: a job with many tasks, but no step.
    assert launch._slurm({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}) is None


@pytest.mark.parametrize(
    ("nodes", "host"), [("a1", "a1"), ("gpu[3,7-9]", "gpu3"), ("n[007-009],m2", "n007"), ("x,y", "x"), ("c1-[2-3]", "c1-2")]
)
def test_first_host(nodes: str, host: str) -> None:
    assert launch.first_host(nodes) == host


def test_signals_are_noted_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with launch.StopRequest() as stop:
        assert stop.reason is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_only_time_counts() -> None:
    reasons = []

    def run() -> None:
        with launch.StopRequest(time_limit_s=0.0) as stop:
            reasons.append(stop.reason)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert reasons == ["the time limit"]


def test_one_process_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SRUN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with launch.joined() as place:
        assert (place.rank, place.world_size) == (0, 1)
        module = object()
        assert place.spread(module) is module  # type: ignore[arg-type]


def test_a_port_that_is_taken_is_the_environments_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs of one node may come to the same port."""
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        given = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        for name, value in {**given, "MASTER_PORT": str(other.getsockname()[1])}.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(UserError, match=r"environment: process 0 of 2 did not meet .*MASTER_PORT to a port that is free"),
            launch.joined(),
        ):
            pass

"""A process that dies takes the others down at once, named; the run goes on with another number of processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medcl.foundation.errors import MedclError
from medcl.training.checkpoint import TENSORS
from medcl.training.launch import joined
from medcl.training.watchers import Moment
from tests.training.small_runs import made_config, run

SGD = {"name": "sgd"}  # Adam would blow the rounding noise of a bias that the loss does not depend on up to whole steps


class _DiesAt:
    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step, self.state = rank, step, {}

    def look(self, moment: Moment, figures: dict[str, float]) -> dict[str, float]:
        if moment.step == self.step and torch.distributed.get_rank() == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    def close(self) -> None:
        pass


def _process(rank: int, port: int, folder: Path, dies: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    warnings.simplefilter("ignore", FutureWarning)  # torch renames an option of DistributedDataParallel
    try:
        with joined() as place:
            run("moco", folder, [_DiesAt(dies, 6)], made_config(optimizer=SGD), place=place)
    except MedclError as error:
        (folder / f"said-by-{rank}").write_text(str(error))


@pytest.mark.parametrize("dies", [0, 1])
def test_a_lost_rank_is_named_and_one_process_goes_on(dies: int, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    tmp_path.joinpath("run").mkdir()
    fork = multiprocessing.get_context("fork")  # spares importing torch twice
    processes = [fork.Process(target=_process, args=(rank, port, tmp_path / "run", dies)) for rank in (0, 1)]
    for process in processes:
        process.start()
    processes[dies].join(120)
    assert processes[dies].exitcode == -signal.SIGKILL
    died = time.monotonic()
    processes[1 - dies].join(120)
    assert processes[1 - dies].exitcode == 0 and time.monotonic() - died < 60
    said = (tmp_path / "run" / f"said-by-{1 - dies}").read_text()
    assert f"rank {dies} of 2 is gone" in said and "goes on from the last checkpoint" in said
    assert (tmp_path / "run" / "checkpoints" / "LATEST").read_text() == "step-4\n"

    run("moco", tmp_path / "run", config=made_config(optimizer=SGD))
    run("moco", tmp_path / "whole", config=made_config(optimizer=SGD))
    found, wanted = (load_file(tmp_path / name / "checkpoints" / "step-12" / TENSORS) for name in ("run", "whole"))
    for key, value in wanted.items():
        if key.startswith("method."):
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-5)

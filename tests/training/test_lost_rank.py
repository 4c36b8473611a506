"""A process that dies takes the others down at once, named; the run goes on with another number of processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medcl.foundation.errors import MedclError
from medcl.training import train
from medcl.training.checkpoint import TENSORS
from medcl.training.launch import Place
from medcl.training.watchers import Moment
from tests.training.small_runs import in_processes, made_batches, made_config, made_method, run, start_processes

SGD = {"name": "sgd"}  # Adam would blow the rounding noise of a bias that the loss does not depend on up to whole steps


class _SpoilsRank1:
    def __init__(self, batches) -> None:
        self.batches = batches

    def iterate(self, start: int, stop: int):
        for step, batch in enumerate(self.batches.iterate(start, stop), start=start):
            if step == 2 and torch.distributed.get_rank() == 1:
                batch.views[0][1] = float("nan")
            yield batch


def _spoiled(place: Place, folder: Path) -> None:
    method = made_method("moco")
    try:
        train(method, _SpoilsRank1(made_batches(method)), made_config(), place=place)
    except MedclError as error:
        (folder / f"said-by-{place.rank}").write_text(f"{error.exit_code} {error}")


def test_views_that_are_not_finite_are_the_datas_fault_on_every_process(tmp_path: Path) -> None:
    """Those whose own views are fine said that the learning rate was too high, the first process among them."""
    in_processes(2, _spoiled, tmp_path)
    first, second = ((tmp_path / f"said-by-{rank}").read_text() for rank in (0, 1))
    assert first.startswith("3 step 2: views of another process hold values that are not finite")
    assert second.startswith("3 step 2: the views of store rows [")


class _DiesAt:
    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step, self.state = rank, step, {}

    def look(self, moment: Moment, figures: dict[str, float]) -> dict[str, float]:
        if moment.step == self.step and torch.distributed.get_rank() == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    def close(self) -> None:
        pass


def _survive(place: Place, folder: Path, dies: int, shard: bool) -> None:
    try:
        run("moco", folder, [_DiesAt(dies, 6)], made_config(optimizer=SGD, network={"shard": shard}), place=place)
    except MedclError as error:
        (folder / f"said-by-{place.rank}").write_text(str(error))


@pytest.mark.parametrize(("dies", "shard"), [(0, False), (1, False), (1, True)])
def test_a_lost_rank_is_named_and_one_process_goes_on(dies: int, shard: bool, tmp_path: Path) -> None:
    tmp_path.joinpath("run").mkdir()
    processes = start_processes(2, _survive, tmp_path / "run", dies, shard)
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

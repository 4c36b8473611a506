"""What must hold for every method of the union, also those that another package adds."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from medcl.foundation.errors import Stopped, UserError
from medcl.foundation.progress import Silent
from medcl.foundation.types import Batch
from medcl.methods import Method
from medcl.methods.parts import standardised
from medcl.training import train
from medcl.training.checkpoint import TENSORS
from medcl.training.grad_cache import Stepped, backward_in_pieces
from medcl.training.launch import Place
from medcl.training.watchers import CollapseWatch, WatchConfig
from tests.training.small_runs import (
    METHODS,
    Losses,
    StopAt,
    final_bytes,
    free_port,
    in_processes,
    made_batches,
    made_config,
    made_method,
    run,
)

every_method = pytest.mark.parametrize("name", sorted(METHODS))
NUM_STEPS = 10


def _warmed(name: str) -> tuple[Method, Batch]:
    """A method whose queue and the like already hold something, and a batch with two scans of some patients."""
    method = made_method(name)
    batches = made_batches(method, num_items=24, items_per_patient=2)
    with torch.no_grad():
        for step in range(2):
            method.after_step(method(batches.at(step), 0.0), 0.0)
    return method, batches.at(2)


def _gradients(method: Method) -> dict[str, torch.Tensor]:
    return {key: value.grad.clone() for key, value in method.named_parameters() if value.grad is not None}


def _close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys() and wanted
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    assert largest > 0
    for key, gradient in wanted.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-5, atol=1e-5 * largest, msg=key)


@every_method
def test_a_row_depends_on_its_own_item_only(name: str) -> None:
    method, batch = _warmed(name)
    others = batch.rows(1, len(batch))
    disturbed = replace(others, views=tuple(view * -3 + 1 for view in others.views))
    joined = replace(batch, views=tuple(torch.cat([view[:1], noise]) for view, noise in zip(batch.views, disturbed.views, strict=True)))
    with torch.no_grad():
        plain, changed = method.encode(batch, 0.0), method.encode(joined, 0.0)
    for first, second in zip(plain, changed, strict=True):
        assert len(first) == len(batch)
        torch.testing.assert_close(first[:1], second[:1], rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(first[1:], second[1:]) for first, second in zip(plain, changed, strict=True))


@every_method
@pytest.mark.parametrize("pieces", [2, 3])
def test_pieces_are_the_whole(name: str, pieces: int) -> None:
    method, batch = _warmed(name)
    whole = method(batch, 0.5)
    whole.loss.backward()
    wanted = _gradients(method)
    method.zero_grad()
    output = backward_in_pieces(Stepped(method), method, batch, pieces, 0.5)
    torch.testing.assert_close(output.loss, whole.loss)
    _close(_gradients(method), wanted)


def _one_of_several(place: Place, folder: str) -> None:
    for name in METHODS:
        sent = []
        for pieces in (1, 2):
            method, batch = _warmed_alone(name)
            share = len(batch) // place.world_size
            engine = place.spread(Stepped(method))
            reduced = _Reductions()
            engine.register_comm_hook(reduced, _Reductions.reduce)  # type: ignore[operator]
            part = batch.rows(place.rank * share, (place.rank + 1) * share)
            if pieces == 1:
                output = engine(part, 0.5)
                output.loss.backward()
            else:
                output = backward_in_pieces(engine, method, part, pieces, 0.5)
            with torch.no_grad():
                method.after_step(output, 0.5)
            state = {key: value.clone() for key, value in method.state_dict().items()}
            found = {"loss": output.loss.detach(), "grad": _gradients(method), "state": state}
            torch.save(found, f"{folder}/{name}-{pieces}-{place.rank}.pt")
            sent.append(reduced.buckets)
        assert sent[0] == sent[1] > 0, "gradients are averaged once a step, not once a piece"


class _Reductions:
    """Counts what DistributedDataParallel sends."""

    def __init__(self) -> None:
        self.buckets = 0

    def reduce(self, bucket):  # torch insists on what annotations are, and ours are texts
        self.buckets += 1
        return allreduce_hook(dist.group.WORLD, bucket)


def _warmed_alone(name: str) -> tuple[Method, Batch]:
    """The same method and whole batch on every process, made as if there were one."""
    torch.manual_seed(0)
    method = made_method(name)
    items, patients = torch.arange(8), torch.arange(8) // 2
    generator = torch.Generator().manual_seed(1)
    views = tuple(torch.randn(8, 1, 16, 16, generator=generator) for _ in range(method.num_views))
    text = None
    if method.uses_text:
        from medcl.foundation.types import Text

        text = Text(torch.randint(3, 300, (8, 16), generator=generator), torch.ones(8, 16, dtype=torch.bool))
    points = torch.rand(8, 2, method.num_points, 2, generator=generator) * 2 - 1 if method.num_points else None
    batch = Batch(views, items, patients, text, points=points)
    if name == "moco":
        keys = torch.nn.functional.normalize(torch.randn(20, method.config.projection_dim, generator=generator), dim=1)
        method.queue.push(keys, torch.arange(20))
    return method, batch


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_are_one(processes: int, tmp_path: Path) -> None:
    in_processes(processes, _one_of_several, str(tmp_path))
    for name in METHODS:
        method, batch = _warmed_alone(name)
        output = method(batch, 0.5)
        output.loss.backward()
        wanted = _gradients(method)
        with torch.no_grad():
            method.after_step(output, 0.5)
        for pieces in (1, 2):
            for rank in range(processes):
                found = torch.load(tmp_path / f"{name}-{pieces}-{rank}.pt")
                torch.testing.assert_close(found["loss"], output.loss.detach())
                _close(found["grad"], wanted)
                for key, value in method.state_dict().items():
                    torch.testing.assert_close(found["state"][key], value, rtol=1e-5, atol=1e-6)


@every_method
def test_a_stopped_run_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    config = made_config(num_steps=NUM_STEPS)
    run(name, tmp_path / "whole", config=config)
    with pytest.raises(Stopped, match="SIGUSR1 after step 3"):
        run(name, tmp_path / "cut", [StopAt(3)], config)
    with pytest.raises(Stopped, match="after step 6"):
        run(name, tmp_path / "cut", [StopAt(6)], made_config(num_steps=NUM_STEPS, workers=0))
    result = run(name, tmp_path / "cut", config=made_config(num_steps=NUM_STEPS, workers=3))
    assert result.steps == NUM_STEPS
    assert final_bytes(tmp_path / "cut", NUM_STEPS) == final_bytes(tmp_path / "whole", NUM_STEPS)


KILLED = [name if name == "moco" else pytest.param(name, marks=pytest.mark.slow) for name in sorted(METHODS)]


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_run_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    steps = 60
    run(name, tmp_path / "whole", config=made_config(num_steps=steps))
    command = [sys.executable, str(Path(__file__).with_name("small_runs.py")), name, str(tmp_path / "killed"), str(steps), "adamw"]
    process = subprocess.Popen(command)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.is_file() and len(metrics.read_bytes().splitlines()) >= 6:
            break
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    done = [int(path.name.removeprefix("step-")) for path in (tmp_path / "killed" / "checkpoints").glob("step-*") if path.suffix == ""]
    assert max(done) < steps
    subprocess.run(command, check=True)
    assert final_bytes(tmp_path / "killed", steps) == final_bytes(tmp_path / "whole", steps)
    lines = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == steps


@pytest.mark.slow
@every_method
def test_two_processes_of_torchrun_learn_what_one_does(name: str, tmp_path: Path) -> None:
    """With SGD: Adam would blow the rounding noise of a bias that the loss does not depend on up to whole steps."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    program = [str(Path(__file__).with_name("small_runs.py")), name]
    run(name, tmp_path / "one", config=made_config(num_steps=5, optimizer={"name": "sgd"}))
    subprocess.run([*torchrun, *program, str(tmp_path / "two"), "5", "sgd"], check=True)
    one, two = (load_file(tmp_path / which / "checkpoints" / "step-5" / TENSORS) for which in ("one", "two"))
    for key, value in one.items():
        if key.startswith("method."):
            torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-5)


@every_method
def test_overfits_eight_items_and_is_not_called_collapsed(name: str) -> None:
    method = made_method(name)
    batches = made_batches(method, num_items=8, world_batch=8)
    losses, watch = Losses(), CollapseWatch(WatchConfig(on_collapse="stop"))
    config = made_config(num_steps=80, optimizer={"lr": 3e-3}, schedule={"warmup_steps": 10})
    train(method, batches, config, watchers=[losses, watch])
    early, late = sum(losses.values[6:12]) / 6, sum(losses.values[-6:]) / 6
    assert late < 0.6 * early, (early, late)
    assert watch.state["in_a_row"] == 0
    method.eval()
    with torch.no_grad():
        left, right = method.encode(batches.at(1000), 1.0)[:2]
        left, right = standardised(left), standardised(right)  # as MoCo compares them; for the others only a shift
    hits = (left @ right.T).argmax(dim=1) == torch.arange(8)
    assert int(hits.sum()) >= 7


@every_method
def test_a_batch_too_small_to_teach_anything_is_refused(name: str) -> None:
    """Standardised over two rows, or with no other row to compare with, every embedding has the same loss: its gradient is rounding."""
    method = made_method(name)
    for items in (method.least_items - 1, method.least_items):
        if items:
            method.zero_grad()
            method(made_batches(method, world_batch=items).at(0), 0.0).loss.backward()
            steepest = max(float(value.grad.abs().max()) for value in method.backbone.parameters())
            assert (steepest > 1e-3) == (items == method.least_items), steepest
    if method.least_items > 1:
        with pytest.raises(UserError, match=r"training\.world_batch: \w+ learns nothing from \d items at once; take at least"):
            train(method, made_batches(method, world_batch=1), made_config(world_batch=method.least_items - 1))


@every_method
def test_bf16_is_for_gpus_and_a_cpu_says_so(name: str) -> None:
    """torch 2.13 on a CPU: weight gradients of bf16 3D convolutions over 2x2x2 voxels are not finite."""

    class Heard(Silent):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def say(self, message: str) -> None:
            self.lines.append(message)

    weights, heard = {}, Heard()
    for precision in ("fp32", "bf16"):
        method = made_method(name)
        train(method, made_batches(method), made_config(num_steps=3, precision=precision), place=Place(torch.device("cpu")), progress=heard)
        weights[precision] = method.state_dict()
    assert all(torch.equal(weights["fp32"][key], weights["bf16"][key]) for key in weights["fp32"])
    assert [line for line in heard.lines if "bf16" in line] == ["training.precision is bf16, which is for GPUs: computing in fp32 here"]

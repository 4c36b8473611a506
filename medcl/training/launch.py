"""Where a run computes: processes of torchrun or SLURM, the device, threads, and the signals that ask it to stop.

The only place that reads or sets environment variables.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medcl.foundation import distributed
from medcl.foundation.errors import MedclError, UserError


@dataclass(frozen=True)
class Place:
    """One process's place: its device, its rank and how many processes there are."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def gpu(self) -> torch.device | None:
        """The device, where it is a GPU: it then computes the views too."""
        return self.device if self.device.type == "cuda" else None

    def spread(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over all processes, where there are several."""
        if self.world_size == 1:
            return module
        # Buffers (queue, teacher) move alike on every process; broadcasting them each step would only cost time.
        return DistributedDataParallel(module, broadcast_buffers=False)


def here(number: int = 0) -> Place:
    """The place of a single process: the first GPU, else the CPU. number: of a process among others that share the GPUs in turn."""
    return Place(torch.device("cuda", number % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu"))


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, torch and the libraries below numpy: sums are then the same to the bit on any number of cores."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def same_sums(device: torch.device, wanted: bool) -> Iterator[None]:
    """On a GPU, where wanted, add in the same order each time, as a CPU always does; where torch has no such kernel it raises RuntimeError.

    To be entered before anything was multiplied on the GPU: that is when cuBLAS looks up how much memory it may have of its own.
    """
    if device.type != "cuda" or not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False  # nothing here reads memory before it is written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]


@contextmanager
def joined() -> Iterator[Place]:
    """Join the other processes that torchrun or srun started (none: a single process), and leave them at the end.

    Raises UserError where they cannot be met.
    """
    found = _torchrun(os.environ) or _slurm(os.environ)
    if found is None:
        _share_cores(1)
        yield here()
        return
    rank, world_size, local_rank, local_size, address = found
    _share_cores(local_size)
    device = torch.device("cuda", local_rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, init_method=f"tcp://{address}", rank=rank, world_size=world_size)
    except dist.DistError as error:
        raise UserError(
            f"environment: process {rank} of {world_size} did not meet the others at {address} ({str(error).splitlines()[0]}); set "
            "MASTER_ADDR to the first process's node and MASTER_PORT to a port that is free there"
        ) from error
    try:
        yield Place(device, rank, world_size)
    finally:
        dist.destroy_process_group()


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Where another process dies, the collective that waits for it fails: say which one, instead of what the network saw."""
    try:
        yield
    except RuntimeError as error:
        if not distributed.is_active() or not (isinstance(error, dist.DistError) or re.search(r"gloo|nccl", str(error), re.IGNORECASE)):
            raise
        lost = ", ".join(str(rank) for rank in distributed.lost_ranks()) or "unknown"
        raise MedclError(
            f"rank {lost} of {distributed.world_size()} is gone, so rank {distributed.rank()} stops too: its own message or its node says "
            f"why; the same command goes on from the last checkpoint, with any number of processes ({str(error).splitlines()[0]})"
        ) from error


class StopRequest:
    """Turns SIGTERM, SIGUSR1 and a time limit into one question asked between steps: `reason`.

    A context manager: the handlers that were there come back at the end. Only the main thread may set handlers;
    elsewhere the time limit alone counts.
    """

    def __init__(self, time_limit_s: float | None = None) -> None:
        self._deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        self._signal: str | None = None
        self._before: dict[signal.Signals, object] = {}

    @property
    def reason(self) -> str | None:
        """What asked to stop, or None."""
        if self._signal is None and self._deadline is not None and time.monotonic() >= self._deadline:
            return "the time limit"
        return self._signal

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signal = signal.Signals(number).name


_Found = tuple[int, int, int, int, str]


def _torchrun(environment: Mapping[str, str]) -> _Found | None:
    """Rank, world size, local rank, local world size, address:port from torchrun's variables."""
    if "RANK" not in environment or int(environment.get("WORLD_SIZE", "1")) == 1:
        return None
    missing = [name for name in ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        raise UserError(f"environment: RANK is set but {', '.join(missing)} is not; start several processes with torchrun or srun")
    numbers = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    rank, world_size, local_rank, local_size = numbers
    return rank, world_size, local_rank, local_size, f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"


def _slurm(environment: Mapping[str, str]) -> _Found | None:
    """The same from srun's variables. A batch script's own shell has no step, so it stays a single process."""
    world_size = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if world_size == 1 or "SLURM_PROCID" not in environment:
        return None
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    address = environment.get("MASTER_ADDR") or first_host(nodes)
    port = environment.get("MASTER_PORT") or str(20000 + int(environment.get("SLURM_JOB_ID", "0")) % 20000)
    local_size = int(re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", str(world_size)))[0])  # type: ignore[index]
    return int(environment["SLURM_PROCID"]), world_size, int(environment["SLURM_LOCALID"]), local_size, f"{address}:{port}"


def first_host(nodes: str) -> str:
    """The first name of a SLURM node list: `gpu[03-05,9],other` -> `gpu03`."""
    match = re.match(r"([^\[,]+)(?:\[(\d+))?", nodes)
    if match is None:
        raise UserError("environment: SLURM names no nodes; set MASTER_ADDR to the first node's name")
    return match[1] + (match[2] or "")


def tell_nobody() -> None:
    """Switch off what trackers report about their use to their makers; call it before they are imported."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "WANDB_ERROR_REPORTING": "false"}


def _share_cores(processes: int) -> None:
    """Torch's threads: this process's part of the cores, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // processes))

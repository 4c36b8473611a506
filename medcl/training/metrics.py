"""`metrics.jsonl`: one JSON object for each logged step, none of them twice."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from medcl.foundation import distributed
from medcl.foundation.errors import UserError
from medcl.foundation.files import write_text

T = TypeVar("T")


class MetricsLog:
    """Appends lines on the first process; what an interrupted run wrote beyond its checkpoint is dropped first."""

    def __init__(self, path: Path | None, steps_done: int) -> None:
        self._path = path if distributed.rank() == 0 else None
        if self._path is not None:
            lines = [json.dumps(record) for record in read_metrics(self._path) if record["step"] <= steps_done]
            write_text(self._path, "".join(line + "\n" for line in lines))

    def write(self, record: dict[str, Any]) -> None:
        """Append one record. Raises UserError naming the step where the disk is full."""
        if self._path is None:
            return
        try:
            with open(self._path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(
                f"{self._path}: step {record['step']} could not be logged ({error.strerror}); free some space, then the same command goes "
                "on from the last checkpoint"
            ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, [] where there is none; a last line torn by a crash is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class Stopwatch:
    """Items per second and the share of time spent waiting for data, since they were last asked for."""

    def __init__(self) -> None:
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def step(self, waited: float) -> None:
        """A step is done, `waited` seconds of it waiting for its batch."""
        self._waited += waited
        self._steps += 1

    def read(self, world_batch: int, device: torch.device, operations: int | None = None) -> dict[str, float]:
        """Figures items_per_s, waiting_share and the highest memory so far: gpu_memory_gib on a GPU, else memory_gib; starts anew.

        operations: of a step of this process; with them tflop_per_s, what it achieves, waiting included.
        """
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        figures = {"items_per_s": self._steps * world_batch / elapsed, "waiting_share": min(self._waited / elapsed, 1.0)}
        if operations is not None:
            figures["tflop_per_s"] = self._steps * operations / elapsed / 1e12
        if device.type == "cuda":
            figures["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        else:
            figures["memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0
        return figures


def operations_of(work: Callable[[], T]) -> tuple[T, int]:
    """What the work returns, and how many floating-point operations its products and convolutions took, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        result = work()
    return result, int(counter.get_total_flops())

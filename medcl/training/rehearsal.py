"""What a run will take, from ten of its own steps: nothing is written, and what was learned is thrown away by the caller."""

from __future__ import annotations

import resource
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from medcl.methods.method import Method
from medcl.training import checkpoint
from medcl.training.launch import Place, same_sums
from medcl.training.loop import BatchSource, Run, TrainingConfig, timed

STEPS, WARM_UP = 10, 2


@dataclass(frozen=True)
class Rehearsal:
    """parameters: that learn. memory: the highest so far, of the GPU where there is one, else of this process. checkpoints_bytes: all
    that are kept and the one being written. step_s: median after two steps of warm-up, of which waiting_s for data."""

    parameters: int
    memory_bytes: int
    checkpoints_bytes: int
    step_s: float
    waiting_s: float
    num_steps: int

    @property
    def run_s(self) -> float:
        """Seconds of the whole run, without probes and checkpoints."""
        return self.step_s * self.num_steps


def rehearse(method: Method, batches: BatchSource, config: TrainingConfig, place: Place, *, weights: Path | None = None) -> Rehearsal:
    """Take the first steps of a run and measure them; the method is changed by them. weights: see `checkpoint.begin`.

    Raises what a run would: UserError where memory runs out or a loss is not finite, DataError where the data fail.
    """
    steps = min(STEPS, config.num_steps)
    spent, waits = [], []
    with same_sums(place.device, config.network.exact), closing(batches.iterate(0, steps)) as source:
        run = Run(method, config, place, ())
        checkpoint.begin(method, run.optimizer, None, weights=weights, average=run.network.average)
        for step, (batch, waited) in enumerate(timed(source)):
            begin = time.perf_counter()
            run.step(step, batch.to(place.device))  # reads the loss, so a GPU has finished
            spent.append(waited + time.perf_counter() - begin)
            waits.append(waited)
    keep = config.keep
    counted = slice(WARM_UP if steps > WARM_UP else 0, None)
    return Rehearsal(
        parameters=sum(value.numel() for value in method.parameters() if value.requires_grad),
        memory_bytes=_peak_bytes(place.device),
        checkpoints_bytes=checkpoint.size(method, run.optimizer, run.network.average) * (keep.last + 1 + (keep.best is not None)),
        step_s=statistics.median(spent[counted]),
        waiting_s=statistics.median(waits[counted]),
        num_steps=config.num_steps,
    )


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

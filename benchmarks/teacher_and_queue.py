"""What MoCo's teacher and queue cost beside the rest of a step with ResNet-50 3D, on the CPU; MoCo's own way of writing them beside ours.

python benchmarks/teacher_and_queue.py [--side 64] [--batch 4] [--steps 5] [--out reports/training/teacher_and_queue.md]

The step is forward, backward and AdamW; then `after_step` alone: the teacher follows, the keys enter a queue of 65,536. The peer updates
tensor by tensor and keeps a key a column, as in He et al.'s code. Processor seconds, one thread, the parts take turns, medians. A small
batch is the hard case: the update costs the same for any batch. About two minutes of one core and 3 GiB.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from medcl.encoders import ResNetConfig
from medcl.foundation.types import Batch
from medcl.methods import MoCo, MoCoConfig

QUEUE = 65536


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description="Teacher and queue beside the step.")
    parser.add_argument("--side", type=int, default=64, help="voxels of a view's side")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--width", type=int, default=64, help="of the ResNet's first stage; 64 is the paper's")
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    torch.set_num_threads(1)
    text = measure(said.side, said.batch, said.steps, said.width)
    print(text)
    if said.out is not None:
        said.out.write_text(text + "\n", encoding="utf-8")


def measure(side: int, batch: int, steps: int, width: int = 64) -> str:
    """The report of so many steps."""
    torch.manual_seed(0)
    method = MoCoConfig(queue_size=QUEUE).build(ResNetConfig(depth=50, width=width).build())
    optimizer = torch.optim.AdamW(method.parameters(), fused=True)
    peer = _ColumnsAndLoops(method)
    views = tuple(torch.randn(batch, 1, side, side, side) for _ in range(2))
    held = Batch(views, torch.arange(batch), torch.arange(batch))
    spent: dict[str, list[float]] = {"step": [], "medcl": [], "as in MoCo's code": []}
    for _ in range(steps + 1):
        output = _timed(lambda: _learn(method, optimizer, held), spent["step"])
        _timed(lambda output=output: method.after_step(output, 0.0), spent["medcl"])
        _timed(lambda output=output: peer.update(method, output.carry[0]), spent["as in MoCo's code"])
    seconds = {name: statistics.median(values[1:]) for name, values in spent.items()}  # the first step makes the optimizer's state
    parameters = sum(value.numel() for value in method.parameters() if value.requires_grad)
    return "\n".join(
        [
            "# What MoCo's teacher and queue cost",
            "",
            f"ResNet-50 3D of width {width} ({parameters / 1e6:.1f} M parameters), {batch} crops of {side} voxels a side, queue of "
            f"{QUEUE:,}; processor seconds on one thread of a CPU ({platform.machine()}), float32, median of {steps} steps, torch "
            f"{torch.__version__}; `benchmarks/teacher_and_queue.py`.",
            "",
            "| part | ms | share of a step |",
            "|---|---|---|",
            f"| forward, backward, AdamW | {1e3 * seconds['step']:,.0f} | |",
            *(
                f"| teacher and queue, {name} | {1e3 * seconds[name]:.1f} | {seconds[name] / (seconds['step'] + seconds[name]):.2%} |"
                for name in list(spent)[1:]
            ),
        ]
    )


def _learn(method: MoCo, optimizer: torch.optim.Optimizer, batch: Batch):
    output = method(batch, 0.0)
    optimizer.zero_grad()
    output.loss.backward()
    optimizer.step()
    return output


class _ColumnsAndLoops:
    """He et al.'s `_momentum_update_key_encoder` and `_dequeue_and_enqueue`, in their shape: a loop over tensors, a key a column."""

    def __init__(self, method: MoCo) -> None:
        self.teacher = copy.deepcopy(method.teacher)
        self.queue = torch.zeros(method.config.projection_dim, QUEUE)
        self.place = 0

    @torch.no_grad()
    def update(self, method: MoCo, keys: Tensor) -> None:
        """One update of both."""
        followed = [*self.teacher.backbone.parameters(), *self.teacher.head.parameters()]
        for slow, quick in zip(followed, [*method.backbone.parameters(), *method.head.parameters()], strict=True):
            slow.data = slow.data * 0.999 + quick.data * 0.001
        self.queue[:, self.place : self.place + len(keys)] = keys.T
        self.place = (self.place + len(keys)) % QUEUE


def _timed(work: Callable, spent: list[float]):
    before = time.process_time()
    result = work()
    spent.append(time.process_time() - before)
    return result


if __name__ == "__main__":
    main()

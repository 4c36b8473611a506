"""Seconds of a training step by how long threads of torch spin before they sleep while they wait, alone and beside other work.

python benchmarks/waiting_threads.py [--rounds 5] [--steps 4] [--neighbours 0 2] [--out reports/training/waiting_threads.md]

The step is that of the demo's MoCo (two views of 32 crops of 36 x 36 x 24 voxels, forward, backward, update) with torch's own number of
threads. Every run is a process of its own, for OpenMP reads it once, when it is loaded; the arms take turns within every round.
A neighbour is a process that counts without end. Wall time, for that is what a shared machine costs. About five minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ARMS = {
    "300,000 turns (libgomp's default)": {},
    "30,000 turns (what `medcl` sets)": {"GOMP_SPINCOUNT": "30000"},
    "none": {"OMP_WAIT_POLICY": "PASSIVE"},
}
_READ = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description="Waiting threads that sleep or spin.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.one:
        print(one_run(said.steps))
        return
    rows = [(count, *compare(count, said.rounds, said.steps)) for count in said.neighbours]
    text = table(rows, said.rounds, said.steps)
    print(text)
    if said.out is not None:
        said.out.write_text(text + "\n", encoding="utf-8")


def one_run(steps: int) -> float:
    """Seconds per step in this process; the first two are not counted."""
    import torch

    from medcl.encoders import ResNetConfig
    from medcl.foundation.types import Batch
    from medcl.methods import MoCoConfig

    encoder = ResNetConfig(depth=18, spatial_dims=3, width=16, stem_kernel=5, stem_stride=4, stem_pool=False).build()
    method = MoCoConfig(projection_dim=64, queue_size=128).build(encoder)
    optimizer = torch.optim.AdamW(method.parameters(), fused=True)
    batch = Batch((torch.randn(32, 1, 36, 36, 24), torch.randn(32, 1, 36, 36, 24)), torch.arange(32), torch.arange(32))
    start = 0.0
    for step in range(steps + 2):
        if step == 2:
            start = time.perf_counter()
        optimizer.zero_grad()
        output = method(batch, 0.0)
        output.loss.backward()
        optimizer.step()
        method.after_step(output, 0.0)
    return (time.perf_counter() - start) / steps


def compare(neighbours: int, rounds: int, steps: int) -> tuple[list[float], ...]:
    """Seconds per step of every arm in every round, beside so many busy processes."""
    found: dict[str, list[float]] = {name: [] for name in ARMS}
    with _busy(neighbours):
        for _ in range(rounds):
            for name, said in ARMS.items():
                surroundings = {key: value for key, value in os.environ.items() if key not in _READ} | said
                line = [sys.executable, __file__, "--one", "--steps", str(steps)]
                seconds = subprocess.run(line, env=surroundings, check=True, stdout=subprocess.PIPE, text=True).stdout
                found[name].append(float(seconds))
    return tuple(found.values())


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()


def table(rows: list[tuple[int, *tuple[list[float], ...]]], rounds: int, steps: int) -> str:
    """The report."""
    import torch

    text = [
        "# Threads that wait for each other",
        "",
        f"`benchmarks/waiting_threads.py`: seconds of a step of the demo's MoCo (32 pairs of 36 x 36 x 24), wall time, {rounds} rounds of",
        f"{steps} steps, in processes of their own that take turns; median (range). {os.cpu_count()} cores ({platform.machine()}), torch "
        f"{torch.__version__}. The columns: how often a waiting thread of OpenMP looks again before it sleeps.",
        "",
        f"| busy neighbours | {' | '.join(ARMS)} |",
        "|---" * (1 + len(ARMS)) + "|",
    ]
    for neighbours, *arms in rows:
        cells = [f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})" for times in arms]
        text.append(f"| {neighbours} | {' | '.join(cells)} |")
    return "\n".join(text)


if __name__ == "__main__":
    main()

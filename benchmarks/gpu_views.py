"""Views a second on this machine's GPU, beside what a training step needs, and what they cost the step.

python benchmarks/gpu_views.py [--steps 20] [--batch 32] [--workers 8] [--made FOLDER] [--out reports/training/gpu_views.md]
python benchmarks/gpu_views.py --small     # as always without a GPU: the same path on the CPU, tiny; shows that it runs, not how fast

Views of the policy `ct` of made CT, 64 and 96 voxels a side, and of the policy `xray` of made X-rays, 224 pixels a side, from the
compressed store. First the parts alone: processes reading boxes, the GPU computing views from boxes that lie ready, both together, both
with threads that read, and threads that make the views by compiled passes instead. Then steps of SimCLR in bf16 with ResNet-18 and 50, four
times as many items for pictures, once with views made as they go and once with the same batch again and again, already there: the
difference is what views cost, waiting and sharing the GPU together. The first three steps do not count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import chain
from pathlib import Path

import gpu_step
import torch
import view_arms

from medcl.foundation.types import Batch
from medcl.loading.readers import Readers
from medcl.store.volume_store import VolumeStore
from medcl.training.launch import here


def main(arguments: list[str] | None = None) -> str:
    """Measure, print, and write the tables."""
    parser = argparse.ArgumentParser(description="Views on the GPU.")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--made", type=Path, default=None, help="a folder with the made stores, or where to leave them for the next time")
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args(arguments)
    small = said.small or here().gpu is None
    cases = [gpu_step.Case("SimCLR", depth, side, 64, said.batch, said.steps, said.workers) for side in (64, 96) for depth in (18, 50)]
    cases += [gpu_step.Case("SimCLR", depth, 224, 64, 4 * said.batch, said.steps, said.workers, picture=True) for depth in (18, 50)]
    if small:
        cases = [gpu_step.Case("SimCLR", 18, 16, 4, 2, 2, 1), gpu_step.Case("SimCLR", 18, 32, 4, 2, 2, 1, picture=True)]
    with tempfile.TemporaryDirectory() as folder:
        scans, pictures = _stores(said.made or Path(folder), small)
        held = [(case, pictures if case.picture else scans) for case in cases]
        sides = {case.side: (case, store) for case, store in held}.values()
        parts, steps = (_parts(case, store) for case, store in sides), (_step(case, store) for case, store in held)
        return gpu_step.tell(chain(_head(said.workers, small), parts, _STEPS, steps), said.out)


def _stores(folder: Path, small: bool) -> tuple[VolumeStore, VolumeStore]:
    """Made volumes and made pictures, unless they are there already."""
    if (folder / "store").is_dir() and (folder / "picture store").is_dir():
        return VolumeStore(folder / "store"), VolumeStore(folder / "picture store")
    folder.mkdir(parents=True, exist_ok=True)
    view_arms.write_scans(folder / "scans", (32, 32, 32) if small else view_arms.SHAPE)
    return view_arms.open_store(folder), view_arms.open_pictures(folder, 4 if small else 64)


def _parts(case: gpu_step.Case, store: VolumeStore) -> str:
    """A row of views a second: reading, computing, both, and both by threads: read by them, and wholly made by their compiled passes."""
    device = here().device
    batches = gpu_step.loader(case, store, device)
    count, slots = 2 * case.batch, deque([0, 1, 2])
    wanted = [(row, (0, 0, item)) for item, row in enumerate(batches.rows_at(0).tolist())]
    with closing(Readers(batches.items, case.workers, len(slots), device)) as readers:
        for slot in slots:
            readers.ask(slot, wanted)

        def read() -> None:
            readers.told(slots[0])
            _finish()
            readers.ask(slots[0], wanted)
            slots.rotate(-1)

        rates = [_rate(count, read)]
        _, (first, second) = readers.told(slots[0])
        rates.append(_rate(count, lambda: batches.maker.render_batch([*first, *second], device)))
    for where, processes in ((device, True), (device, False), (None, False)):
        source = gpu_step.loader(case, store, where, processes).iterate(0, 10**6)
        rates.append(_rate(count, lambda source=source: next(source)))
        source.close()
    return f"| {_side(case)} | " + " | ".join(f"{rate:,.0f}" for rate in rates) + " |"


def _rate(count: int, work: Callable[[], object], times: int = 10) -> float:
    """Things a second, `count` of them each time; the first three times do not count."""
    for _ in range(gpu_step.WARM_UP):
        work()
    _finish()
    before = time.perf_counter()
    for _ in range(times):
        work()
    _finish()
    return count * times / (time.perf_counter() - before)


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _step(case: gpu_step.Case, store: VolumeStore) -> str:
    """A row of steps with views as they come, beside steps whose views are there."""
    batches = gpu_step.loader(case, store, here().device)
    there = gpu_step.ours(case, _again(batches.at(0), case.steps))
    coming = gpu_step.ours(case, batches.iterate(0, case.steps))
    need, cost = 2 * case.batch / there["step"], 1 - there["step"] / coming["step"]
    return (
        f"| ResNet-{case.depth} | {_side(case)} | {1e3 * there['step']:,.1f} | {need:,.0f} | {1e3 * coming['step']:,.1f} | "
        f"{coming['waiting']:.1%} | {cost:.1%} | {coming['memory']:.1f} |"
    )


def _side(case: gpu_step.Case) -> str:
    return f"{case.side}{'²' if case.picture else '³'}"


def _again(batch: Batch, steps: int) -> Generator[Batch, None, None]:
    for _ in range(steps):
        yield batch


def _head(workers: int, small: bool) -> list[str]:
    note = " Tiny, and torch on the CPU: only to see that it runs." if small else ""
    return [
        "# Views on the GPU",
        "",
        f"{gpu_step.machine()}, torch {torch.__version__}, {workers} workers, `benchmarks/gpu_views.py`.{note}",
        "",
        "Views a second:",
        "",
        "| a view | boxes read | computed on the GPU from boxes at hand | both | both, read by threads | compiled, by threads |",
        "|---|---|---|---|---|---|",
    ]


_STEPS = [
    "",
    "Steps of SimCLR, two views an item. Cost: the share of a step's time that goes when its views are there already.",
    "",
    "| encoder | a view | ms, views there | views/s it needs | ms, views as they come | waiting | cost | GPU memory, GiB |",
    "|---|---|---|---|---|---|---|---|",
]

if __name__ == "__main__":
    main()

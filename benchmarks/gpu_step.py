"""Steps of pretraining on this machine's GPU: time, waiting, memory, FLOP/s; medcl beside a plain loop of MONAI and DataLoader.

python benchmarks/gpu_step.py [--steps 20] [--batch 32] [--workers 8] [--out reports/training/gpu_step.md]
python benchmarks/gpu_step.py --small     # as always without a GPU: tiny networks, two steps; shows that it runs, not how fast

ResNet-18 and 50 3D, views of 64 and 96 voxels, SimCLR and MoCo, bf16 on a GPU. Both arms show the same distribution of views of the same
made CT (medcl: read by processes and computed on the GPU, without one by threads' compiled passes; MONAI: CacheDataset in DataLoader's
workers), and train the same networks with AdamW. The plain loop has the losses, teacher and queue as the papers' authors wrote them. The
first three steps do not count.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import view_arms
from monai.data.dataloader import DataLoader
from torch import Tensor, nn

from medcl.encoders import ResNetConfig, build_seeded
from medcl.foundation.types import Batch
from medcl.loading.batches import Batches
from medcl.methods import MoCoConfig, SimCLRConfig
from medcl.store.volume_store import VolumeStore
from medcl.training import TrainingConfig
from medcl.training.launch import here
from medcl.training.loop import Run, timed
from medcl.training.metrics import operations_of

WARM_UP = 3
DIM, QUEUE, MOMENTUM, TEMPERATURE = 128, 4096, 0.999, 0.2


@dataclass(frozen=True)
class Case:
    """What both arms train. side: voxels, or pixels of a picture, along every axis of a view."""

    method: str
    depth: int
    side: int
    width: int
    batch: int
    steps: int
    workers: int
    picture: bool = False

    def encoder(self) -> nn.Module:
        """The network, with the same weights each time."""
        config = ResNetConfig(depth=self.depth, width=self.width, spatial_dims=2 if self.picture else 3)  # type: ignore[arg-type]
        return build_seeded(config, seed=0)


def main(arguments: list[str] | None = None) -> str:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description="Steps on the GPU.")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args(arguments)
    small = said.small or not torch.cuda.is_available()
    cases = [
        Case(method, depth, side, 64, said.batch, said.steps, said.workers)
        for depth in (18, 50)
        for side in (64, 96)
        for method in ("SimCLR", "MoCo")
    ]
    if small:
        cases = [Case(method, 18, 16, 4, 3, 2, 0) for method in ("SimCLR", "MoCo")]
    with tempfile.TemporaryDirectory() as folder:
        scans = view_arms.write_scans(Path(folder) / "scans", (32, 32, 32) if small else view_arms.SHAPE)
        store = view_arms.open_store(Path(folder))
        return tell(chain(_head(small), _rows(cases, store, scans)), said.out)


def _rows(cases: list[Case], store: VolumeStore, scans: list[dict[str, str]]) -> Iterator[str]:
    for case in cases:
        yield _row(case, "medcl", ours(case, loader(case, store, here().gpu).iterate(0, case.steps)))
        yield _row(case, "plain MONAI", _plain(case, scans))


def tell(lines: Iterable[str], out: Path | None) -> str:
    """Print each line, and write those so far, as soon as it is there: a lent machine may be taken back. Returns the whole text."""
    text = ""
    for line in lines:
        print(line, flush=True)
        text += f"{line}\n"
        if out is not None:
            out.write_text(text, encoding="utf-8")
    return text


def loader(case: Case, store: VolumeStore, device: torch.device | None, processes: bool = True) -> Batches:
    """medcl's batches, their views computed on a device or, None, by the workers."""
    maker = view_arms.maker_of(store, case.side)
    # As many items as a real store has: with a few, a batch spans many epochs, and their orders would be part of its waiting.
    rows = np.tile(np.arange(len(store)), 1000)
    workers = {"workers": case.workers, "processes": processes}
    return Batches(store, maker, num_views=2, world_batch=case.batch, seed=0, device=device, rows=rows, **workers)


def ours(case: Case, batches: Generator[Batch, None, None]) -> dict[str, float]:
    """Figures of medcl's loop over some batches."""
    config = SimCLRConfig() if case.method == "SimCLR" else MoCoConfig(queue_size=QUEUE, momentum=MOMENTUM)
    method = config.build(case.encoder())  # type: ignore[arg-type]
    training = TrainingConfig(num_steps=case.steps, world_batch=case.batch, precision="bf16", workers=case.workers)
    run = Run(method, training, here(), ())
    run.counts = True
    with closing(batches) as source:
        # A step reads the loss, so the GPU has finished.
        spent = _steps(source, lambda step, batch: run.step(step, batch.to(here().device)))
    return _figures(spent, run.operations or 0)


def _plain(case: Case, scans: list[dict[str, str]]) -> dict[str, float]:
    """A loop as a MONAI tutorial has it: random transforms twice for every item, a loader, a step."""
    device = here().device
    views = _TwoViews(view_arms.monai_cache(scans, case.side), case.batch * case.steps)
    loader = DataLoader(views, batch_size=case.batch, num_workers=case.workers, pin_memory=device.type == "cuda")
    learner = (_PlainSimCLR if case.method == "SimCLR" else _PlainMoCo)(case).to(device)
    optimizer = torch.optim.AdamW(learner.parameters(), weight_decay=0.05)
    operations: list[int] = []

    def step(number: int, batch: Any) -> None:
        def learn() -> None:
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = learner(*(view.to(device, non_blocking=True) for view in batch))
            loss.backward()
            optimizer.step()
            loss.item()

        if number:
            learn()
        else:
            operations.append(operations_of(learn)[1])

    return _figures(_steps(loader, step), operations[0])


class _TwoViews(torch.utils.data.Dataset):
    def __init__(self, held: Any, count: int) -> None:
        self.held, self.count = held, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        first, second = (self.held[number % len(self.held)]["image"].as_tensor() for _ in range(2))
        return first, second


class _PlainSimCLR(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.backbone: Any = case.encoder()
        self.head = nn.Sequential(nn.Linear(self.backbone.dim, self.backbone.dim), nn.ReLU(), nn.Linear(self.backbone.dim, DIM))

    def project(self, view: Tensor) -> Tensor:
        """Unit vectors of a view."""
        return F.normalize(self.head(self.backbone(view).pooled).float(), dim=1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """NT-Xent as one matrix."""
        rows = torch.cat([self.project(first), self.project(second)])
        count = len(first)
        scores = (rows @ rows.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        return F.cross_entropy(scores, torch.arange(2 * count, device=rows.device).roll(count))


class _PlainMoCo(_PlainSimCLR):
    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.teacher = copy.deepcopy(nn.ModuleList([self.backbone, self.head])).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(DIM, QUEUE), dim=0))
        self.place = 0

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Algorithm 1 of He et al. 2020."""
        query = self.project(first)
        with torch.no_grad():
            for slow, quick in zip(self.teacher.parameters(), [*self.backbone.parameters(), *self.head.parameters()], strict=True):
                slow.mul_(MOMENTUM).add_(quick, alpha=1 - MOMENTUM)
            key = F.normalize(self.teacher[1](self.teacher[0](second).pooled).float(), dim=1)
        queue = self.get_buffer("queue")
        scores = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.clone()], dim=1) / TEMPERATURE
        queue[:, self.place : self.place + len(key)] = key.T
        self.place = (self.place + len(key)) % QUEUE
        return F.cross_entropy(scores, torch.zeros(len(query), dtype=torch.int64, device=query.device))


def _steps(batches: Iterable[Any], step: Callable[[int, Any], object]) -> list[tuple[float, float]]:
    """Seconds of every step, its waiting included, and seconds waited."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    spent = []
    for number, (batch, waited) in enumerate(timed(batches)):
        before = time.perf_counter()
        step(number, batch)
        spent.append((waited + time.perf_counter() - before, waited))
    return spent


def _figures(spent: list[tuple[float, float]], operations: int) -> dict[str, float]:
    counted = spent[min(WARM_UP, len(spent) - 1) :]
    seconds = statistics.median(step for step, _ in counted)
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    waiting = sum(waited for _, waited in counted) / sum(step for step, _ in counted)
    return {"step": seconds, "waiting": waiting, "memory": memory, "tflops": operations / seconds / 1e12}


def _row(case: Case, arm: str, figures: dict[str, float]) -> str:
    memory = f"{figures['memory']:.1f}" if figures["memory"] else ""
    pace = f"{1e3 * figures['step']:,.0f} | {case.batch / figures['step']:,.0f}"
    return (
        f"| {case.method} | ResNet-{case.depth} | {case.side} | {arm} | {pace} | "
        f"{figures['waiting']:.0%} | {memory} | {figures['tflops']:.2f} |"
    )


def machine() -> str:
    """What the figures were measured on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"


def _head(small: bool) -> list[str]:
    note = " Tiny networks: only to see that it runs." if small else ""
    return [
        "# A step of pretraining",
        "",
        f"{machine()}, torch {torch.__version__}, `benchmarks/gpu_step.py`; views are computed on {'the GPU' if here().gpu else 'the CPU'} "
        f"by medcl, on the CPU by MONAI. FLOP/s: what products and convolutions need, over the step's whole time.{note}",
        "",
        "| method | encoder (3D) | voxels a side | loop | ms a step | items/s | waiting | GPU memory, GiB | TFLOP/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]


if __name__ == "__main__":
    main()

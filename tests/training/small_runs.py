"""A made store, views and methods so small that a training run takes a second; also a program that trains one (for kill -9)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import typing
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from medcl.encoders import ResNetConfig, build_seeded, tokenizer
from medcl.foundation.config import Settings
from medcl.foundation.randomness import generator
from medcl.loading.batches import Batches
from medcl.loading.texts import ReportTexts
from medcl.methods import Method, MethodConfig
from medcl.training import TrainingConfig, train
from medcl.training.checkpoint import TENSORS
from medcl.training.launch import Place, joined
from medcl.training.loop import TrainResult
from medcl.training.watchers import Moment

SIDE = 16
WORDS = ["nodule", "effusion", "clear", "enlarged", "fracture", "device", "opacity", "oedema"]
# What only a run of a few steps needs.
SHORT = {
    "moco": {"queue_size": 32, "momentum": 0.9},
    "vox2vec": {"num_points": 12},
    "swav": {"num_prototypes": 16},
    "convirt": {"text": {"vocab_size": 400, "length": 16, "width": 16, "layers": 1, "heads": 2}},
}
METHODS: dict[str, type[Settings]] = {
    typing.get_args(cls.model_fields["name"].annotation)[0]: cls for cls in typing.get_args(typing.get_args(MethodConfig)[0])
}


class MadeStore:
    """Pictures (x, y, 1): each item has a smooth pattern of its own."""

    def __init__(self, num_items: int = 8, items_per_patient: int = 1) -> None:
        self.index = pd.DataFrame(
            {
                "volume_id": [f"v{row}" for row in range(num_items)],
                "patient": np.arange(num_items) // items_per_patient,
                "report_id": [f"r{row}" for row in range(num_items)],
            }
        )
        self.reports = pd.DataFrame(
            {
                "report_id": [f"r{row}" for row in range(num_items)],
                "text": [f"There is {WORDS[row % 8]} number {row}. The {WORDS[row % 8]} is seen." for row in range(num_items)],
            }
        )
        coarse = [generator(0, "pattern", item=row).normal(size=(5, 5)) for row in range(num_items)]
        self.pictures = [np.kron(pattern, np.ones((4, 4))).astype(np.float32)[..., None] for pattern in coarse]

    def shape(self, row: int) -> tuple[int, int, int]:
        return self.pictures[row].shape  # type: ignore[return-value]

    def affine(self, row: int) -> np.ndarray:
        return np.eye(4)


@dataclass(frozen=True)
class MadeView:
    """Where a view begins in the picture (x, y), and what its noise is drawn from."""

    corner: np.ndarray
    noise: np.random.Generator


class MadeMaker:
    """Views: a shifted window plus noise, a pure function of the key."""

    def __init__(self, size: tuple[int, ...] = (SIDE, SIDE)) -> None:
        self.config = SimpleNamespace(size_of=lambda view: size)

    def draw_row(self, store: MadeStore, row: int, key: tuple[int, int, int], num_views: int) -> list[MadeView]:
        seed, step, item = key
        noises = [generator(seed, "view", step, item, view) for view in range(num_views)]
        return [MadeView(noise.integers(0, 5, size=2), noise) for noise in noises]

    def match(self, store: MadeStore, row: int, views: list[MadeView], count: int, key: tuple[int, int, int]) -> np.ndarray:
        shared = generator(key[0], "points", key[1], key[2]).uniform(4, SIDE, (count, 2))
        return np.stack([(2 * (shared - view.corner) / SIDE - 1)[:, ::-1] for view in views]).astype(np.float32)

    def render(self, store: MadeStore, row: int, parameters: MadeView, out: np.ndarray) -> np.ndarray:
        x, y = parameters.corner
        out[...] = store.pictures[row][x : x + SIDE, y : y + SIDE] + parameters.noise.normal(0, 0.1, size=out.shape)
        return out


def made_method(name: str, **settings: Any) -> Method:
    config = METHODS[name](**{**SHORT.get(name, {}), **settings})
    encoder = build_seeded(ResNetConfig(depth=10, spatial_dims=2, width=8, stem_kernel=3, stem_stride=1), seed=0)
    return build_seeded(config, encoder, seed=0)


def made_batches(
    method: Any, num_items: int = 8, world_batch: int = 8, workers: int = 2, seed: int = 0, items_per_patient: int = 1, **more: Any
) -> Batches:
    store = MadeStore(num_items, items_per_patient)
    texts = None
    if method.uses_text:
        words = tokenizer.train(store.reports["text"], 400)
        texts = ReportTexts(list(store.reports["text"]), words, 16)
    needed = {"num_views": method.num_views, "num_points": method.num_points, "texts": texts}
    return Batches(store, MadeMaker(), world_batch=world_batch, seed=seed, workers=workers, **needed, **more)


def made_config(**settings: Any) -> TrainingConfig:
    few = {"num_steps": 12, "world_batch": 8, "checkpoint_every": 4, "log_every": 1, "schedule": {"warmup_steps": 2}}
    return TrainingConfig(**{**few, **settings})


def run(name: str, folder: Path | None, watchers: Any = (), config: TrainingConfig | None = None, **more: Any) -> TrainResult:
    config = config or made_config()
    method = made_method(name)
    return train(method, made_batches(method, 10), config, folder=folder, watchers=watchers, **more)


class Losses:
    """A watcher that keeps every step's loss."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.state: dict = {}

    def look(self, moment: Moment, figures: dict[str, float]) -> dict[str, float]:
        self.values.append(float(moment.output.loss.detach()))
        return {}

    def close(self) -> None:
        pass


class StopAt:
    """A watcher that asks for a stop as SLURM does."""

    def __init__(self, step: int) -> None:
        self.step, self.state = step, {}

    def look(self, moment: Moment, figures: dict[str, float]) -> dict[str, float]:
        if moment.step == self.step:
            os.kill(os.getpid(), signal.SIGUSR1)
        return {}

    def close(self) -> None:
        pass


def final_bytes(folder: Path, step: int) -> bytes:
    return (folder / "checkpoints" / f"step-{step}" / TENSORS).read_bytes()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_processes(count: int, work: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
    """`work(place, *arguments)` in so many gloo processes, forked from the server that `conftest.py` started.

    Not from here: a test process has threads of many libraries by then, and what is forked from it may crash. Shapes are checked only
    in the test process itself.
    """
    server, port = multiprocessing.get_context("forkserver"), free_port()
    processes: list[BaseProcess] = [server.Process(target=_process, args=(rank, count, port, work, arguments)) for rank in range(count)]
    for process in processes:
        process.start()
    return processes


def in_processes(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """The same, and wait: all must end well."""
    processes = start_processes(count, work, *arguments)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count


def _process(rank: int, count: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    warnings.simplefilter("ignore", FutureWarning)  # torch renames an option of DistributedDataParallel
    with joined() as place:
        assert place == Place(torch.device("cpu"), rank, count)
        work(place, *arguments)


if __name__ == "__main__":
    with joined() as place:
        torch.set_num_threads(1)
        name, folder, steps, optimizer = sys.argv[1:]
        run(name, Path(folder), config=made_config(num_steps=int(steps), optimizer={"name": optimizer}), place=place)

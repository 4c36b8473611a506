"""Kills `medcl pretrain` with SIGKILL at random steps, runs it again with other workers, and compares the result bit for bit.

python benchmarks/kill_resume.py [--trials 1] [--saves 100] [--lightning-kills 5] [--seed 0] [--out reports/training/kill_resume.md]

For MoCo and ConVIRT, 0, 2 or 4 workers before the kill and another number after it, one or two gloo processes: `--trials` kills each (20
makes 120 a method). The run that was never killed and the one that was must end with the same bytes. Then `--saves` kills while
checkpoints are written as fast as they can be: each time the newest one must load, and the next start must leave no partial folder.
Processes are forked from one that has imported everything, so that a trial costs one or two seconds of a core. Beside it a plain project on
Lightning is killed (`lightning_arm.py`, about fifteen seconds a kill), where Lightning is installed or lies in `--lightning FOLDER`:
`pip install --target FOLDER --no-deps lightning==2.6.* lightning-utilities torchmetrics pytorch-lightning torchdata`.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import multiprocessing
import os
import platform
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from lightning_arm import kill_lightning

from medcl.api import pretrain
from medcl.encoders import ResNetConfig, build_seeded
from medcl.ingest.run import ingest
from medcl.methods import MoCoConfig
from medcl.store.prepare import prepare
from medcl.store.recipe import load_recipe
from medcl.training import checkpoint
from medcl.training.optimizer import AdamWConfig, build_optimizer

FORK = multiprocessing.get_context("fork")
NUM_STEPS, WORKERS = 14, (0, 2, 4)
METHODS = {
    "moco": {"name": "moco", "queue_size": 32, "momentum": 0.9, "projection_dim": 32},
    "convirt": {
        "name": "convirt",
        "projection_dim": 32,
        "text": {"vocab_size": 300, "length": 24, "width": 16, "layers": 1, "heads": 2},
    },
}
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the trials, print and write the table."""
    parser = argparse.ArgumentParser(description="Kill -9, resume, compare.")
    parser.add_argument("--trials", type=int, default=1, help="kills of each method, number of workers and number of processes")
    parser.add_argument("--saves", type=int, default=100, help="kills while a checkpoint is written")
    parser.add_argument("--lightning-kills", type=int, default=5, help="kills of the plain project on Lightning")
    parser.add_argument("--lightning", type=Path, default=None, help="folder that Lightning was put into, where it is not installed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(said.seed)
    with tempfile.TemporaryDirectory() as folder:
        rows = _kill_runs(Path(folder), said.trials, draw)
        saves = _kill_saves(Path(folder), said.saves, draw)
        if said.lightning is not None:
            sys.path.append(str(said.lightning))
        peer = kill_lightning(Path(folder), said.lightning_kills, draw) if said.lightning_kills else []
    text = "\n".join([_report(rows, saves), *(["", *peer] if peer else [])])
    print(text)
    if said.out is not None:
        said.out.write_text(text + "\n", encoding="utf-8")


def _kill_runs(folder: Path, trials: int, draw: random.Random) -> list[tuple[str, int, int, int, int, str]]:
    """Rows: method, processes, workers before the kill, kills, bitwise equal and every step logged once, the steps they fell on."""
    rows = []
    for name, processes in itertools.product(METHODS if trials else (), (1, 2)):
        config = _config(folder, name)
        _finish(_start(config, folder / f"{name}-{processes}", processes, 0))
        wanted = _result(folder / f"{name}-{processes}")
        for workers in WORKERS:
            good, steps = 0, []
            for trial in range(trials):
                out = folder / f"{name}-{processes}-{workers}-{trial}"
                steps.append(_kill(config, out, processes, workers, draw))
                after = draw.choice([number for number in WORKERS if number != workers])
                _finish(_start(config, out, processes, after))
                good += _result(out) == wanted
            rows.append((name, processes, workers, trials, good, ", ".join(map(str, sorted(steps)))))
            print(*rows[-1], file=sys.stderr, flush=True)
    return rows


def _kill(config: Path, out: Path, processes: int, workers: int, draw: random.Random) -> int:
    """Start a run and kill all its processes at once, a moment after a random step; returns the step that was logged last."""
    while True:
        running = _start(config, out, processes, workers)
        step = draw.randrange(NUM_STEPS)
        while running[0].is_alive() and _logged(out) < step:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.1))
        alive = all(process.is_alive() for process in running)
        for process in running:
            process.kill()
            process.join()
        if alive and not (out / "card.json").is_file():
            return _logged(out)
        raise RuntimeError(f"{out}: the run ended before it was killed; raise NUM_STEPS")


def _start(config: Path, out: Path, processes: int, workers: int) -> Sequence[BaseProcess]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    running = [FORK.Process(target=_run, args=(config, out, rank, processes, port, workers)) for rank in range(processes)]
    for process in running:
        process.start()
    return running


def _run(config: Path, out: Path, rank: int, processes: int, port: int, workers: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    pretrain(config, [f"training.workers={workers}"], out=out)


def _finish(running: Sequence[BaseProcess]) -> None:
    for process in running:
        process.join()
    if any(process.exitcode for process in running):
        raise RuntimeError(f"a run ended with exit codes {[process.exitcode for process in running]}")


def _result(out: Path) -> tuple[bytes, bytes, list[int]]:
    """The bytes of the last checkpoint and of the backbone, and the steps that were logged."""
    tensors = (out / "checkpoints" / f"step-{NUM_STEPS}" / checkpoint.TENSORS).read_bytes()
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return tensors, (out / "backbone" / "weights.safetensors").read_bytes(), [json.loads(line)["step"] for line in lines]


def _logged(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _config(folder: Path, name: str) -> Path:
    store = folder / "xray" / "store"
    if not store.is_dir():
        made = importlib.import_module("made_cohort").make(folder / "cohort", 4, jobs=1, xray_patients=12, mr_patients=0)
        ingest([made["xray"]], folder / "xray", reports=Path(made["xray_reports"]))
        prepare(folder / "xray", store, load_recipe(str(ROOT / "datasets/made/xray_recipe.yaml")))
    content = {
        "store": str(store),
        "encoder": {"name": "resnet", "depth": 10, "spatial_dims": 2, "width": 4, "stem_kernel": 3},
        "method": METHODS[name],
        "views": {"policy": "xray", "size": [24, 24]},
        "training": {"num_steps": NUM_STEPS, "world_batch": 8, "checkpoint_every": 3, "log_every": 1, "schedule": {"warmup_steps": 2}},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


def _kill_saves(folder: Path, kills: int, draw: random.Random) -> dict[str, int]:
    """Kill a process that does nothing but save; what was found afterwards."""
    target, found = folder / "saves", {"kills": 0, "kills that left a partial folder": 0, "newest loads": 0, "no partial after restart": 0}
    for _ in range(kills):
        process = FORK.Process(target=_save_for_ever, args=(target,))
        before = (target / checkpoint.LATEST).read_text() if target.is_dir() else ""
        process.start()
        while not target.is_dir() or not (target / checkpoint.LATEST).is_file() or (target / checkpoint.LATEST).read_text() == before:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        found["kills"] += 1
        found["kills that left a partial folder"] += any(target.glob("*.partial"))
        found["newest loads"] += _in_child(_loads, target)
        found["no partial after restart"] += not any(target.glob("step-*.partial"))
    return found


def _save_for_ever(folder: Path) -> None:
    method, optimizer = _method()
    start = checkpoint.begin(method, optimizer, folder).step
    for step in itertools.count(start + 1):
        checkpoint.save(folder, step, method, optimizer)


def _loads(folder: Path) -> None:
    start = checkpoint.begin(*_method(), folder)
    assert start.step == int((folder / checkpoint.LATEST).read_text().removeprefix("step-")) or _one_later(folder, start.step)


def _one_later(folder: Path, step: int) -> bool:
    """Killed between the rename and the swap of LATEST: the newest whole folder counts."""
    return step == max(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def _method() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    encoder = build_seeded(ResNetConfig(depth=10, spatial_dims=2, width=16), seed=0)
    method = build_seeded(MoCoConfig(queue_size=256), encoder, seed=0)
    return method, build_optimizer(AdamWConfig(), method)


def _in_child(function: Callable[[Path], None], folder: Path) -> bool:
    child = FORK.Process(target=function, args=(folder,))
    child.start()
    child.join()
    return child.exitcode == 0


def _report(rows: list[tuple[str, int, int, int, int, str]], saves: dict[str, int]) -> str:
    kills, good = sum(row[3] for row in rows), sum(row[4] for row in rows)
    return "\n".join(
        [
            f"`kill -9` of every process of a run of {NUM_STEPS} steps (checkpoint every 3), then the same command with another number of "
            f"workers: {good} of {kills} ended bit for bit like the run that was never killed, with every step logged once. "
            f"{platform.machine()}, torch {torch.__version__}, gloo, CPU.",
            "",
            "| method | processes | workers before | kills | bitwise equal | last logged step when killed |",
            "|---|---|---|---|---|---|",
            *(f"| {' | '.join(map(str, row))} |" for row in rows),
            "",
            f"Kills of a process that only saves: {', '.join(f'{name} {count}' for name, count in saves.items())}.",
        ]
    )


if __name__ == "__main__":
    main()

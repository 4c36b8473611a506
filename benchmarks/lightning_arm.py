"""The peer of `kill_resume.py`: a plain project on Lightning, killed in the middle of an epoch and started again from its own checkpoint.

As Lightning's documentation has it: `seed_everything`, a shuffling loader, `ModelCheckpoint(every_n_train_steps=3, save_last=True)`,
`fit(ckpt_path="last")`; once with torch's DataLoader and, where torchdata is there, once with its StatefulDataLoader, whose state
Lightning keeps. The network is medcl's MoCo by `examples/lightning_module.py`; views are images with noise.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import random
import runpy
import time
import warnings
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from medcl.encoders import ResNetConfig, build_seeded
from medcl.foundation.types import Batch
from medcl.methods import MoCoConfig

FORK = multiprocessing.get_context("fork")
ITEMS, BATCH, STEPS, EVERY = 48, 4, 36, 3
EPOCH = ITEMS // BATCH
ROOT = Path(__file__).resolve().parents[1]


def kill_lightning(folder: Path, kills: int, draw: random.Random) -> list[str]:
    """Kill so many runs with each loader and go on; lines of the report."""
    try:
        import lightning  # pyright: ignore[reportMissingImports]
    except ImportError:
        return ["Lightning's arm did not run: install lightning==2.6.*, or give a folder that holds it with `--lightning`."]
    loaders = ["DataLoader", *(["StatefulDataLoader"] if find_spec("torchdata") else [])]
    rows = [_killed(folder / loader, loader, kills, draw) for loader in loaders]
    return [
        f"Lightning {lightning.__version__} beside it: a plain project of {STEPS} steps, {EPOCH} an epoch, a checkpoint every {EVERY}, "
        f"killed in the middle of an epoch and started again with `ckpt_path`. Scans: of the {ITEMS} of the interrupted epoch, mean over "
        "kills; both are 0 where a run ends bit for bit, as medcl's above.",
        "",
        "| loader | not killed, repeats bit for bit | kills | bitwise equal | scans never seen | scans seen twice |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _killed(folder: Path, loader: str, kills: int, draw: random.Random) -> list[str]:
    folder.mkdir()
    _finish(folder / "whole", loader)
    _finish(folder / "again", loader)
    wanted = torch.load(folder / "whole" / "final.pt")
    good, wrong = 0, []
    for kill in range(kills):
        out = folder / str(kill)
        saved = _kill(out, loader, draw)
        _finish(out, loader)
        good += _same(torch.load(out / "final.pt"), wanted)
        wrong.append(_missed_and_repeated(out, saved))
    shares = [f"{sum(pair[side] for pair in wrong) / kills:.1f}" for side in (0, 1)]
    return [loader, "yes" if _same(torch.load(folder / "again" / "final.pt"), wanted) else "no", str(kills), str(good), *shares]


def _kill(out: Path, loader: str, draw: random.Random) -> int:
    """Start a run and kill it after a checkpoint inside an epoch; returns the step of its last checkpoint."""
    while True:
        running = FORK.Process(target=_train, args=(out, loader))
        running.start()
        until = draw.choice([step for step in range(EVERY, STEPS - EVERY) if step % EPOCH > EVERY])
        while running.is_alive() and len(_seen(out)) < until:
            time.sleep(0.001)
        running.kill()
        running.join()
        steps = [int(path.stem.split("-")[1]) for path in out.glob("step-*.ckpt")]
        if steps and max(steps) % EPOCH and not (out / "final.pt").is_file():
            return torch.load(out / "last.ckpt", weights_only=True)["global_step"]
        raise RuntimeError(f"{out}: no checkpoint inside an epoch when it was killed at step {until}")


def _finish(out: Path, loader: str) -> None:
    running = FORK.Process(target=_train, args=(out, loader))
    running.start()
    running.join()
    if running.exitcode:
        raise RuntimeError(f"{out}: ended with exit code {running.exitcode}")


def _train(out: Path, kind: str) -> None:
    import lightning  # pyright: ignore[reportMissingImports]
    from lightning.pytorch.callbacks import ModelCheckpoint  # pyright: ignore[reportMissingImports]

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    out.mkdir(exist_ok=True)
    lightning.seed_everything(0, workers=True, verbose=False)
    encoder = build_seeded(ResNetConfig(depth=10, spatial_dims=2, width=4, stem_kernel=3), seed=0)
    module = _module(build_seeded(MoCoConfig(queue_size=32, momentum=0.9, projection_dim=32), encoder, seed=0), out)
    saves = ModelCheckpoint(out, "step-{step}", auto_insert_metric_name=False, every_n_train_steps=EVERY, save_top_k=-1, save_last=True)
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[saves],
    )
    loader = _loader_class(kind)(_Images(), batch_size=BATCH, shuffle=True, collate_fn=_collate)
    trainer.fit(module, loader, ckpt_path="last" if (out / "last.ckpt").exists() else None)
    torch.save(module.state_dict(), out / "final.pt")


def _loader_class(kind: str) -> Any:
    if kind == "DataLoader":
        return DataLoader
    from torchdata.stateful_dataloader import StatefulDataLoader  # pyright: ignore[reportMissingImports]

    return StatefulDataLoader


def _module(method: Any, out: Path) -> Any:
    """The example's module, and a line for every step: which scans it saw."""
    base = runpy.run_path(str(ROOT / "examples" / "lightning_module.py"))["Pretraining"]

    class Noting(base):
        def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
            with open(out / "seen.jsonl", "a", encoding="utf-8") as handle:
                handle.write(json.dumps([self.global_step, batch.item.tolist()]) + "\n")
            return super().training_step(batch, batch_idx)

    return Noting(method, num_steps=STEPS)


class _Images(Dataset):
    def __init__(self) -> None:
        self.images = torch.nn.functional.interpolate(torch.randn(ITEMS, 1, 6, 6, generator=torch.Generator().manual_seed(0)), size=24)

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, item: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        first, second = (self.images[item] + 0.1 * torch.randn(1, 24, 24) for _ in range(2))
        return item, first, second


def _collate(rows: list[tuple[int, torch.Tensor, torch.Tensor]]) -> Batch:
    item = torch.tensor([row[0] for row in rows])
    return Batch((torch.stack([row[1] for row in rows]), torch.stack([row[2] for row in rows])), item=item, patient=item)


def _seen(out: Path) -> list[tuple[int, list[int]]]:
    path = out / "seen.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("]]")] if path.is_file() else []


def _missed_and_repeated(out: Path, saved: int) -> tuple[int, int]:
    """Scans of the interrupted epoch that the run, as it counts in the end, never saw, and that it saw more than once."""
    at = dict(_seen(out))  # a step that was done again replaces what was lost
    epoch = saved // EPOCH
    counts = Counter(item for step in range(epoch * EPOCH, (epoch + 1) * EPOCH) for item in at.get(step, []))
    return ITEMS - len(counts), sum(count > 1 for count in counts.values())


def _same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())

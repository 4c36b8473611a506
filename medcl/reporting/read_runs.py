"""RUN folders as the page needs them: what was trained, and its figures over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcl.evaluation.facts import shown_path
from medcl.foundation.config import read_yaml
from medcl.foundation.errors import UserError
from medcl.foundation.files import CARD, read_json
from medcl.training.metrics import read_metrics

METRICS = "metrics.jsonl"
FIGURE_WORDS = {
    "loss": "training loss",
    "collapse/spread": "spread of the embedding",
    "collapse/effective_rank": "effective rank of the embedding",
    "collapse/first_direction_share": "share of the first direction",
    "collapse/uniformity": "uniformity (lower: more even)",
}
_COST = ("items_per_s", "waiting_share", "gpu_memory_gib")
_NOT_SHOWN = {"step", "lr", "collapse/collapsed", *_COST}


@dataclass(frozen=True)
class Run:
    """One pretraining run. config: as resolved; records: its logged steps; card, backbone: {} while the run is unfinished."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    records: Sequence[Mapping[str, float]]
    card: Mapping[str, Any]
    backbone: Mapping[str, Any]

    @property
    def steps_done(self) -> int:
        """The last logged step."""
        return int(self.records[-1]["step"]) if self.records else 0

    def series(self, figure: str) -> tuple[list[float], list[float]]:
        """Steps and values of one figure, where it is finite."""
        pairs = [(record["step"], record[figure]) for record in self.records if figure in record]
        kept = [(step, value) for step, value in pairs if isinstance(value, int | float) and math.isfinite(value)]
        return [step for step, _ in kept], [value for _, value in kept]


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read a RUN folder, finished or not."""
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: neither a RUN (no config.yaml) nor a STUDY folder; give folders that pretrain or evaluate made")
    cards = [read_json(path) if path.is_file() else {} for path in (folder / CARD, folder / "backbone" / CARD)]
    return Run(name or folder.resolve().name, folder, read_yaml(folder / "config.yaml"), read_metrics(folder / METRICS), *cards)


def figures_of(runs: Sequence[Run]) -> list[str]:
    """Names of what the runs logged, the loss first, then collapse figures, then probes, then the method's own."""
    names = {name for run in runs for record in run.records for name in record} - _NOT_SHOWN
    groups = ("loss", "probe/", "collapse/")
    return sorted(
        names, key=lambda name: (next((place for place, start in enumerate(groups) if name.startswith(start)), len(groups)), name)
    )


def overview(run: Run) -> dict[str, str]:
    """What the comparison table says of a run: words by column."""
    method, encoder, training = (run.config.get(part, {}) for part in ("method", "encoder", "training"))
    size = "×".join(str(length) for length in run.config.get("views", {}).get("size", ()))
    rate = run.series("items_per_s")[1]
    waiting = run.series("waiting_share")[1]
    memory = run.series("gpu_memory_gib")[1]
    return {
        "method": str(method.get("name", "")),
        "encoder": f"{encoder.get('name', '')} {encoder.get('depth', '')} {encoder.get('spatial_dims', '')}D",
        "views": f"{Path(str(run.config.get('views', {}).get('policy', ''))).stem} {size}",
        "steps": f"{run.steps_done:,} of {training.get('num_steps', 0):,}",
        "batch": str(training.get("world_batch", "")),
        "time": _time(run, rate),
        "items per s": f"{sum(rate) / len(rate):,.0f}" if rate else "",
        "waiting": f"{sum(waiting) / len(waiting):.0%}" if waiting else "",
        "GPU memory": f"{max(memory):.1f} GiB" if memory else "",
        "last loss": f"{run.series('loss')[1][-1]:.3f}" if run.series("loss")[1] else "",
        "collapse": "named collapsed" if any(record.get("collapse/collapsed") for record in run.records) else "none seen",
        "weights": str(run.backbone.get("files", {}).get("weights.safetensors", ""))[:12],
    }


def shown_config(run: Run) -> dict[str, Any]:
    """The settings without absolute paths."""
    paths = {name: shown_path(Path(value)) for name, value in run.config.items() if name in ("store", "initial") and value}
    return {**run.config, **paths}


def _time(run: Run, rate: Sequence[float]) -> str:
    """Training time from the rate: what was logged holds no clock."""
    batch = run.config.get("training", {}).get("world_batch", 0)
    if not rate:
        return ""
    seconds = run.steps_done * batch / (sum(rate) / len(rate))
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"

"""RUN folders as the page needs them: what was trained, and its figures over the steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
    "probe/balanced_accuracy": "nearest neighbours: balanced accuracy",
    "items_per_s": "items per second",
    "waiting_share": "share of the time spent waiting for data",
    "memory_gib": "memory, GiB",
    "gpu_memory_gib": "GPU memory, GiB",
    "alignment": "squared distance of a pair",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "negatives/hardest_similarity": "similarity of the hardest negative",
    "negatives/suspected_false": "share of suspected false negatives",
    "teacher/distance": "distance of the teacher",
}
COST = ("items_per_s", "waiting_share", "memory_gib", "gpu_memory_gib")
_SECTIONS = {"losses": ("loss",), "probes": ("probe/",), "collapse": ("collapse/",), "cost": COST}
_NOT_SHOWN = {"step", "collapse/collapsed", "leak"}


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


def sections_of(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What the runs logged at more than one step, by section: losses, probes, collapse, cost, and `more` for each method's own."""
    names = sorted({name for run in runs for record in run.records for name in record} - _NOT_SHOWN)
    found: dict[str, list[str]] = {section: [] for section in (*_SECTIONS, "more")}
    for name in names:
        if any(len(run.series(name)[0]) > 1 for run in runs):
            section = next((own for own, starts in _SECTIONS.items() if name in starts or name.startswith(_folders(starts))), "more")
            found[section].append(name)
    return found


def _folders(starts: Sequence[str]) -> tuple[str, ...]:
    return tuple(start for start in starts if start.endswith("/"))


def headline_of(runs: Sequence[Run]) -> str:
    """One plain sentence. Who is ahead is said only where all were trained on one store and probed with one label, and one is."""
    if len(runs) == 1:
        seconds = _seconds(runs[0])
        done = f"{runs[0].steps_done:,} steps" + (f" in {_words_of(seconds)}" if seconds else "")
        return f"{runs[0].name}: {runs[0].config.get('method', {}).get('name', 'pretraining')}, {done}"
    probes = set.intersection(*(set(_probes(run)) for run in runs))
    alike = len({(str(run.config.get("store")), str(run.config.get("probe_label"))) for run in runs}) == 1
    if not probes or not alike:
        return f"{len(runs)} pretraining runs side by side"
    name = min(probes)
    words = FIGURE_WORDS.get(name, name.removeprefix("probe/").replace("_", " "))
    (best, ahead), (second, _), *_ = sorted(((run.series(name)[1][-1], run.name) for run in runs), reverse=True)
    if f"{best:.3f}" == f"{second:.3f}":
        return f"{len(runs)} pretraining runs side by side; by its probe none ends ahead ({words} {best:.3f})"
    others = f"{len(runs) - 1} other{'s' if len(runs) > 2 else ''}"
    return f"{ahead} ends ahead of {others} by its probe ({words} {best:.3f}, then {second:.3f})"


def overview(run: Run) -> dict[str, str]:
    """What the comparison table says of a run: words by column."""
    method, encoder, training = (run.config.get(part, {}) for part in ("method", "encoder", "training"))
    size = "×".join(str(length) for length in run.config.get("views", {}).get("size", ()))
    seconds, items = _seconds(run), run.steps_done * training.get("world_batch", 0)
    waiting = run.series("waiting_share")[1]
    memory, on_gpu = run.series("memory_gib")[1], run.series("gpu_memory_gib")[1]
    return {
        "method": str(method.get("name", "")),
        "encoder": f"{encoder.get('name', '')} {encoder.get('depth', '')} {encoder.get('spatial_dims', '')}D",
        "views": f"{_policy(run)} {size}",
        "steps": f"{run.steps_done:,} of {training.get('num_steps', 0):,}",
        "batch": str(training.get("world_batch", "")),
        "scans seen": f"{items:,}" if items else "",
        "time": _words_of(seconds) if seconds else "",
        "items per s": f"{items / seconds:,.0f}" if seconds else "",
        "waiting": f"{sum(waiting) / len(waiting):.0%}" if waiting else "",
        "memory": f"{max(memory):.1f} GiB" if memory else "",
        "GPU memory": f"{max(on_gpu):.1f} GiB" if on_gpu else "",
        "last loss": f"{run.series('loss')[1][-1]:.3f}" if run.series("loss")[1] else "",
        **{FIGURE_WORDS.get(name, name.removeprefix("probe/")): _last(run, name) for name in _probes(run)},
        "collapse": "named collapsed" if any(record.get("collapse/collapsed") for record in run.records) else "none seen",
        "leak between items": f"{run.series('leak')[1][0]:.1%}" if run.series("leak")[1] else "",
        "weights": str(run.backbone.get("files", {}).get("weights.safetensors", ""))[:12],
    }


def _policy(run: Run) -> str:
    """The policy's own name, as the backbone knows it; of an unfinished run the name or the file in its settings."""
    named = run.backbone.get("views", {}).get("policy", {}).get("name")
    return str(named or shown_path(Path(str(run.config.get("views", {}).get("policy", "")))))


def shown_config(run: Run) -> dict[str, Any]:
    """The settings without absolute paths, and of a tracker's server no more than its name: an address may hold a password."""
    content = copy.deepcopy(dict(run.config))
    for part, name, shown in (
        (content, "store", _as_path),
        (content, "initial", _as_path),
        (content.get("views"), "policy", _as_path),
        ((content.get("watch") or {}).get("mlflow"), "uri", _as_server),
    ):
        if part and part.get(name):
            part[name] = shown(str(part[name]))
    return content


def _as_path(text: str) -> str:
    return shown_path(Path(text))


def _as_server(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname or ''}" if parts.scheme else _as_path(address)


def _probes(run: Run) -> list[str]:
    names = {name for record in run.records for name in record if name.startswith("probe/")}
    return sorted(name for name in names if run.series(name)[1])


def _last(run: Run, figure: str) -> str:
    """The last value of a figure, and the best where that was another step's."""
    steps, values = run.series(figure)
    if not values:
        return ""
    best = max(range(len(values)), key=values.__getitem__)
    return f"{values[-1]:.3f}" + (f" (best {values[best]:.3f} at step {steps[best]:,})" if values[best] > values[-1] else "")


def _seconds(run: Run) -> float:
    """Training time from the rates: what was logged holds no clock. Each rate is that of the steps since the last one."""
    steps, rates = run.series("items_per_s")
    batch = run.config.get("training", {}).get("world_batch", 0)
    return sum((step - before) * batch / rate for before, step, rate in zip([0, *steps], steps, rates, strict=False) if rate > 0)


def _words_of(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"

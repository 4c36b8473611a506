"""Who looks on while a run learns: collapse, negatives, leaks, waiting, probe, TensorBoard. None of them changes what is learned."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medcl.encoders.contract import Encoder
from medcl.foundation import distributed
from medcl.foundation.config import Settings
from medcl.foundation.errors import DataError
from medcl.foundation.progress import Progress, Silent
from medcl.foundation.types import Batch, StepOutput
from medcl.methods.method import Method
from medcl.methods.parts import Teacher
from medcl.monitoring.collapse import CollapseLimits, collapse_figures, collapse_reason
from medcl.monitoring.negatives import hardest_negatives, negative_figures
from medcl.training.trackers import MLflowConfig, WandbConfig


@dataclass(frozen=True)
class Moment:
    """What a watcher sees after a step.

    step: how many are done. backbone(): the one that is exported, which may be an average of what `method` holds; every process must ask.
    """

    step: int
    num_steps: int
    method: Method
    batch: Batch
    output: StepOutput
    backbone: Callable[[], Encoder]


class Watcher(Protocol):
    """Called after every step on every process. state: what it must remember across a resume, as JSON."""

    state: dict[str, Any]

    def look(self, moment: Moment, figures: dict[str, float]) -> dict[str, float]:
        """Figures to log at this step; {} where it has none. `figures`: what the loop and earlier watchers log."""
        ...

    def close(self) -> None:
        """The run has ended, in whatever way."""
        ...


class WatchConfig(Settings):
    """What is watched closely, and who else is told; nothing here changes what is learned.

    on_collapse: `warn` says it once; `stop` ends the run, leaving the last checkpoint. collapse: from where on they count as collapsed;
    looks: how many looks in a row, every ten steps, must find them so, after grace_steps. leak: relative change of an embedding with the
    other items of its batch, above which a warning is given. mlflow, wandb: trackers that get every figure; none by default.
    """

    on_collapse: Literal["warn", "stop"] = "warn"
    collapse: CollapseLimits = Field(default_factory=CollapseLimits)
    grace_steps: int = Field(default=30, ge=0)
    looks: int = Field(default=3, ge=1)
    leak: float = Field(default=1e-3, ge=0)
    mlflow: MLflowConfig | None = None
    wandb: WandbConfig | None = None


class CollapseWatch:
    """Looks at the embeddings every ten steps, and says or stops where they are collapsed.

    The figures of the first step are what the later ones are held against.
    """

    every = 10

    def __init__(self, config: WatchConfig | None = None, progress: Progress | None = None) -> None:
        self.config, self.progress = config or WatchConfig(), progress or Silent()
        self.state: dict[str, Any] = {"first": None, "in_a_row": 0, "named": False}

    def look(self, moment: Moment, figures: dict[str, float]) -> dict[str, float]:
        """Figures `collapse/...` and `collapse/collapsed` (1 while collapsed)."""
        if moment.step != 1 and moment.step % self.every:
            return {}
        found = collapse_figures(moment.output.embeddings)
        self.state["first"] = self.state["first"] or found
        late = moment.step > self.config.grace_steps
        reason = collapse_reason(found, self.state["first"], self.config.collapse) if late else None
        self.state["in_a_row"] = self.state["in_a_row"] + 1 if reason else 0
        collapsed = self.state["in_a_row"] >= self.config.looks
        if collapsed and not self.state["named"]:
            self.state["named"] = True
            self._name(moment.step, str(reason))
        return {f"collapse/{name}": value for name, value in found.items()} | {"collapse/collapsed": float(collapsed)}

    def close(self) -> None:
        """Nothing to close."""

    def _name(self, step: int, reason: str) -> None:
        message = f"collapsed at step {step}: {reason}; lower the learning rate, or check that the method has negatives or a predictor"
        if self.config.on_collapse == "stop":
            raise DataError(message + " (watch.on_collapse is stop; the last checkpoint is from before)")
        if distributed.rank() == 0:
            self.progress.say("warning: " + message)


class LearningWatch:
    """Every ten steps: how hard negatives are, and how far a momentum teacher is from its student. Once: whether items leak."""

    every = 10

    def __init__(self, config: WatchConfig | None = None, progress: Progress | None = None) -> None:
        self.config, self.progress = config or WatchConfig(), progress or Silent()
        self.state: dict[str, Any] = {}

    def look(self, moment: Moment, figures: dict[str, float]) -> dict[str, float]:
        """Figures `negatives/...`, `teacher/distance` where there is one, and `leak` at the first step."""
        found = self._leak(moment) if moment.step == 1 else {}
        if moment.step != 1 and moment.step % self.every:
            return found
        patient, embeddings = distributed.gather(moment.batch.patient), moment.output.embeddings
        if len(patient) == len(embeddings):
            aligned = moment.output.scalars.get("alignment")
            negatives = negative_figures(embeddings, patient, None if aligned is None else float(aligned))
            found |= {f"negatives/{name}": value for name, value in negatives.items()}
        teacher = getattr(moment.method, "teacher", None)
        if isinstance(teacher, Teacher):
            found["teacher/distance"] = teacher.distance(moment.method.backbone, moment.method.head)  # type: ignore[arg-type]
        return found

    def close(self) -> None:
        """Nothing to close."""

    def _leak(self, moment: Moment) -> dict[str, float]:
        found = leak(moment.method, moment.batch)
        if found > self.config.leak and distributed.rank() == 0:
            self.progress.say(
                f"warning: an item's embedding changes by {found:.1%} with the other items of its batch (BatchNorm?): a method can tell "
                "positives by that, and two processes do not learn what one does; take a network without BatchNorm"
            )
        return {"leak": found}


@torch.no_grad()
def leak(method: Method, batch: Batch) -> float:
    """Largest relative change of the embeddings of a batch's first half when the other half shows other images; 0 = none."""
    half = len(batch) // 2
    others = replace(batch, views=tuple(torch.cat([view[:half], view[half:].flip(0) * -2 + 1]) for view in batch.views))
    worst = 0.0
    state = torch.get_rng_state()
    pairs = []
    for given in (batch, others):
        torch.set_rng_state(state)  # the same dropout
        pairs.append(method.encode(given, 0.0))
    for before, after in zip(*pairs, strict=True):
        if half and before.is_floating_point():
            worst = max(worst, float((before[:half] - after[:half]).norm() / before[:half].norm().clamp(min=1e-12)))
    return worst


class WaitingWatch:
    """Says once, where two logs in a row tell that a fifth of the time and more was waited for data, how many `workers` there are."""

    def __init__(self, workers: int, progress: Progress | None = None) -> None:
        self.workers, self.progress = workers, progress or Silent()
        self.state: dict[str, Any] = {"in_a_row": 0}

    def look(self, moment: Moment, figures: dict[str, float]) -> dict[str, float]:
        """No figure of its own."""
        share = figures.get("waiting_share")
        if share is not None and self.state["in_a_row"] < 2:
            self.state["in_a_row"] = self.state["in_a_row"] + 1 if share > 0.2 else 0
            if self.state["in_a_row"] == 2 and distributed.rank() == 0:
                self.progress.say(
                    f"warning: {share:.0%} of the time is waited for data; more training.workers ({self.workers} now, as many as there are "
                    "cores help) change nothing but that: stop the run and begin it again with more, it goes on"
                )
        return {}

    def close(self) -> None:
        """Nothing to close."""


class ProbeWatch:
    """Every so many steps, and at the end, asks the caller's function how good the backbone is: (encoder) -> {name: value}."""

    def __init__(self, every: int, probe: Callable[[Encoder], dict[str, float]]) -> None:
        self.every, self.probe = every, probe
        self.state: dict[str, Any] = {}

    def look(self, moment: Moment, figures: dict[str, float]) -> dict[str, float]:
        """Figures `probe/...`, on the first process only."""
        if moment.step % self.every and moment.step != moment.num_steps:
            return {}
        backbone = moment.backbone()
        if distributed.rank() != 0:
            return {}
        backbone.eval()
        with torch.no_grad():
            found = self.probe(backbone)
        backbone.train()
        return {f"probe/{name}": value for name, value in found.items()}

    def close(self) -> None:
        """Nothing to close."""


class TensorBoardWatch:
    """Writes every figure for TensorBoard, and now and then a sheet of views, one of nearest neighbours and the embeddings for its
    projector (all of the batch at hand; points are named by row of the store; neither where a method's embeddings are not one a scan).
    Put it last: it writes what the others found. unseen: rows of scans that no sheet may show, since a name may be in their pixels."""

    def __init__(self, folder: Path, views_every: int, unseen: Collection[int] = ()) -> None:
        self.folder, self.views_every, self.unseen = folder, views_every, frozenset(unseen)
        self.state: dict[str, Any] = {}
        self._writer: Any = None

    def look(self, moment: Moment, figures: dict[str, float]) -> dict[str, float]:
        """Writes on the first process; adds no figure."""
        due = moment.step == 1 or moment.step % self.views_every == 0
        if distributed.rank() != 0 or not (figures or due):
            return {}
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # purge_step: what an interrupted run wrote beyond its checkpoint disappears from the curves.
            self._writer = SummaryWriter(str(self.folder), purge_step=moment.step)
        for name, value in figures.items():
            self._writer.add_scalar(name, value, moment.step)
        if due:
            self._draw(moment)
        return {}

    def close(self) -> None:
        """Flush to disk."""
        if self._writer is not None:
            self._writer.close()

    def _draw(self, moment: Moment) -> None:
        batch = moment.batch
        shown = [place for place, row in enumerate(batch.item.tolist()) if row not in self.unseen]
        self._sheet("views (one row per scan)", [view[shown] for view in batch.views], moment.step)
        if len(moment.output.embeddings) == len(batch) * distributed.world_size():  # of voxels there are more, the first all of one scan
            embeddings = moment.output.embeddings[: len(batch)].float()  # the first process's own come first
            nearest = hardest_negatives(embeddings, batch.patient)[1]
            both = [place for place in shown if place < len(nearest) and int(nearest[place]) in shown]
            pairs = [batch.views[0][both], batch.views[0][nearest[both]]]
            self._sheet("a scan beside its nearest of another patient", pairs, moment.step)
            self._writer.add_embedding(embeddings, [str(row) for row in batch.item.tolist()], global_step=moment.step, tag="embeddings")

    def _sheet(self, title: str, views: Sequence[Tensor], step: int) -> None:
        if len(views[0]):
            self._writer.add_image(title, view_sheet(views), step, dataformats="HW")


def view_sheet(views: Sequence[Tensor], items: int = 4) -> np.ndarray:
    """Views side by side, one row per item, as (height, width) in 0..1: a picture, or the three middle planes of a volume."""
    rows = []
    for item in range(min(items, len(views[0]))):
        tiles = [plane for view in views for plane in _planes(view[item, 0].float().cpu().numpy())]
        height = max(tile.shape[0] for tile in tiles)
        rows.append(np.concatenate([np.pad(tile, ((0, height - tile.shape[0]), (0, 2)), constant_values=1.0) for tile in tiles], axis=1))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 2), (0, width - row.shape[1])), constant_values=1.0) for row in rows])


def _planes(image: np.ndarray) -> list[np.ndarray]:
    low, high = float(image.min()), float(image.max())
    image = (image - low) / max(high - low, 1e-6)
    if image.ndim == 2:
        return [image]
    x, y, z = (length // 2 for length in image.shape)
    # As a radiologist looks: front of the patient up in axial planes, head up in the other two (arrays are RAS).
    return [plane.T[::-1] for plane in (image[:, :, z], image[:, y, :], image[x])]

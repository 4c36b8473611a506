"""Fine-tuning: one more Method in the same loop; first the new head learns, then everything."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from medcl.encoders import Encoder
from medcl.evaluation.distillation import Distillation
from medcl.evaluation.embed import embed_rows, training_windows
from medcl.evaluation.settings import DistillConfig, FinetuneConfig
from medcl.evaluation.study_data import Draws
from medcl.evaluation.targets import Fitted, Target
from medcl.foundation.types import Batch, StepOutput
from medcl.loading.batches import Batches, Draw
from medcl.methods.method import Method
from medcl.store.volume_store import VolumeStore
from medcl.training.launch import Place
from medcl.training.loop import BatchSource, TrainingConfig, train
from medcl.training.optimizer import AdamWConfig
from medcl.training.schedule import ScheduleConfig
from medcl.training.watchers import Moment
from medcl.views.batched import ViewMaker, ViewParameters


class Headed(Method):
    """An encoder with a linear head of `width` outputs. loss: (outputs, targets) -> scalar."""

    num_views = 1

    def __init__(self, encoder: Encoder, width: int, loss: nn.Module, head_share: float) -> None:
        super().__init__()
        self.backbone = encoder
        self.head = nn.Linear(encoder.dim, width)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.loss = loss
        self.head_share = head_share

    def encode(self, batch: Batch, progress: float) -> tuple[Tensor, ...]:
        """Outputs (batch, width) and targets (batch, ...); while only the head learns, nothing flows into the encoder."""
        pooled = self.backbone(batch.views[0]).pooled
        pooled = pooled.detach() if progress < self.head_share else pooled
        assert batch.target is not None
        return self.head(pooled), batch.target

    def compare(self, embeddings: tuple[Tensor, ...], progress: float) -> StepOutput:
        """The loss of the whole batch."""
        outputs, target = embeddings
        return StepOutput(self.loss(outputs.float(), target), outputs.detach())

    def outputs(self, images: Tensor) -> Tensor:
        """(n, 1, *space) -> (n, width)."""
        return self.head(self.backbone(images).pooled).float()


class BestStep:
    """Looks at the method now and then, and keeps the state with the highest score. score: called in eval mode."""

    def __init__(self, score: Callable[[], tuple[float, ...]], num_steps: int, looks: int) -> None:
        self.score = score
        self.at = {max(1, round(num_steps * (look + 1) / looks)) for look in range(looks)}
        self.state: dict[str, Any] = {}
        self.best: tuple[float, ...] | None = None
        self.step = 0
        self._kept: dict[str, Tensor] = {}

    def look(self, moment: Moment, figures: dict[str, float]) -> dict[str, float]:
        """Score the steps that are due."""
        if moment.step in self.at:
            moment.method.eval()
            found = self.score()
            moment.method.train()
            if self.best is None or found > self.best:
                self.best, self.step = found, moment.step
                self._kept = copy.deepcopy(moment.method.state_dict())
        return {}

    def close(self) -> None:
        """Nothing to close."""

    def restore(self, method: nn.Module) -> None:
        """Put the best state back."""
        method.load_state_dict(self._kept)


def plain_windows(maker: ViewMaker) -> Draw:
    """Views that are not augmented: the whole field, or its windows in turn, by the key."""

    def draw(store: VolumeStore, row: int, key: tuple[int, int, int], num_views: int) -> list[ViewParameters]:
        windows = maker.windows(store.shape(row), store.affine(row))
        return [windows[(key[1] + view) % len(windows)] for view in range(num_views)]

    return draw


@dataclass(frozen=True)
class Budget:
    """Where and how long every fit of a study trains."""

    config: FinetuneConfig
    place: Place
    seed: int

    def train(self, method: Method, batches: BatchSource, learning_rate: float, batch: int, watcher: BestStep) -> None:
        """One fit in the house's loop, nothing kept on disk; ends with the best step restored."""
        steps = self.config.num_steps
        training = TrainingConfig(
            num_steps=steps,
            world_batch=batch,
            seed=self.seed,
            precision=self.config.precision,
            workers=self.config.workers,
            optimizer=AdamWConfig(lr=learning_rate, weight_decay=self.config.weight_decay, layer_decay=self.config.layer_decay),
            schedule=ScheduleConfig(warmup_steps=round(self.config.warmup_share * steps), final_share=0.01),
            log_every=steps,
        )
        train(method, batches, training, place=self.place, watchers=[watcher])
        watcher.restore(method)
        method.eval()


class FinetuneFits:
    """Fine-tunes of one init. build: draw -> a new encoder; rows: the store's row of every case; maker: its views."""

    def __init__(
        self,
        build: Callable[[int], Encoder],
        store: VolumeStore,
        rows: np.ndarray,
        maker: ViewMaker,
        target: Target,
        draws: Draws,
        budget: Budget,
    ) -> None:
        self.build, self.store, self.rows, self.target, self.draws, self.budget = build, store, rows, target, draws, budget
        self.maker = maker

    def fit(self, labelled: np.ndarray, draw: int, learning_rate: float) -> Fitted:
        """One fine-tune on the labelled cases of a draw."""
        method, best = self.learn(labelled, draw, learning_rate)
        return self._fitted(method, best, labelled, {"learning_rate": learning_rate})

    def learn(self, labelled: np.ndarray, draw: int, learning_rate: float) -> tuple[Headed, BestStep]:
        """The network of the step that validation holds best."""
        loss = self.target.loss(labelled, self.budget.config.class_weights)
        return self._train(loss, labelled, self.target.label, labelled, draw, learning_rate)

    def distill(self, labelled: np.ndarray, draw: int, learning_rate: float, config: DistillConfig) -> Fitted:
        """A student from the same start learns what the fine-tuned teacher says of every training image, labelled or not."""
        teacher, _ = self.learn(labelled, draw, learning_rate)
        pool = self.draws.train
        said = self._said(teacher.outputs, pool)
        truth = np.zeros_like(said)
        known = np.isin(pool, labelled)
        truth[known, self.target.label[pool[known]]] = 1
        lessons = np.zeros((len(self.rows), 2, self.target.width), dtype=np.float32)
        lessons[pool] = np.stack([said, truth], axis=1)
        loss = Distillation(self.target.loss(labelled, self.budget.config.class_weights), config.temperature, config.label_share)
        method, best = self._train(loss, pool, lessons, labelled, draw, learning_rate)
        choice: dict[str, float | str] = {"learning_rate": learning_rate, **config.model_dump(), "unlabelled": int((~known).sum())}
        return self._fitted(method, best, labelled, choice)

    def _train(
        self, loss: nn.Module, shown: np.ndarray, of_case: np.ndarray, labelled: np.ndarray, draw: int, learning_rate: float
    ) -> tuple[Headed, BestStep]:
        """shown: the cases to learn from, each with its row of `of_case`; labelled: those whose shares of the classes count."""
        config = self.budget.config
        method = Headed(self.build(draw), self.target.width, loss, config.head_share)
        batch = min(config.batch, len(shown))
        targets = np.zeros((len(self.store), *of_case.shape[1:]), dtype=of_case.dtype)
        targets[self.rows] = of_case
        batches = Batches(
            self.store,
            self.maker,
            num_views=1,
            world_batch=batch,
            seed=self.budget.seed + draw,
            workers=config.workers,
            rows=self.rows[shown],
            targets=targets,
            draw=plain_windows(self.maker) if config.views == "plain" else None,
            device=self.budget.place.gpu,
        )
        best = BestStep(lambda: self._judge(method, labelled), config.num_steps, config.looks)
        self.budget.train(method, batches, learning_rate, batch, best)
        return method, best

    def _fitted(self, method: Headed, best: BestStep, labelled: np.ndarray, choice: dict[str, float | str]) -> Fitted:
        assert best.best is not None
        said = self._predict(method, self.draws.test, labelled)
        return Fitted(self.target.outcome(said, labelled, self.draws.test), {**choice, "step": best.step}, best.best[0])

    def _judge(self, method: Headed, labelled: np.ndarray) -> tuple[float, float]:
        return self.target.judge(self._predict(method, self.draws.val, labelled), labelled, self.draws.val)

    def _predict(self, method: Headed, part: np.ndarray, labelled: np.ndarray) -> np.ndarray:
        said = self._said(lambda images: self.target.activate(method.outputs(images)), part)
        return self.target.restored(said, labelled, self.budget.config.class_weights)

    def _said(self, network: Callable[[Tensor], Tensor], part: np.ndarray) -> np.ndarray:
        windows = training_windows(self.maker, self.store)
        return embed_rows(network, self.store, self.rows[part], windows, self.maker, device=self.budget.place.device)


def field_maker(maker: ViewMaker, store: VolumeStore, rows: np.ndarray, most_voxels: int) -> ViewMaker:
    """The same views on a grid that holds the whole field of every row at the training's resolution, where that is small enough.

    A label belongs to a scan, not to a crop of it: a window need not show what the label is about. Pictures, which are
    shown whole anyway, and fields above `most_voxels` keep the training's own grid. Local views, which are for pretraining, are left out.
    """
    if maker.keep is not None:
        return maker
    pitch = np.array([maker.windows(store.shape(int(row)), store.affine(int(row)))[0].spacing_mm for row in rows])
    field = np.array([np.array(store.shape(int(row))) * np.linalg.norm(store.affine(int(row))[:3, :3], axis=0) for row in rows])
    grid = np.maximum(np.ceil(np.max(field / pitch, axis=0) / 8 - 1e-6) * 8, maker.size).astype(int)
    fixed_pitch = np.ptp(pitch, axis=0).max() < 1e-6
    if np.prod(grid) > most_voxels or np.array_equal(grid, maker.size) or not fixed_pitch:
        return maker
    size = (int(grid[0]), int(grid[1]), int(grid[2]))
    x, y, z = (float(length) for length in pitch[0] * grid)
    config = maker.config.model_copy(update={"size": size, "local": None})
    return ViewMaker(config, maker.recipe, maker.paired, maker.policy.model_copy(update={"extent_mm": (x, y, z)}))

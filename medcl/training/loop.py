"""The loop: batch, gradient, step, look, log, save; exact to the bit when it goes on after a stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from pydantic import Field

from medcl.encoders.contract import Encoder
from medcl.foundation import distributed
from medcl.foundation.config import Settings
from medcl.foundation.errors import DataError, Stopped, UserError
from medcl.foundation.progress import Progress, Silent
from medcl.foundation.randomness import seed_torch
from medcl.foundation.types import Batch, StepOutput
from medcl.methods.method import Method
from medcl.training import checkpoint
from medcl.training.grad_cache import backward_in_pieces, check_pieces
from medcl.training.launch import Place, StopRequest, here, naming_lost_ranks, same_sums
from medcl.training.metrics import MetricsLog, Stopwatch, operations_of
from medcl.training.network import Network, NetworkConfig
from medcl.training.optimizer import AdamWConfig, OptimizerConfig, build_optimizer
from medcl.training.schedule import ScheduleConfig, learning_rate_share
from medcl.training.watchers import Moment, Watcher

# What torch says of an operation under `launch.same_sums`.
_UNORDERED = " does not have a deterministic implementation"


class TrainingConfig(Settings):
    """How long, how fast, how held.

    world_batch: items of one step on all processes together. pieces: parts in which each process computes its batch, to save memory: what
    gradient accumulation is elsewhere, but exact, as the items of all pieces are compared with each other. precision: bf16 runs networks
    under autocast on a GPU; losses are float32 either way, and a CPU computes in fp32 (the weight gradients of torch 2.13's bf16 3D
    convolutions are not finite there for maps of 2x2x2 voxels). workers: threads that make views, or processes that only read where a GPU
    computes them. network: how the network is held: averaged, computed anew, split, compiled. checkpoint_every, log_every, probe_every:
    steps. keep: which checkpoints stay. time_limit_s: after it the run saves and stops with exit code 75. on_unreadable: what happens at a
    scan of the store that cannot be read (a rotten disk): the run stops, or names it and goes on with the next scan in its place.
    """

    num_steps: int = Field(ge=1)
    world_batch: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    pieces: int = Field(default=1, ge=1)
    network: NetworkConfig = Field(default_factory=NetworkConfig)
    workers: int = Field(default=2, ge=0)
    optimizer: OptimizerConfig = Field(default_factory=AdamWConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    checkpoint_every: int = Field(default=500, ge=1)
    keep: checkpoint.KeepConfig = Field(default_factory=checkpoint.KeepConfig)
    log_every: int = Field(default=10, ge=1)
    probe_every: int = Field(default=500, ge=1)
    time_limit_s: float | None = Field(default=None, gt=0)
    on_unreadable: Literal["stop", "skip"] = "stop"


class BatchSource(Protocol):
    """What the loop needs of `loading.Batches`: a batch is a pure function of its step."""

    def iterate(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """Batches of this process for steps start..stop-1."""
        ...


@dataclass(frozen=True)
class TrainResult:
    """steps: how many are done. figures: the last that were logged."""

    steps: int
    figures: dict[str, float]


def train(
    method: Method,
    batches: BatchSource,
    config: TrainingConfig,
    *,
    folder: Path | None = None,
    place: Place | None = None,
    watchers: Sequence[Watcher] = (),
    on_save: Callable[[int, Encoder], None] | None = None,
    resume: Path | None = None,
    weights: Path | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a method in place; the same call again goes on where the last one stopped.

    folder: gets `metrics.jsonl` and `checkpoints/`; None keeps nothing. place: from `launch.joined()`; None is this process
    alone. on_save(step, backbone): called on the first process at step 0, before anything is learned, and at the end.
    resume, weights: see `checkpoint.begin`. Raises Stopped (exit 75) after a signal or the time limit, everything
    saved; UserError or DataError, with step and items, where a loss or a gradient is not finite or memory runs out; MedclError
    naming the rank where another process died.
    """
    place, progress = place or here(), progress or Silent()
    with ExitStack() as stack:
        stack.enter_context(same_sums(place.device, config.network.exact))
        run = Run(method, config, place, watchers)
        start = checkpoint.begin(
            method, run.optimizer, _checkpoints(folder), resume=resume, weights=weights, average=run.network.average, progress=progress
        )
        _remember(start, watchers, config)
        if start.step == 0:
            run.hand_over(0, on_save)
        else:
            progress.say(f"going on after step {start.step} of {config.num_steps}")
        run.latest = dict(start.figures)
        for doubt in _doubts(config, run.low_precision):
            progress.say(doubt)
        log = MetricsLog(folder / "metrics.jsonl" if folder else None, start.step)
        figures: dict[str, float] = {}
        stack.enter_context(naming_lost_ranks())
        for watcher in watchers:
            stack.callback(watcher.close)
        stop = stack.enter_context(StopRequest(config.time_limit_s))
        source = stack.enter_context(closing(batches.iterate(start.step, config.num_steps)))
        steps = progress.track(range(start.step, config.num_steps), config.num_steps, "pretrain", done=start.step)
        watch = Stopwatch()
        for step, (batch, waited) in zip(steps, timed(source), strict=True):
            moment = run.step(step, batch.to(place.device))
            watch.step(waited)
            found = run.look(moment, watch)
            if found:
                figures = found
                log.write({"step": moment.step, **figures})
            stopping = distributed.any_process(stop.reason is not None, place.device) and moment.step < config.num_steps
            if stopping or _due(moment, config.checkpoint_every):
                run.save(_checkpoints(folder), moment.step)
            if stopping:
                raise _stopped(moment, stop, folder)
    run.hand_over(config.num_steps, on_save)
    distributed.barrier()
    return TrainResult(config.num_steps, figures)


class Run:
    """What one step needs. operations: floating-point operations of a step of this process, None until they were counted."""

    def __init__(self, method: Method, config: TrainingConfig, place: Place, watchers: Sequence[Watcher]) -> None:
        _check_batch(method, config.world_batch)
        check_pieces(method, config.pieces, config.world_batch // place.world_size)
        self.method, self.config, self.place, self.watchers = method, config, place, watchers
        self.network = Network(method, config.network, place)
        self.optimizer = build_optimizer(config.optimizer, method)
        self.loss, self.lr, self.grad_norm = 0.0, 0.0, 0.0
        self.latest: dict[str, float] = {}
        self.low_precision = config.precision == "bf16" and place.device.type == "cuda"
        self.operations: int | None = None
        # What is compiled is not seen by who counts.
        self.counts = place.device.type == "cuda" and not config.network.compile

    def step(self, step: int, batch: Batch) -> Moment:
        """Learn from one batch."""
        seed_torch(self.config.seed, step, self.place.rank)
        progress = step / self.config.num_steps
        self.lr = self.config.optimizer.lr * learning_rate_share(step, self.config.num_steps, self.config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group["lr_share"]
        self.optimizer.zero_grad(set_to_none=True)
        if self.counts and self.operations is None:
            output, self.operations = operations_of(lambda: self._backward(step, batch, progress))
        else:
            output = self._backward(step, batch, progress)
        norm = distributed.whole(
            torch.nn.utils.get_total_norm([value.grad for value in self.method.parameters() if value.grad is not None])
        )
        self.loss, self.grad_norm = torch.stack([output.loss.detach(), norm.to(output.loss)]).tolist()
        if not math.isfinite(self.loss + self.grad_norm):
            raise _not_finite(step, batch, self.config, "gradient" if math.isfinite(self.loss) else "loss")
        self.optimizer.step()
        self.method.after_step(output, progress)
        self.network.follow(step)
        return Moment(step + 1, self.config.num_steps, self.method, batch, output, self.network.backbone)

    def _backward(self, step: int, batch: Batch, progress: float) -> StepOutput:
        try:
            with torch.autocast(self.place.device.type, torch.bfloat16, enabled=self.low_precision):
                if self.config.pieces > 1:
                    return backward_in_pieces(self.network.engine, self.method, batch, self.config.pieces, progress)
                output = self.network.engine(batch, progress)
            output.loss.backward()
            return output
        except (RuntimeError, MemoryError) as error:
            if _UNORDERED in str(error):
                raise UserError(
                    f"training.network.exact: {str(error).split(_UNORDERED)[0]} adds in any order on a GPU, and this method or network "
                    "needs it; set it to false (a run that goes on is then the same within rounding)"
                ) from error
            if not _is_out_of_memory(error):
                raise
            raise UserError(
                f"step {step}: out of memory with {len(batch)} items per process in {self.config.pieces} piece(s) (store rows "
                f"{batch.item.tolist()}): raise training.pieces or set training.network.recompute (same result, less memory), or lower "
                f"training.world_batch; the last checkpoint is still good ({_first_line(error)})"
            ) from error

    def look(self, moment: Moment, watch: Stopwatch) -> dict[str, float]:
        """Figures of this step: now and then the loop's own, and whatever the watchers find."""
        figures: dict[str, float] = {}
        if moment.step == 1 or _due(moment, self.config.log_every):
            figures = {"loss": self.loss, "lr": self.lr, "grad_norm": self.grad_norm}
            figures |= {name: float(value) for name, value in moment.output.scalars.items()}
            figures |= watch.read(self.config.world_batch, self.place.device, self.operations)
        for watcher in self.watchers:
            figures |= watcher.look(moment, figures)
        self.latest |= figures
        return figures

    def save(self, folder: Path | None, done: int) -> None:
        """Write a checkpoint on the first process; the others give it their parts, and wait."""
        if folder is not None:
            watchers, keep = {type(watcher).__name__: watcher.state for watcher in self.watchers}, self.config.keep
            checkpoint.save(folder, done, self.method, self.optimizer, watchers, self.latest, keep, self.network.average)
            if self.place.rank == 0 and keep.best is not None and keep.best not in self.latest and done >= self.config.probe_every:
                raise UserError(f"training.keep.best: '{keep.best}' was not logged until step {done}; there are {sorted(self.latest)}")
        distributed.barrier()

    def hand_over(self, step: int, on_save: Callable[[int, Encoder], None] | None) -> None:
        """Give the backbone to who asked for it, on the first process."""
        if on_save is not None:
            backbone = self.network.backbone()
            if self.place.rank == 0:
                on_save(step, backbone)


def _check_batch(method: Method, world_batch: int) -> None:
    if world_batch < method.least_items:
        raise UserError(
            f"training.world_batch: {type(method).__name__} learns nothing from {world_batch} items at once; take at least "
            f"{method.least_items}, better 32 and more, in as many training.pieces as memory asks for"
        )


def _checkpoints(folder: Path | None) -> Path | None:
    return folder / "checkpoints" if folder else None


def _doubts(config: TrainingConfig, low_precision: bool) -> Iterator[str]:
    """What a person may not have meant."""
    if config.precision == "bf16" and not low_precision:
        yield "training.precision is bf16, which is for GPUs: computing in fp32 here"
    if config.schedule.warmup_steps > config.num_steps:
        share = learning_rate_share(config.num_steps - 1, config.num_steps, config.schedule)
        yield (
            f"warning: training.schedule.warmup_steps {config.schedule.warmup_steps} is more than training.num_steps {config.num_steps}: "
            f"the learning rate only rises, to {share:.1%} of training.optimizer.lr"
        )


def _remember(start: checkpoint.Start, watchers: Sequence[Watcher], config: TrainingConfig) -> None:
    if start.step > config.num_steps:
        raise UserError(
            f"training.num_steps: {config.num_steps}, but {start.step} steps are already done; ask for more, or take another --out"
        )
    for watcher in watchers:
        watcher.state.update(start.watchers.get(type(watcher).__name__, {}))


def _due(moment: Moment, every: int) -> bool:
    return moment.step % every == 0 or moment.step == moment.num_steps


def _stopped(moment: Moment, stop: StopRequest, folder: Path | None) -> Stopped:
    reason, saved = stop.reason or "another process", ", saved" if folder else ""
    return Stopped(f"stopped by {reason} after step {moment.step} of {moment.num_steps}{saved}; the same command goes on")


def timed(batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch and the seconds it was waited for."""
    iterator = iter(batches)
    while True:
        before = time.perf_counter()
        try:
            batch = next(iterator)
        except StopIteration:
            return
        yield batch, time.perf_counter() - before


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _is_out_of_memory(error: Exception) -> bool:
    """GPUs have an exception of their own; for a CPU torch only has the message."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _not_finite(step: int, batch: Batch, config: TrainingConfig, what: str) -> Exception:
    bad = [not bool(torch.stack([view[row].isfinite().all() for view in batch.views]).all()) for row in range(len(batch))]
    elsewhere = distributed.any_process(any(bad), batch.item.device)  # loss and gradient are everyone's, so that every process asks
    if any(bad):
        rows = batch.item[torch.tensor(bad, device=batch.item.device)].tolist()
        return DataError(f"step {step}: the views of store rows {rows} hold values that are not finite; run `medcl preview` on the store")
    if elsewhere:
        return DataError(f"step {step}: views of another process hold values that are not finite; its message names their store rows")
    return UserError(
        f"step {step}: the {what} is not finite (store rows {batch.item.tolist()}, all views finite); lower training.optimizer.lr "
        f"({config.optimizer.lr:g}) or lengthen training.schedule.warmup_steps; the last checkpoint is still good"
    )

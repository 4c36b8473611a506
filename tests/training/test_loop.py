from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from medcl.encoders import Encoder
from medcl.foundation import config as settings
from medcl.foundation.errors import DataError, Stopped, UserError
from medcl.foundation.types import Batch, StepOutput
from medcl.methods import Method
from medcl.training import TrainingConfig, train
from medcl.training.grad_cache import Stepped, backward_in_pieces
from medcl.training.launch import Place
from medcl.training.loop import Run
from medcl.training.metrics import MetricsLog, Stopwatch, operations_of, read_metrics
from medcl.training.optimizer import AdamWConfig, SGDConfig
from medcl.training.watchers import CollapseWatch, LearningWatch, ProbeWatch, TensorBoardWatch, WaitingWatch, WatchConfig, view_sheet
from tests.training.small_runs import made_batches, made_config, made_method


class OnlyPull(Method):
    """Pulls the two views of an item together and pushes nothing apart: must collapse."""

    def __init__(self) -> None:
        super().__init__()
        donor = made_method("simclr")
        self.backbone, self.head = donor.backbone, donor.head

    def encode(self, batch: Batch, progress: float) -> tuple[torch.Tensor, ...]:
        return tuple(F.normalize(self.head(self.backbone(view).pooled), dim=1) for view in batch.views)

    def compare(self, embeddings: tuple[torch.Tensor, ...], progress: float) -> StepOutput:
        left, right = embeddings
        return StepOutput((left - right).square().sum(dim=1).mean(), left.detach())


class Whole(OnlyPull):
    """A method whose loss is not one row per item."""

    def forward(self, batch: Batch, progress: float) -> StepOutput:
        return super().forward(batch, progress)


class Tempered(OnlyPull):
    """A method with a parameter that only `compare` uses."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def compare(self, embeddings: tuple[torch.Tensor, ...], progress: float) -> StepOutput:
        left, right = embeddings
        loss = F.cross_entropy(self.scale.exp() * left @ right.T, torch.arange(len(left)))
        return StepOutput(loss, left.detach())


def test_a_run_without_negatives_is_named_collapsed_within_200_steps() -> None:
    said = []

    class Say:
        say = staticmethod(said.append)

        @staticmethod
        def track(items, total, what, done=0):
            return iter(items)

    method, watch = OnlyPull(), CollapseWatch(progress=Say())
    train(method, made_batches(method), made_config(num_steps=90, log_every=200), watchers=[watch])
    assert watch.state["named"] and len(said) == 1 and "collapsed at step" in said[0]
    with pytest.raises(DataError, match=r"collapsed at step \d+.*on_collapse is stop"):
        train(OnlyPull(), made_batches(method), made_config(num_steps=90), watchers=[CollapseWatch(WatchConfig(on_collapse="stop"))])


def test_metrics_have_every_logged_step_once(tmp_path: Path) -> None:
    method = made_method("moco")
    probed = []

    def probe(encoder) -> dict[str, float]:
        assert not encoder.training
        probed.append(1)
        return {"accuracy": 0.5}

    watchers = [CollapseWatch(), ProbeWatch(10, probe)]
    result = train(method, made_batches(method), made_config(num_steps=25, log_every=4), folder=tmp_path, watchers=watchers)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 4, 8, 10, 12, 16, 20, 24, 25]
    assert {"loss", "lr", "alignment", "queue_filled", "items_per_s", "waiting_share", "collapse/spread"} <= records[0].keys()
    assert 0 <= records[-1]["waiting_share"] <= 1 and records[-1]["items_per_s"] > 0
    assert "collapse/effective_rank" in records[3] and records[3]["probe/accuracy"] == 0.5
    assert len(probed) == 3 and method.training and result.figures["probe/accuracy"] == 0.5


def test_metrics_beyond_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (4, 8, 12)) + '{"step": 16, "lo')
    log = MetricsLog(path, 8)
    log.write({"step": 12, "loss": 2.0})
    assert read_metrics(path) == [{"step": 4, "loss": 1.0}, {"step": 8, "loss": 1.0}, {"step": 12, "loss": 2.0}]


def test_the_time_limit_saves_and_stops_with_75(tmp_path: Path) -> None:
    method = made_method("simclr")
    with pytest.raises(Stopped, match="the time limit after step 1 of 12, saved") as caught:
        train(method, made_batches(method), made_config(time_limit_s=1e-6), folder=tmp_path)
    assert caught.value.exit_code == 75
    assert (tmp_path / "checkpoints" / "step-1" / "state.json").is_file()


def test_on_save_is_called_before_the_first_step_and_at_the_end(tmp_path: Path) -> None:
    method, calls = made_method("simclr"), []
    start = method.backbone.conv1.weight.detach().clone()

    def on_save(step: int, backbone: Encoder) -> None:
        calls.append((step, torch.equal(backbone.conv1.weight, start)))

    train(method, made_batches(method), made_config(), folder=tmp_path, on_save=on_save)
    assert calls == [(0, True), (12, False)]
    train(method, made_batches(method), made_config(), folder=tmp_path, on_save=on_save)
    assert calls[2:] == [(12, False)]


class _Spoiled:
    def __init__(self, batches, step: int, view: bool) -> None:
        self.batches, self.step, self.view = batches, step, view

    def iterate(self, start: int, stop: int):
        for step, batch in enumerate(self.batches.iterate(start, stop), start=start):
            if step == self.step and self.view:
                batch.views[1][2] = float("nan")
            yield batch


def test_a_view_that_is_not_finite_stops_with_step_and_item_named(tmp_path: Path) -> None:
    method = made_method("simclr")
    batches = made_batches(method)
    row = int(batches.at(6).item[2])
    with pytest.raises(DataError, match=rf"step 6: the views of store rows \[{row}\]"):
        train(method, _Spoiled(batches, 6, True), made_config(), folder=tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["LATEST", "step-4"]
    assert all(bool(value.isfinite().all()) for value in method.state_dict().values())


def test_a_loss_that_is_not_finite_names_the_way_out(tmp_path: Path) -> None:
    method = made_method("simclr")
    with pytest.raises(UserError, match=r"step \d+: the loss is not finite \(store rows \[.*optimizer\.lr"):
        train(method, made_batches(method), made_config(num_steps=50, optimizer={"name": "sgd", "lr": 1e20}, checkpoint_every=50))


class _Poisoned(OnlyPull):
    """Its loss stays finite, its gradient does not: the square root of zero."""

    def compare(self, embeddings: tuple[torch.Tensor, ...], progress: float) -> StepOutput:
        output = super().compare(embeddings, progress)
        return StepOutput(output.loss + (embeddings[0] * 0).sum().sqrt() if progress > 0.5 else output.loss, output.embeddings)


def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path: Path) -> None:
    method = _Poisoned()
    with pytest.raises(UserError, match=r"step 7: the gradient is not finite \(store rows \[.*last checkpoint is still good"):
        train(method, made_batches(method), made_config(), folder=tmp_path)
    assert all(bool(value.isfinite().all()) for value in method.state_dict().values())
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["LATEST", "step-4"]
    healthy = OnlyPull()
    assert train(healthy, made_batches(healthy), made_config(), folder=tmp_path).steps == 12


class _Hungry(OnlyPull):
    """Asks for a pebibyte in the second half of the run."""

    def compare(self, embeddings: tuple[torch.Tensor, ...], progress: float) -> StepOutput:
        if progress > 0.5:
            torch.empty(2**50)
        return super().compare(embeddings, progress)


def test_running_out_of_memory_names_step_items_and_the_way_out(tmp_path: Path) -> None:
    method = _Hungry()
    with pytest.raises(
        UserError, match=r"step 7: out of memory with 8 items .*\(store rows \[.*raise training\.pieces.*can't allocate memory"
    ):
        train(method, made_batches(method), made_config(), folder=tmp_path)
    healthy = OnlyPull()
    assert train(healthy, made_batches(healthy), made_config(), folder=tmp_path).steps == 12


def test_a_full_disk_while_logging_names_the_step(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (90, hard))
    try:
        with pytest.raises(UserError, match=r"metrics\.jsonl: step \d could not be logged \(File too large\); free some space"):
            for step in range(9):
                log.write({"step": step, "loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2]


def test_the_best_checkpoint_is_kept_by_a_name_that_must_exist(tmp_path: Path) -> None:
    method = made_method("simclr")
    probe = ProbeWatch(4, lambda _: {"accuracy": 0.5})
    config = made_config(keep={"last": 1, "best": "probe/accuracy"}, probe_every=4)
    train(method, made_batches(method), config, folder=tmp_path, watchers=[probe])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["BEST", "LATEST", "step-12", "step-4"]
    typo = made_config(keep={"best": "probe/acuracy"}, probe_every=4)
    with pytest.raises(UserError, match=r"training\.keep\.best: 'probe/acuracy' was not logged until step 4; there are \['alignment'"):
        train(method, made_batches(method), typo, folder=tmp_path / "typo", watchers=[probe])


def test_pieces_refuse_a_method_that_does_not_split() -> None:
    with pytest.raises(UserError, match=r"training\.pieces: Whole overrides forward"):
        train(Whole(), made_batches(Whole()), made_config(pieces=2))
    with pytest.raises(UserError, match="9 pieces of 8 items"):
        train(OnlyPull(), made_batches(OnlyPull()), made_config(pieces=9))


def test_pieces_reach_parameters_that_only_compare_uses() -> None:
    method = Tempered()
    batch = made_batches(method).at(0)
    method(batch, 0.0).loss.backward()
    wanted = {name: parameter.grad.clone() for name, parameter in method.named_parameters()}
    method.zero_grad()
    backward_in_pieces(Stepped(method), method, batch, 3, 0.0)
    assert float(wanted["scale"]) != 0
    for name, parameter in method.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6)


class _Dropped(OnlyPull):
    """Keeps what was dropped out of each batch that was encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.found = torch.nn.Dropout(0.5), []

    def encode(self, batch: Batch, progress: float) -> tuple[torch.Tensor, ...]:
        embeddings = tuple(self.dropout(value) for value in super().encode(batch, progress))
        self.found.append(torch.cat(embeddings).detach() != 0)
        return embeddings


def test_pieces_drop_out_the_same_when_they_are_computed_again() -> None:
    """Or the loss's gradient would enter a network other than the one that it is of."""
    method = _Dropped()
    backward_in_pieces(Stepped(method), method, made_batches(method).at(0), 2, 0.0)
    first, second, *again = method.found
    assert not torch.equal(first, second) and all(map(torch.equal, (first, second), again))


def test_training_in_pieces_learns_the_same(tmp_path: Path) -> None:
    weights = []
    for pieces in (1, 4):
        method = made_method("simclr")
        optimizer = {"name": "sgd", "lr": 0.05}
        train(method, made_batches(method), made_config(num_steps=6, pieces=pieces, optimizer=optimizer))
        weights.append(method.head.out.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_operations_are_counted_without_changing_a_bit() -> None:
    """Two for each multiplication, three passes (forward, gradients of input and weight); the first layer's input needs no gradient."""
    layers, outputs = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)), torch.randn(8, 32)
    _, found = operations_of(lambda: layers(outputs).sum().backward())
    assert found == 2 * 8 * (32 * 16 * 2 + 16 * 4 * 3)
    weights = []
    for counts in (False, True):
        method = made_method("simclr")
        run = Run(method, made_config(), Place(torch.device("cpu")), ())
        run.counts = counts
        for step in range(2):
            moment = run.step(step, made_batches(method).at(step))
        figures = run.look(moment, Stopwatch())
        assert (run.operations is not None) == ("tflop_per_s" in figures) == counts
        weights.append(method.head.out.weight.detach())
    assert torch.equal(*weights)


def test_settings_as_yaml_writes_them() -> None:
    few = {"num_steps": 3, "world_batch": 2}
    assert settings.validate(TrainingConfig, {**few, "optimizer": {"lr": 0.5}}, "a").optimizer == AdamWConfig(lr=0.5)
    assert settings.validate(TrainingConfig, {**few, "optimizer": {"name": "sgd"}}, "a").optimizer == SGDConfig()
    with pytest.raises(UserError, match=r"unknown key 'optimizer\.momentun'.*did you mean 'momentum'"):
        settings.validate(TrainingConfig, {**few, "optimizer": {"name": "sgd", "momentun": 1}}, "a.yaml")
    again = settings.validate(TrainingConfig, TrainingConfig(**few).model_dump(mode="json"), "a")
    assert again == TrainingConfig(**few) and len(TrainingConfig.model_fields) <= 15


def test_tensorboard_gets_figures_and_views(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    method = made_method("simclr")
    watchers = [CollapseWatch(), TensorBoardWatch(tmp_path / "tensorboard", 10)]
    train(method, made_batches(method), made_config(num_steps=11, log_every=5), watchers=watchers)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "lr", "collapse/effective_rank", "items_per_s"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [1, 5, 10, 11]
    assert len(events.Tags()["images"]) == 2
    for tag in events.Tags()["images"]:
        assert [event.step for event in events.Images(tag)] == [1, 10]
    projector = (tmp_path / "tensorboard" / "projector_config.pbtxt").read_text()
    assert projector.count("tensor_name") == 2
    names = next((tmp_path / "tensorboard").rglob("metadata.tsv")).read_text().split()
    assert sorted(names) == [str(row) for row in range(8)]


def test_tensorboard_shows_no_scan_that_may_hold_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may be in its pixels."""
    drawn: list[list[torch.Tensor]] = []
    keep = view_sheet
    monkeypatch.setattr("medcl.training.watchers.view_sheet", lambda views: drawn.append(list(views)) or keep(views))
    method, seen = made_method("simclr"), []
    batches = made_batches(method)
    for unseen in (range(3), range(100)):
        watch = TensorBoardWatch(tmp_path / str(len(unseen)), 10, unseen)
        look = watch.look
        monkeypatch.setattr(watch, "look", lambda moment, figures, look=look: seen.append(moment.batch) or look(moment, figures))
        train(method, batches, made_config(num_steps=1), watchers=[watch])
        if len(unseen) == 100:
            assert not drawn
            break
        allowed = [view[seen[0].item >= 3] for view in seen[0].views]
        sheet, pairs = drawn
        assert all(torch.equal(one, other) for one, other in zip(sheet, allowed, strict=True)) and len(allowed[0]) == 5
        assert all(any(torch.equal(view, own) for own in allowed[0]) for side in pairs for view in side)
        drawn.clear()


def test_tensorboard_takes_no_voxel_for_a_scan(tmp_path: Path) -> None:
    """vox2vec's embeddings are voxels: the first eight of them are all of one scan."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    method = made_method("vox2vec")
    train(method, made_batches(method), made_config(num_steps=1), watchers=[TensorBoardWatch(tmp_path, 10)])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == ["views (one row per scan)"] and not list(tmp_path.rglob("metadata.tsv"))


class _Normed(OnlyPull):
    """Looks at the other items of the batch, as BatchNorm does."""

    def encode(self, batch: Batch, progress: float) -> tuple[torch.Tensor, ...]:
        return tuple(value - value.mean(dim=0) for value in super().encode(batch, progress))


def test_a_batchnorm_that_lets_items_see_each_other_is_named() -> None:
    class Say:
        lines: ClassVar[list[str]] = []
        say = staticmethod(lines.append)

    for method, leaks in ((_Normed(), True), (made_method("simclr"), False)):
        Say.lines.clear()
        watch = _Heard(LearningWatch(progress=Say()))  # type: ignore[arg-type]
        train(method, made_batches(method), made_config(num_steps=2), watchers=[watch])
        assert (watch.found["leak"] > 0.01) == leaks and len(Say.lines) == leaks
        assert not leaks or "changes by" in Say.lines[0]


class _Heard:
    """Remembers what a watcher found."""

    def __init__(self, watcher: LearningWatch) -> None:
        self.watcher, self.state, self.found = watcher, {}, {}

    def look(self, moment, figures) -> dict[str, float]:
        self.found |= self.watcher.look(moment, figures)
        return {}

    def close(self) -> None:
        pass


def test_the_watch_stops_when_it_is_told_to() -> None:
    """Limits that any run breaks: the grace and the looks in a row decide when."""
    config = WatchConfig(on_collapse="stop", collapse={"effective_rank": 1e6}, grace_steps=10, looks=2)
    with pytest.raises(DataError, match="collapsed at step 30: embeddings fill few directions"):
        train(made_method("simclr"), made_batches(made_method("simclr")), made_config(num_steps=40), watchers=[CollapseWatch(config)])
    said: list[str] = []
    watch = LearningWatch(WatchConfig(leak=0.0), SimpleNamespace(say=said.append))  # type: ignore[arg-type]
    train(_Normed(), made_batches(_Normed()), made_config(num_steps=1), watchers=[watch])
    assert len(said) == 1


def test_where_a_run_goes_on_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    progress = SimpleNamespace(say=said.append, track=lambda items, total, what, done=0: iter(items))
    for num_steps in (2, 4):
        method, config = made_method("simclr"), made_config(num_steps=num_steps)
        train(method, made_batches(method), config, folder=tmp_path, progress=progress)  # type: ignore[arg-type]
    assert said == ["going on after step 2 of 4"]


def test_a_warm_up_longer_than_the_run_is_said() -> None:
    """The default of 100 steps leaves a run of 30, all of it, at less than a third of the rate that was asked for."""
    said: list[str] = []
    progress = SimpleNamespace(say=said.append, track=lambda items, total, what, done=0: iter(items))
    for warmup_steps in (3, 4):
        method, config = made_method("simclr"), made_config(num_steps=3, schedule={"warmup_steps": warmup_steps})
        train(method, made_batches(method), config, progress=progress)  # type: ignore[arg-type]
    assert len(said) == 1 and "warmup_steps 4 is more than training.num_steps 3" in said[0] and "to 75.0% of" in said[0]


@pytest.mark.parametrize(("shares", "times"), [((0.4, 0.1, 0.4, 0.1), 0), ((0.4, 0.1, 0.3, 0.5, 0.6), 1)], ids=["now and then", "always"])
def test_waiting_for_data_is_said_once(shares: tuple[float, ...], times: int) -> None:
    said: list[str] = []
    watch = WaitingWatch(3, SimpleNamespace(say=said.append))  # type: ignore[arg-type]
    for share in shares:
        for figures in ({"waiting_share": share}, {}):  # between two logs there is none
            assert watch.look(None, figures) == {}  # type: ignore[arg-type]
    assert len(said) == times and all("50% of the time" in line and "training.workers (3 now" in line for line in said)


def test_negatives_and_the_teacher_are_watched() -> None:
    method = made_method("moco")
    watch = _Heard(LearningWatch())
    train(method, made_batches(method), made_config(num_steps=1), watchers=[watch])
    first = dict(watch.found)
    assert first.keys() == {"leak", "negatives/hardest_similarity", "negatives/suspected_false", "teacher/distance"}
    assert 0 < first["teacher/distance"] < 0.1 and -1 <= first["negatives/hardest_similarity"] <= 1
    with torch.no_grad():
        for value in method.teacher.parameters():
            value.zero_()
    assert method.teacher.distance(method.backbone, method.head) == pytest.approx(1.0)


def test_view_sheets() -> None:
    volumes = tuple(torch.randn(5, 1, 8, 10, 6) for _ in range(2))
    sheet = view_sheet(volumes)
    assert sheet.shape == (4 * (10 + 2), 2 * (8 + 8 + 10 + 6)) and sheet.min() >= 0 and sheet.max() <= 1
    pictures = (torch.zeros(2, 1, 8, 10),)
    assert view_sheet(pictures).shape == (20, 12)


def test_float_targets_and_texts_travel_with_rows() -> None:
    method = made_method("convirt")
    batch = made_batches(method).at(0)
    part = replace(batch, target=torch.arange(8.0)).rows(2, 5)
    assert part.text is not None and part.text.ids.shape[0] == len(part) == 3 and part.target.tolist() == [2, 3, 4]

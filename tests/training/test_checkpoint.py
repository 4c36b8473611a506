from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medcl.encoders import ResNetConfig, build_seeded
from medcl.foundation.errors import UserError
from medcl.methods import Method, MoCoConfig
from medcl.training import checkpoint, train
from medcl.training.optimizer import AdamWConfig, SGDConfig, build_optimizer
from tests.training.small_runs import made_batches, made_config, made_method


class _Said:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    def track(self, items, total, what, done=0):
        yield from items


def _trained(settings=None) -> tuple[Method, torch.optim.Optimizer]:
    method = made_method("moco")
    optimizer = build_optimizer(settings or AdamWConfig(), method)
    batch = made_batches(method).at(0)
    for _ in range(2):
        optimizer.zero_grad()
        output = method(batch, 0.0)
        output.loss.backward()
        optimizer.step()
        method.after_step(output, 0.0)
    return method, optimizer


def _fresh(settings=None) -> tuple[Method, torch.optim.Optimizer]:
    method = made_method("moco")
    return method, build_optimizer(settings or AdamWConfig(), method)


def _same(first: Method, second: Method) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("settings", [AdamWConfig(), SGDConfig()])
def test_everything_comes_back(settings, tmp_path: Path) -> None:
    method, optimizer = _trained(settings)
    path = checkpoint.save(tmp_path, 2, method, optimizer, {"Watch": {"first": 0.5}})
    assert sorted(file.name for file in path.iterdir()) == ["state.json", "tensors.safetensors"]
    assert (tmp_path / "LATEST").read_text() == "step-2\n"
    again, moments = _fresh(settings)
    assert not _same(method, again)
    start = checkpoint.begin(again, moments, tmp_path)
    assert start == checkpoint.Start(2, {"Watch": {"first": 0.5}}) and _same(method, again)
    old, new = optimizer.state_dict()["state"], moments.state_dict()["state"]
    assert old.keys() == new.keys() and old
    assert all(torch.equal(value, new[index][key]) for index in old for key, value in old[index].items())


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    method, optimizer = _trained()
    keep = checkpoint.KeepConfig(last=1, best="probe/accuracy")
    for step, accuracy in ((5, 0.6), (10, 0.8), (15, 0.8), (20, float("nan")), (25, 0.7)):
        checkpoint.save(tmp_path, step, method, optimizer, figures={"probe/accuracy": accuracy, "loss": 1.0}, keep=keep)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["BEST", "LATEST", "step-10", "step-25"]
    assert (tmp_path / "BEST").read_text() == "step-10\n"
    assert checkpoint.begin(*_fresh(), tmp_path).figures == {"probe/accuracy": 0.7, "loss": 1.0}
    lowest = checkpoint.KeepConfig(last=1, best="loss", best_is="lowest")
    checkpoint.save(tmp_path, 30, method, optimizer, figures={"loss": 0.5}, keep=lowest)
    assert (tmp_path / "BEST").read_text() == "step-30\n" and not (tmp_path / "step-10").exists()


def test_two_are_kept_and_orphans_swept(tmp_path: Path) -> None:
    method, optimizer = _trained()
    for step in (5, 10, 15):
        checkpoint.save(tmp_path, step, method, optimizer)
    (tmp_path / "step-20.partial").mkdir()
    assert checkpoint.newest(tmp_path, own=True) == tmp_path / "step-15"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "step-10", "step-15"]


def test_a_damaged_newest_is_set_aside_for_the_one_before(tmp_path: Path) -> None:
    method, optimizer = _trained()
    for step in (5, 10):
        checkpoint.save(tmp_path, step, method, optimizer)
    path = tmp_path / "step-10" / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # one flipped bit
    path.write_bytes(content)
    said = _Said()
    assert checkpoint.begin(*_fresh(), tmp_path, progress=said).step == 5
    assert len(said.lines) == 1 and "step-10" in said.lines[0] and "damaged" in said.lines[0]
    assert (tmp_path / "step-10.damaged").is_dir()
    (tmp_path / "step-5" / "state.json").unlink()
    assert checkpoint.begin(*_fresh(), tmp_path).step == 0


def test_who_only_reads_a_runs_checkpoints_changes_none(tmp_path: Path) -> None:
    """The run may be writing one, as a study reads another or a second run begins from it."""
    method, optimizer = _trained()
    for step in (5, 10):
        checkpoint.save(tmp_path, step, method, optimizer)
    (tmp_path / "step-15.partial").mkdir()
    (tmp_path / "step-10" / "state.json").unlink()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert checkpoint.newest(tmp_path) == tmp_path / "step-5"
    assert checkpoint.begin(*_fresh(), None, resume=tmp_path).step == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, optimizer = _trained()
    checkpoint.save(tmp_path, 5, method, optimizer)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(UserError, match=r"step-10: .* MiB needed, 0 MiB free.*free some space"):
        checkpoint.save(tmp_path, 10, method, optimizer)
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(tmp_path, 10, method, optimizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "step-5"]
    assert checkpoint.newest(tmp_path) == tmp_path / "step-5"


def test_a_write_that_fails_half_way_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    """A real failing write: the system refuses to let files grow."""
    method, optimizer = _trained()
    checkpoint.save(tmp_path, 5, method, optimizer)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match=r"step-10: the checkpoint could not be written.*File too large"):
            checkpoint.save(tmp_path, 10, method, optimizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "step-5"]
    assert checkpoint.begin(*_fresh(), tmp_path).step == 5
    checkpoint.save(tmp_path, 10, method, optimizer)
    assert checkpoint.begin(*_fresh(), tmp_path).step == 10


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    method, optimizer = _trained()
    with torch.no_grad():
        method.head.hidden.bias[0] = float("nan")
    with pytest.raises(UserError, match=r"after step 7: method.head.hidden.bias.*not finite.*learning_rate|optimizer.lr"):
        checkpoint.save(tmp_path, 7, method, optimizer)
    assert not list(tmp_path.iterdir())


def test_rules_of_beginning(tmp_path: Path) -> None:
    method, optimizer = _trained()
    own, other = tmp_path / "own", tmp_path / "other"
    checkpoint.save(own, 3, method, optimizer)
    checkpoint.save(other, 8, method, optimizer)
    encoder = build_seeded(ResNetConfig(depth=10, spatial_dims=2, width=8, stem_kernel=3, stem_stride=1), seed=5)
    save_file(encoder.state_dict(), tmp_path / "weights.safetensors")
    given = {"resume": other, "weights": tmp_path}
    assert checkpoint.begin(*_fresh(), own, **given).step == 3  # 1: its own
    assert checkpoint.begin(*_fresh(), tmp_path / "none", **given).step == 8  # 2: resume
    assert checkpoint.begin(*_fresh(), None, resume=other / "step-8").step == 8
    third, moments = _fresh()
    assert checkpoint.begin(third, moments, tmp_path / "none", weights=tmp_path).step == 0  # 3: weights
    for side in (third.backbone, third.teacher.backbone):
        assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in side.state_dict().items())
    again, moments = _fresh()
    assert checkpoint.begin(again, moments, None, weights=own / "step-3").step == 0  # a checkpoint's backbone
    assert all(torch.equal(value, method.backbone.state_dict()[key]) for key, value in again.backbone.state_dict().items())
    fourth, moments = _fresh()
    assert checkpoint.begin(fourth, moments, tmp_path / "none").step == 0 and _same(fourth, made_method("moco"))  # 4: scratch


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    method, optimizer = _trained()
    checkpoint.save(tmp_path, 3, method, optimizer)
    wider = build_seeded(MoCoConfig(queue_size=32), ResNetConfig(depth=10, spatial_dims=2, width=16).build(), seed=0)
    with pytest.raises(UserError, match=r"step-3: belongs to other settings.*size mismatch"):
        checkpoint.begin(wider, build_optimizer(AdamWConfig(), wider), tmp_path)
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights.safetensors: does not fit the encoder"):
        checkpoint.begin(*_fresh(), None, weights=tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(UserError, match=r"weights.safetensors: does not fit"):
        checkpoint.begin(*_fresh(), None, weights=tmp_path)
    with pytest.raises(UserError, match="no such file"):
        checkpoint.begin(*_fresh(), None, weights=tmp_path / "nowhere")
    with pytest.raises(UserError, match="no sound checkpoint"):
        checkpoint.begin(*_fresh(), None, resume=tmp_path / "nowhere")


def test_fewer_steps_than_done_is_refused(tmp_path: Path) -> None:
    method = made_method("moco")
    train(method, made_batches(method), made_config(num_steps=4), folder=tmp_path)
    with pytest.raises(UserError, match="3, but 4 steps are already done"):
        train(method, made_batches(method), made_config(num_steps=3), folder=tmp_path)

"""`medcl pretrain` as a batch system sees it: it stops when told, says so with 75, and goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from medcl import api, cli
from medcl.evaluation.leaks import Scored, check_leaks
from medcl.foundation.files import write_text
from medcl.foundation.lock import alone_in
from medcl.foundation.progress import Silent
from medcl.ingest.manifest import read_parquet
from medcl.run_config import load_pretrain
from medcl.store.volume_store import VolumeStore
from medcl.training.checkpoint import TENSORS
from medcl.training.metrics import MetricsLog
from medcl.training.watchers import WaitingWatch
from tests.training.small_runs import free_port


def _pretrain(*arguments: object):
    return CliRunner().invoke(cli.app, ["pretrain", *map(str, arguments), "--json"])


def _signal_at(step: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch system speaks while this step is logged."""
    write = MetricsLog.write

    def write_and_signal(log: MetricsLog, record: dict) -> None:
        write(log, record)
        if record["step"] == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(MetricsLog, "write", write_and_signal)


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGUSR1, "the time limit"], ids=str)
def test_a_run_that_is_told_to_stop_saves_returns_75_and_goes_on(asked, small_config: Path, tmp_path: Path, monkeypatch) -> None:
    out, limits = tmp_path / "run", []
    with monkeypatch.context() as patch:
        if isinstance(asked, signal.Signals):
            _signal_at(3, asked, patch)
        else:
            limits = ["training.time_limit_s=0.001"]
        stopped = _pretrain(small_config, *limits, "--out", out)
    assert stopped.exit_code == 75, stopped.output
    reason, step = (asked.name, 3) if isinstance(asked, signal.Signals) else (asked, 1)
    assert f"stopped by {reason} after step {step} of 12, saved; the same command goes on" in stopped.output
    assert (out / "checkpoints" / "LATEST").read_text() == f"step-{step}\n"  # the step was finished, then saved
    assert not list(out.rglob("*.partial")) and not (out / "card.json").exists()

    finished = _pretrain(small_config, "--out", out)
    assert finished.exit_code == 0, finished.output
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == list(range(1, 13))
    assert (out / "card.json").is_file()


def test_an_unreadable_chunk_names_step_and_row_and_the_run_goes_on_once_it_is_mended(small_config: Path, tmp_path: Path) -> None:
    store = Path(yaml.safe_load(small_config.read_text())["store"])
    arrays = max((path for path in store.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    sound = arrays.read_bytes()
    try:
        arrays.write_bytes(sound[: len(sound) // 8] + b"\0" * (len(sound) - len(sound) // 8))
        broken = _pretrain(small_config, "--out", tmp_path / "run")
    finally:
        arrays.write_bytes(sound)
    assert broken.exit_code == 3, broken.output
    assert "pretrain: step 0, row " in broken.output and "damaged" in broken.output
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert _pretrain(small_config, "--out", tmp_path / "run").exit_code == 0


def test_an_unreadable_scan_is_skipped_by_name_where_the_setting_says_so(small_config: Path, tmp_path: Path) -> None:
    store = Path(yaml.safe_load(small_config.read_text())["store"])
    arrays = max((store / "arrays").iterdir(), key=lambda path: path.stat().st_size)
    sound = arrays.read_bytes()
    rotten = bytearray(sound)
    for place in range(len(sound) // 8, len(sound) // 2, len(sound) // 16):  # some of the rows hit are of the test split
        rotten[place] ^= 255
    try:
        arrays.write_bytes(rotten)
        stopped = _pretrain(small_config, "--out", tmp_path / "run")
        skipped = _pretrain(small_config, "--out", tmp_path / "run", "training.on_unreadable=skip")
    finally:
        arrays.write_bytes(sound)
    assert stopped.exit_code == 3, stopped.output
    assert skipped.exit_code == 0 and "skipped from now on: " in skipped.output, skipped.output
    assert (tmp_path / "run" / "card.json").is_file()


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(
    small_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    result = _pretrain(small_config, "--out", tmp_path / "run", "--dry-run", "training.keep.last=3")
    assert result.exit_code == 0, result.output
    figures = json.loads(capfd.readouterr().out)["result"]
    assert figures["parameters"] > 10_000 and figures["num_steps"] == 12 and 0 <= figures["waiting_s"] <= figures["step_s"]
    assert "no safety override in force" in result.output and "nothing was written" in result.output and not list(tmp_path.iterdir())

    run = _pretrain(small_config, "--out", tmp_path / "run", "training.num_steps=3")
    assert run.exit_code == 0, run.output
    written = (tmp_path / "run" / "checkpoints" / "step-3" / "tensors.safetensors").stat().st_size
    assert figures["checkpoints_bytes"] == pytest.approx(4 * written, rel=0.1)  # three kept, one being written

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    full = _pretrain(small_config, "--out", tmp_path / "other", "--dry-run")
    assert full.exit_code == 2 and "checkpoints need" in full.output


def test_a_dry_run_refuses_what_the_run_would(small_config: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    for arguments, said in (
        ([f"initial={tmp_path}/nowhere"], "nowhere: no such file"),
        (["probe_label=nothing"], "probe_label 'nothing'"),
        (["--out", tmp_path / "other"], "exists and holds no run"),
    ):
        result = _pretrain(small_config, "--out", tmp_path / "run", *arguments, "--dry-run")
        assert result.exit_code == 2 and said in result.output, result.output
    assert not (tmp_path / "run").exists()


SWIN = "encoder={name: swin_unetr, spatial_dims: 2, width: 12}"
SMALL_LOCAL = "views={policy: xray, size: [48, 48], local: {size: [24, 24]}}"


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["encoder.in_channels=3"], "encoder.in_channels: 3, but a scan of a store is one grey channel"),
        ([SWIN], "views.size [24, 24] does not suit encoder 'swin_unetr': sides [24, 24] are not all multiples of 32"),
        (["encoder.norm=instance", "method={name: swav}", SMALL_LOCAL], "views.local.size [24, 24] does not suit encoder 'resnet'"),
    ],
    ids=["channels", "size", "local size"],
)
def test_views_that_the_encoder_cannot_take_are_refused(settings, said: str, more, small_config: Path, tmp_path: Path) -> None:
    refused = _pretrain(small_config, "--out", tmp_path / "run", *settings, *more)
    assert refused.exit_code == 2 and said in refused.output, refused.output
    assert not (tmp_path / "run").exists()


def test_a_folder_is_written_by_one_run_at_a_time(small_config: Path, tmp_path: Path) -> None:
    with alone_in(tmp_path / "run"):
        refused = _pretrain(small_config, "--out", tmp_path / "run")
    assert refused.exit_code == 2 and "another medcl is writing this folder" in refused.output, refused.output
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock"]
    assert _pretrain(small_config, "--out", tmp_path / "run", "training.num_steps=1").exit_code == 0


@pytest.mark.parametrize("written", ["config.yaml", "tokenizer.json"])
def test_a_run_that_was_killed_while_its_folder_was_opened_goes_on(written: str, small_config: Path, tmp_path: Path, monkeypatch) -> None:
    class Killed(BaseException):
        pass

    def write(path: Path, text: str) -> None:
        if path.name == written:
            raise Killed
        write_text(path, text)

    text = "method={name: convirt, text: {vocab_size: 400, length: 16, width: 16, layers: 1, heads: 2}}"
    arguments = small_config, text, "training.num_steps=1", "--out", tmp_path / "run"
    with monkeypatch.context() as patch:
        for module in ("medcl.api", "medcl.encoders.tokenizer"):
            patch.setattr(f"{module}.write_text", write)
        with pytest.raises(Killed):
            api.pretrain(small_config, [text, "training.num_steps=1"], out=tmp_path / "run")
    (tmp_path / "run" / ".inputs.json.0123.partial").touch()
    finished = _pretrain(*arguments)
    assert finished.exit_code == 0, finished.output
    assert {"config.yaml", "inputs.json", "tokenizer.json", "card.json"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_a_figure_that_is_not_a_number_spoils_no_card(tmp_path: Path) -> None:
    """JSON has no NaN: the run ended, hours later, where its card was to be written."""
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    for step, accuracy in ((1, 0.5), (2, float("nan"))):
        log.write({"step": step, "items_per_s": 3.0, "probe/accuracy": accuracy, "a_methods_own": float("inf")})
    assert api.last_metrics(tmp_path) == {"step": 2, "probe/accuracy": 0.5}


def test_a_run_that_ended_before_it_saved_anything_begins_anew(small_config: Path, tmp_path: Path) -> None:
    """A mistyped label is found when the folder is open; mended, the line was refused for the settings it was mended from."""
    wrong = _pretrain(small_config, "probe_label=nothing", "training.num_steps=2", "--out", tmp_path / "run")
    assert wrong.exit_code == 2 and "probe_label 'nothing'" in wrong.output, wrong.output
    assert _pretrain(small_config, "training.num_steps=1", "--out", tmp_path / "run").exit_code == 0
    assert "num_steps: 1\n" in (tmp_path / "run" / "config.yaml").read_text()
    for _ in range(2):
        other = _pretrain(small_config, "training.num_steps=2", "--out", tmp_path / "run")
        assert other.exit_code == 2 and "training.num_steps was 1, is 2" in other.output, other.output
        shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)  # of a finished run nobody needs them


def test_the_lines_to_go_on_with_can_be_pasted(small_config: Path, tmp_path: Path) -> None:
    out = tmp_path / "my runs"
    done = _pretrain(small_config, "training.num_steps=1", "--out", out)
    assert f"tensorboard --logdir '{out}/tensorboard'" in done.output and f"medcl export '{out}' --to onnx" in done.output
    assert f"'inits.pretrained={out}/backbone'" in done.output


def test_a_file_where_the_run_is_to_be_is_the_users_to_move(small_config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        refused = _pretrain(small_config, "--out", out)
        assert refused.exit_code == 2 and "there is a file where a folder is to be" in refused.output, refused.output


def test_what_the_first_process_refuses_is_no_bug_to_the_others(small_config: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    port, said = str(free_port()), []
    command = [sys.executable, "-m", "medcl", "pretrain", str(small_config), "--out", str(tmp_path / "run")]
    for rank in (0, 1):
        here = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environment = {**os.environ, **here, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        said.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment))
    first, second = (process.communicate(timeout=120)[0] for process in said)
    assert said[0].returncode == 2 and "exists and holds no run" in first, first
    assert said[1].returncode == 1 and "rank 0 of 2 is gone" in second and "a bug in medcl" not in second, second


def _items(run: Path) -> set[tuple[str, ...]]:
    return set(read_parquet(run / "backbone" / "training_items.parquet").itertuples(index=False, name=None))


def test_a_run_that_begins_with_anothers_weights_says_what_those_were_trained_on(small_config: Path, tmp_path: Path) -> None:
    """Or a study would hold them for clean, whose test patients they have seen."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    short = "training.num_steps=1"
    stopped = _pretrain(small_config, "training.time_limit_s=0.001", "--out", first)
    assert stopped.exit_code == 75, stopped.output
    early = _pretrain(small_config, f"initial={first / 'backbone'}", "--out", second)
    assert early.exit_code == 2 and "this run is not finished" in early.output, early.output
    assert _pretrain(small_config, "--out", first).exit_code == 0
    whole = _items(first)

    few = ["splits=[train]", "training.world_batch=3", short]
    begun = _pretrain(small_config, f"initial={first / 'backbone'}", *few, "--out", second)
    assert begun.exit_code == 0, begun.output
    card = json.loads((second / "backbone" / "card.json").read_text())
    assert card["counts"]["training_items"] < len(whole) and _items(second) == whole and "initial" not in card

    shutil.copy(first / "backbone" / "weights.safetensors", tmp_path / "anyones.safetensors")
    assert _pretrain(small_config, f"initial={tmp_path / 'anyones.safetensors'}", *few, "--out", third).exit_code == 0
    assert json.loads((third / "backbone" / "card.json").read_text())["initial"] == "unknown"
    assert len(_items(third)) == card["counts"]["training_items"]
    none = Scored(np.array(["p"]), np.array(["x"]), np.array([""]))
    report = check_leaks({"mine": third / "backbone"}, none, transductive=False)
    assert report.checked == ("mine",) and "what mine began with says nothing of what it was pretrained on" in report.sentence


def test_an_average_is_exported_and_what_only_saves_memory_may_change(small_config: Path, tmp_path: Path) -> None:
    out, average = tmp_path / "run", "training.network.ema=0.9"
    stopped = _pretrain(small_config, average, "training.time_limit_s=0.001", "--out", out)
    assert stopped.exit_code == 75, stopped.output
    refused = _pretrain(small_config, "training.network.ema=0.5", "--out", out)
    assert refused.exit_code == 2 and "training.network.ema was 0.9, is 0.5" in refused.output
    finished = _pretrain(small_config, average, "training.network.recompute=true", "watch.on_collapse=stop", "--out", out)
    assert finished.exit_code == 0, finished.output
    kept = load_file(out / "checkpoints" / "step-12" / TENSORS)
    exported = load_file(out / "backbone" / "weights.safetensors")
    assert all(torch.equal(tensor, kept[f"average.backbone.{name}"]) for name, tensor in exported.items())
    assert any(not torch.equal(tensor, kept[f"method.backbone.{name}"]) for name, tensor in exported.items())


def test_only_a_gpu_is_said_to_wait_for_its_data(small_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU views and network share the cores: with more workers the made cohort's runs wait less and take longer."""
    settings = load_pretrain(small_config)
    run = api._Pretraining(settings, VolumeStore(settings.store), tmp_path, Silent())
    assert WaitingWatch not in map(type, run.watchers())
    monkeypatch.setattr(api, "here", lambda: SimpleNamespace(gpu="cuda:0"))
    assert WaitingWatch in map(type, run.watchers())

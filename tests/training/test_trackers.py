"""MLflow and Weights & Biases get figures and nothing else, where they are asked for; stand-ins record what they are told."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from medcl.foundation.errors import Stopped, UserError
from medcl.training.trackers import MLflowConfig, WandbConfig
from medcl.training.watchers import WatchConfig
from tests.training.small_runs import made_config, run

MLFLOW = """
import os, types
assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "true"
told = []
class MlflowClient:
    def __init__(self, uri): told.append(("client", uri))
    def get_experiment_by_name(self, name): return None
    def create_experiment(self, name): told.append(("experiment", name)); return "7"
    def create_run(self, number, run_name):
        told.append(("run", number, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))
    def log_batch(self, run, metrics): told.extend((run, metric.key, metric.value, metric.step) for metric in metrics)
    def set_terminated(self, run, status): told.append(("end", run, status))
"""
WANDB = """
import os
assert os.environ["WANDB_ERROR_REPORTING"] == "false"
told = []
class Settings(dict):
    def __init__(self, **more): super().__init__(more)
class _Run:
    id = "w1"
    def log(self, figures, step): told.append((step, dict(figures)))
    def finish(self): told.append("end")
def init(**more): told.append(more); return _Run()
"""


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "packages"
    (folder / "mlflow").mkdir(parents=True)
    (folder / "mlflow" / "__init__.py").write_text(MLFLOW)
    (folder / "mlflow" / "entities.py").write_text("import collections\nMetric = collections.namedtuple('Metric', 'key value time step')")
    (folder / "wandb.py").write_text(WANDB)
    for name in [name for name in sys.modules if name.split(".")[0] in ("mlflow", "wandb")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in ("mlflow", "mlflow.entities", "wandb"):
        sys.modules.pop(name, None)


def _stopped_and_finished(folder: Path, tracker: MLflowConfig | WandbConfig) -> list[dict]:
    """A run of four steps in two parts; what its metrics file says."""
    config = made_config(num_steps=4, schedule={"warmup_steps": 0})
    with pytest.raises(Stopped):
        run("simclr", folder, [tracker.build(folder)], config.model_copy(update={"time_limit_s": 1e-6}))
    run("simclr", folder, [tracker.build(folder)], config)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _told(name: str) -> list:
    module: ModuleType = importlib.import_module(name)
    return module.told


def test_mlflow_gets_every_figure_of_one_run(stand_ins: Path, tmp_path: Path) -> None:
    records = _stopped_and_finished(tmp_path / "out", MLflowConfig())
    told = _told("mlflow")
    database = ("client", f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")
    assert told[:3] == [database, ("experiment", "medcl"), ("run", "7", "out")] and told.count(database) == 2
    assert [entry for entry in told if entry[0] in ("run", "end")] == [
        ("run", "7", "out"),
        ("end", "r1", "KILLED"),
        ("end", "r1", "FINISHED"),
    ]
    figures = [entry for entry in told if entry[0] == "r1"]
    assert figures == [("r1", name, value, record["step"]) for record in records for name, value in record.items() if name != "step"]


def test_wandb_writes_beside_the_run_unless_told_otherwise(stand_ins: Path, tmp_path: Path) -> None:
    records = _stopped_and_finished(tmp_path / "out", WandbConfig(project="nodules"))
    told = _told("wandb")
    begun = [entry for entry in told if isinstance(entry, dict)]
    assert [entry["id"] for entry in begun] == [None, "w1"] and begun[0]["project"] == "nodules" and begun[0]["name"] == "out"
    assert {entry["mode"] for entry in begun} == {"offline"} and begun[0]["dir"] == str(tmp_path / "out")
    assert begun[0]["settings"]["console"] == "off" and begun[0]["settings"]["x_disable_meta"] and told[-1] == "end"
    assert [entry for entry in told if isinstance(entry, tuple)] == [
        (record["step"], {name: value for name, value in record.items() if name != "step"}) for record in records
    ]


@pytest.mark.parametrize(("tracker", "package"), [(MLflowConfig(), "mlflow"), (WandbConfig(), "wandb")])
def test_a_missing_package_is_named_with_the_way_out(tracker, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcl.training.trackers.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"watch\.{package}: .*pip install {package}"):
        tracker.build(tmp_path)


@pytest.mark.parametrize(
    ("tracker", "begin"), [(MLflowConfig(uri="http://away:5000"), "MlflowClient"), (WandbConfig(mode="online"), "init")]
)
def test_a_server_that_is_away_is_the_users_to_mend(tracker, begin: str, stand_ins: Path, tmp_path: Path, monkeypatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nand much more")

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    package = "mlflow" if begin == "MlflowClient" else "wandb"
    monkeypatch.setattr(importlib.import_module(package), begin, away)
    with pytest.raises(UserError, match=rf"watch\.{package}: it takes no figures \(ConnectionError: no route to host\)"):
        run("simclr", tmp_path / "out", [tracker.build(tmp_path / "out")], made_config(num_steps=1))


def test_none_is_told_by_default() -> None:
    assert WatchConfig().mlflow is None and WatchConfig().wandb is None

"""Whoever makes the fits, how many at a time, killed or not: the same tables, byte for byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from medcl.api import evaluate, evaluate_share
from medcl.evaluation.fits import Fit, FitFolder
from medcl.evaluation.jobs import Jobs, fill, fill_share
from medcl.evaluation.study import BEGUN, OpenStudy, StudyConfig, _begin, begin_study, run_study
from medcl.foundation.config import to_yaml
from medcl.foundation.errors import Stopped, UserError
from medcl.foundation.progress import Silent
from medcl.store.volume_store import VolumeStore
from tests.evaluation.made_stores import study_config

SAME = ("results.csv", "summary.csv", "headline.json", "study.json", "splits.csv", "draws.csv")


def _small(pictures: VolumeStore, backbone: Path) -> StudyConfig:
    """Ten fits of both kinds, trials of two learning rates among them."""
    return study_config(pictures, backbone, modes=["knn", "finetune"], fractions=[0.2], floor=False)


def _bytes(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in SAME}


@pytest.fixture(scope="module")
def alone(pictures: VolumeStore, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study as one process makes it."""
    out = tmp_path_factory.mktemp("jobs") / "study"
    run_study(_small(pictures, backbone), out)
    return out


@pytest.fixture
def only_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process may look at fits, not make them."""
    monkeypatch.setattr(FitFolder, "save", lambda *_: pytest.fail("a fit was made here"))
    yield


def test_processes_make_every_fit(pictures: VolumeStore, backbone: Path, alone: Path, tmp_path: Path, only_read: None) -> None:
    torch.set_num_threads(2)  # of this process; fits have one in any case
    run_study(_small(pictures, backbone), tmp_path / "study", ahead=partial(fill, jobs=Jobs(2)))
    assert torch.get_num_threads() == 2
    assert _bytes(tmp_path / "study") == _bytes(alone)


def test_tasks_of_an_array_share_the_fits(pictures: VolumeStore, backbone: Path, alone: Path, tmp_path: Path) -> None:
    """In any order, each knowing only the folder; the last line finds everything there."""
    config, out = _small(pictures, backbone), tmp_path / "study"
    made = []
    for task in (2, 0, 1):
        study = begin_study(config, out, Silent(), alone=False)
        made.append(fill_share(study, Jobs(task=task, tasks=3)))
    study = OpenStudy(config, out, Silent())
    keys = [key for stage in study.stages() for key in stage]
    assert sum(made) == len(keys) == len(set(keys)) and max(made) - min(made) <= 1
    assert all(study.is_fitted(key) for key in study.keys)
    run_study(config, out, ahead=lambda study: [pytest.fail("not fitted") for key in study.keys if not study.is_fitted(key)])
    assert _bytes(out) == _bytes(alone)


def test_tasks_that_begin_at_one_moment_all_begin(pictures: VolumeStore, backbone: Path, tmp_path: Path) -> None:
    """Each may find the folder while another is writing its first file, which is no sign of a folder of something else."""
    out, config = tmp_path / "study", _small(pictures, backbone)
    out.mkdir()
    (out / f".{BEGUN}.0a1b2c3d.partial").write_text("{")
    begin_study(config, out, Silent(), alone=False)
    tasks = [threading.Thread(target=_begin, args=(config, tmp_path / "other")) for _ in range(8)]
    failed: list[BaseException] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda given: failed.append(given.exc_value))
        for task in tasks:
            task.start()
        for task in tasks:
            task.join()
    assert not failed


def test_a_rate_of_many_digits_is_tried_as_it_is(pictures: VolumeStore, backbone: Path, tmp_path: Path) -> None:
    """A task that read it back rounded made a fit that nobody asked for, and the last line did everything again."""
    budget = {"num_steps": 2, "batch": 8, "learning_rates": [0.00123456789, 0.001], "looks": 1, "workers": 0}
    config = study_config(pictures, backbone, modes=["finetune"], fractions=[0.2], draws=1, floor=False, finetune=budget)
    study = begin_study(config, tmp_path / "study", Silent(), alone=False)
    fill_share(study, Jobs(task=0, tasks=1))
    assert all(study.is_fitted(key) for key in study.keys)


def test_a_task_takes_its_own_fits_only(pictures: VolumeStore, backbone: Path, tmp_path: Path) -> None:
    study = begin_study(study_config(pictures, backbone, modes=["knn"], floor=False), tmp_path / "study", Silent(), alone=False)
    assert fill_share(study, Jobs(task=1, tasks=2)) == len(list((tmp_path / "study" / "fits").iterdir())) == 3
    assert not (tmp_path / "study" / "results.csv").exists()


def test_a_signal_between_fits_stops_with_everything_kept(
    pictures: VolumeStore, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = FitFolder.save

    def signalled(self: FitFolder, fit: Fit, basis: str) -> Fit:
        os.kill(os.getpid(), signal.SIGUSR1)
        return save(self, fit, basis)

    monkeypatch.setattr(FitFolder, "save", signalled)
    with pytest.raises(Stopped, match="SIGUSR1 after 1 of 6 fits"):
        run_study(study_config(pictures, backbone, modes=["knn"], floor=False), tmp_path / "study")
    assert len(list((tmp_path / "study" / "fits").iterdir())) == 1


@pytest.mark.parametrize(
    "given, message",
    [
        ({"task": 1}, "belong together"),
        ({"task": 3, "tasks": 3}, "counted from 0"),
        ({"task": 0, "tasks": 3, "side_by_side": 2}, "leave out --jobs"),
    ],
)
def test_jobs_that_make_no_sense(given: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Jobs(**given)


def test_many_processes_do_not_prepare_the_same_store(pictures: VolumeStore, backbone: Path, tmp_path: Path) -> None:
    """A DATA folder would be prepared by each of them at once."""
    from medcl.evaluation.study_data import Stores

    stores = Stores(pictures.folder, tmp_path, Silent(), alone=False)
    stores.card = {**stores.card, "kind": "data"}
    with pytest.raises(UserError, match="prepared by one process"):
        stores.open(pictures.recipe, "moco")


def _command(pictures: VolumeStore, backbone: Path, folder: Path) -> list[str]:
    (folder / "study.yaml").write_text(to_yaml(_small(pictures, backbone)))
    return [sys.executable, "-m", "medcl", "evaluate", str(folder / "study.yaml"), "--out", str(folder / "study"), "--jobs", "2", "--json"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_while_two_fit_and_gone_on(pictures: VolumeStore, backbone: Path, alone: Path, tmp_path: Path, how: signal.Signals) -> None:
    command = _command(pictures, backbone, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    begun = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    fits = tmp_path / "study" / "fits"
    while begun.poll() is None and (not fits.is_dir() or len(list(fits.glob("*.json"))) < 3):
        time.sleep(0.05)
    assert begun.poll() is None
    assert len(_session(begun.pid)) > 2
    begun.send_signal(how)
    code = begun.wait(60)
    assert code == (75 if how is signal.SIGTERM else -signal.SIGKILL)
    patience = time.monotonic() + 30
    while _session(begun.pid) and time.monotonic() < patience:
        time.sleep(0.2)
    assert not _session(begun.pid), "nobody is left behind"
    assert not (tmp_path / "study" / "card.json").exists()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert _bytes(tmp_path / "study").keys() == _bytes(alone).keys()
    assert (tmp_path / "study" / "results.csv").read_bytes() == (alone / "results.csv").read_bytes()


def _session(leader: int) -> list[int]:
    """Processes that a command started, and theirs, itself included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            found += [int(path.parent.name)] if int(session) == leader and state != "Z" else []
    return found


@pytest.mark.slow
def test_a_cluster_makes_every_fit(
    pictures: VolumeStore, backbone: Path, alone: Path, tmp_path: Path, only_read: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads in one worker: torch's random state is shared there, so fits must take turns."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0") as cluster:
        _command(pictures, backbone, tmp_path)
        evaluate("study.yaml", out="study", dask=cluster.scheduler_address)
    assert (tmp_path / "study" / "results.csv").read_bytes() == (alone / "results.csv").read_bytes()


def test_a_task_says_what_it_made(pictures: VolumeStore, backbone: Path, tmp_path: Path) -> None:
    _command(pictures, backbone, tmp_path)
    (line,) = evaluate_share(tmp_path / "study.yaml", {"modes": ["knn"]}, task=0, tasks=6, out=tmp_path / "study")
    assert line.startswith("task 0 of 6: 1 of 4 fits are in")

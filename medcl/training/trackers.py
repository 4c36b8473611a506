"""Other people's trackers that a run may tell its figures: MLflow, Weights & Biases; none by default, none over a network unless asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medcl.foundation import distributed
from medcl.foundation.config import Settings
from medcl.foundation.errors import UserError
from medcl.training.launch import tell_nobody

if TYPE_CHECKING:
    from medcl.training.watchers import Moment


class MLflowConfig(Settings):
    """MLflow gets every figure, and nothing else. uri: of a tracking server or database; None is a database in the RUN folder."""

    uri: str | None = None
    experiment: str = "medcl"

    def build(self, folder: Path) -> MLflowWatch:
        """The watcher of a run in `folder`. Raises UserError where MLflow is missing."""
        _require("mlflow")
        return MLflowWatch(self, folder)


class WandbConfig(Settings):
    """Weights & Biases gets every figure, and nothing else.

    mode: `offline` writes into the RUN folder, for `wandb sync` later; `online` sends to wandb's servers while the run learns.
    """

    project: str = "medcl"
    mode: Literal["offline", "online"] = "offline"

    def build(self, folder: Path) -> WandbWatch:
        """The watcher of a run in `folder`. Raises UserError where wandb is missing."""
        _require("wandb")
        return WandbWatch(self, folder)


def _require(package: str) -> None:
    spec = find_spec(package)
    if spec is None or spec.origin is None:  # no origin: a mere folder of that name
        raise UserError(f"watch.{package}: the package {package} is missing; pip install {package}, or leave the setting out")


@contextmanager
def _answering(tracker: str) -> Iterator[None]:
    """Say whose failure it is where a tracker refuses or its server is away: each has exceptions of its own kinds, below none in common."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"watch.{tracker}: it takes no figures ({type(error).__name__}: {reason}); mend it or leave the setting out, then the same "
            "command goes on from the last checkpoint"
        ) from error


class MLflowWatch:
    """Tells MLflow what the watchers before it found; a resumed run goes on as the same one."""

    def __init__(self, config: MLflowConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.state: dict[str, Any] = {"run": None}
        self._client: Any = None
        self._ended = False

    def look(self, moment: Moment, figures: dict[str, float]) -> dict[str, float]:
        """Sends from the first process; adds no figure."""
        if figures and distributed.rank() == 0:
            with _answering("mlflow"):
                client = self._client = self._client or self._begin()
                from mlflow.entities import Metric  # type: ignore[import-not-found]

                now = round(time.time() * 1000)
                client.log_batch(self.state["run"], [Metric(name, value, now, moment.step) for name, value in figures.items()])
            self._ended = moment.step == moment.num_steps
        return {}

    def close(self) -> None:
        """Tell whether the run reached its end."""
        if self._client is not None:
            with _answering("mlflow"):
                self._client.set_terminated(self.state["run"], "FINISHED" if self._ended else "KILLED")

    def _begin(self) -> Any:
        tell_nobody()
        from mlflow import MlflowClient  # type: ignore[import-not-found]

        client = MlflowClient(self.config.uri or f"sqlite:///{self.folder.absolute() / 'mlflow.db'}")
        if self.state["run"] is None:
            known = client.get_experiment_by_name(self.config.experiment)
            number = known.experiment_id if known else client.create_experiment(self.config.experiment)
            self.state["run"] = client.create_run(number, run_name=self.folder.name).info.run_id
        return client


class WandbWatch:
    """Tells Weights & Biases what the watchers before it found; a resumed run goes on as the same one."""

    def __init__(self, config: WandbConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.state: dict[str, Any] = {"run": None}
        self._run: Any = None

    def look(self, moment: Moment, figures: dict[str, float]) -> dict[str, float]:
        """Writes or sends from the first process; adds no figure."""
        if figures and distributed.rank() == 0:
            with _answering("wandb"):
                run = self._run = self._run or self._begin()
                run.log(figures, step=moment.step)
        return {}

    def close(self) -> None:
        """Flush."""
        if self._run is not None:
            with _answering("wandb"):
                self._run.finish()

    def _begin(self) -> Any:
        tell_nobody()
        import wandb  # type: ignore[import-not-found]

        # By default it also records what is printed, the machine and its name, the command with its paths and the repository.
        quiet = wandb.Settings(
            console="off", silent=True, save_code=False, disable_git=True, host="a machine", x_disable_meta=True, x_disable_stats=True
        )
        run = wandb.init(
            project=self.config.project,
            name=self.folder.name,
            id=self.state["run"],
            resume="allow",
            mode=self.config.mode,
            dir=str(self.folder),
            settings=quiet,
        )
        self.state["run"] = run.id
        return run

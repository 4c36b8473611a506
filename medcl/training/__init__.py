"""The loop and what keeps it exact: optimizer, schedule, checkpoints, pieces, processes, watchers."""

from __future__ import annotations

from medcl.training.loop import TrainingConfig, TrainResult, train

__all__ = ["TrainResult", "TrainingConfig", "train"]

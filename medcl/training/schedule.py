"""The learning rate as a function of the step: warm-up, then a cosine."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from medcl.foundation.config import Settings

DECADES = 4


class ScheduleConfig(Settings):
    """warmup_steps: steps of the rise. final_share: part of the learning rate that is left at the end.

    rise: `linear`; or `exponential`, over four decades, to see at which rate a network learns (examples/find_learning_rate.py).
    """

    warmup_steps: int = Field(default=100, ge=0)
    rise: Literal["linear", "exponential"] = "linear"
    final_share: float = Field(default=0.0, ge=0, le=1)


def learning_rate_share(step: int, num_steps: int, config: ScheduleConfig) -> float:
    """Part of the learning rate at a step 0..num_steps-1 (Loshchilov & Hutter 2017, eq. 5, after Goyal et al. 2017's warm-up)."""
    if step < config.warmup_steps:
        risen = (step + 1) / config.warmup_steps
        return risen if config.rise == "linear" else 10 ** (DECADES * (risen - 1))
    along = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * along))

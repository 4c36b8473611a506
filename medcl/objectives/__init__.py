"""Equations: pure functions of tensors that are already gathered; none owns a queue, a process group or a batch size."""

from __future__ import annotations

from medcl.objectives.info_nce import info_nce

__all__ = ["info_nce"]

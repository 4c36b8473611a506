"""Equations: pure functions of tensors that are already gathered; none owns a queue, a process group or a batch size."""

from __future__ import annotations

from medcl.objectives.info_nce import info_nce, info_nce_both_ways, nt_xent
from medcl.objectives.prototypes import sinkhorn_codes, swapped_prediction
from medcl.objectives.rows import Rows
from medcl.objectives.siglip import siglip

__all__ = ["Rows", "info_nce", "info_nce_both_ways", "nt_xent", "siglip", "sinkhorn_codes", "swapped_prediction"]

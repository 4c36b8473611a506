"""From rows of the store to batches: order, views and texts as pure functions of the step."""

from __future__ import annotations

from medcl.loading.batches import Batches
from medcl.loading.order import items_at
from medcl.loading.texts import ReportTexts

__all__ = ["Batches", "ReportTexts", "items_at"]

"""medcl: contrastive pretraining for medical images, from raw scans to a backbone and an honest page."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "read_scans": "medcl.ingest",
    "pretrain": "medcl.api",
    "evaluate": "medcl.api",
    "load_backbone": "medcl.export.backbone",
    "into": "medcl.export.transfer",
    "methods": "medcl.methods",
    "encoders": "medcl.encoders",
    "objectives": "medcl.objectives",
}


def __getattr__(name: str) -> Any:
    """Load torch and the rest only when something is used."""
    from importlib import import_module

    if name not in _WHERE:
        raise AttributeError(f"module 'medcl' has no attribute '{name}'")
    module = import_module(_WHERE[name])
    return module if name in ("methods", "encoders", "objectives") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])

"""From a hospital's export to a manifest: every scan read right or refused with its reason, no identifier let out."""

from __future__ import annotations

from typing import Any

_WHERE = {
    "read_scans": "medcl.ingest.reading",
    "Reading": "medcl.ingest.reading",
    "open_data": "medcl.ingest.data",
    "Data": "medcl.ingest.data",
    "ingest": "medcl.ingest.run",
    "Summary": "medcl.ingest.run",
    "convert": "medcl.ingest.to_nifti",
    "IngestConfig": "medcl.ingest.settings",
    "LedgerEntry": "medcl.ingest.ledger",
}


def __getattr__(name: str) -> Any:
    """Load pandas, pydicom and nibabel only when something is used."""
    from importlib import import_module

    if name not in _WHERE:
        raise AttributeError(f"module 'medcl.ingest' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)

"""Opening a DATA folder: its tables, and its volumes and masks read again from where they lie."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcl.foundation.errors import DataError, UserError
from medcl.foundation.files import read_card
from medcl.foundation.types import Volume
from medcl.ingest import manifest
from medcl.ingest.duplicates import pixel_hash
from medcl.ingest.ledger import REASONS, Refused
from medcl.ingest.readers import read_again
from medcl.ingest.records import Source
from medcl.ingest.settings import IngestConfig

if TYPE_CHECKING:
    import pandas as pd


class Data:
    """A whole DATA folder. Picklable: processes can share it; tables are read when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.card: dict[str, Any] = read_card(self.folder, "data")
        self.config = IngestConfig.model_validate(self.card["settings"])

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "card": self.card, "config": self.config}

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """One row per volume or picture; columns as in manifest.MANIFEST_COLUMNS. shape and spacing_mm are tuples."""
        return manifest.read_table(self.folder / manifest.MANIFEST)

    @cached_property
    def ledger(self) -> pd.DataFrame:
        """One row per file met."""
        return manifest.read_table(self.folder / manifest.LEDGER)

    @cached_property
    def labels(self) -> pd.DataFrame | None:
        """volume_id, one column per label (missing where unknown), mask_id where there are masks; None without labels."""
        path = self.folder / manifest.LABELS
        return manifest.read_table(path) if path.exists() else None

    @cached_property
    def reports(self) -> pd.DataFrame | None:
        """Scrubbed reports; None where there are none."""
        path = self.folder / manifest.REPORTS
        return manifest.read_table(path) if path.exists() else None

    def volume(self, volume_id: str) -> Volume:
        """Read a volume again from its source. Raises DataError where the source is gone or has changed."""
        return self._read(volume_id)

    def mask(self, mask_id: str) -> Volume:
        """Read a mask again: whole numbers, uint8 or uint16, with its own affine."""
        return self._read(mask_id)

    @cached_property
    def _sources(self) -> dict[str, tuple[Source, str]]:
        frame = manifest.read_table(self.folder / manifest.SOURCES)
        rows = zip(frame["item_id"], frame["reader"], frame["paths"], frame["detail"], frame["pixel_hash"], strict=True)
        return {name: (Source(reader, paths, json.loads(detail)), digest) for name, reader, paths, detail, digest in rows}

    def _read(self, item_id: str) -> Volume:
        if item_id not in self._sources:
            raise UserError(f"{self.folder}: has no volume or mask '{item_id}'; see volume_id in {manifest.MANIFEST}")
        source, digest = self._sources[item_id]
        try:
            volume = read_again(source, self.config)
        except Refused as refusal:
            raise DataError(f"{item_id}: cannot be read any more ({refusal.reason}: {REASONS[refusal.reason][1]}); ingest again") from None
        except FileNotFoundError:
            raise DataError(f"{item_id}: its source files are gone; put them back where they were, or ingest again") from None
        except IndexError:  # fewer frames, time points or items than there were
            raise DataError(f"{item_id}: its source files have changed since they were ingested; ingest again") from None
        except OSError as error:
            raise DataError(f"{item_id}: its source files cannot be read any more ({type(error).__name__}); ingest again") from None
        if pixel_hash(volume) != digest:
            raise DataError(f"{item_id}: its source files have changed since they were ingested; ingest again")
        return volume


def open_data(folder: str | Path) -> Data:
    """Open a DATA folder that `medcl ingest` wrote. Raises UserError where it is missing or not whole."""
    return Data(Path(folder))

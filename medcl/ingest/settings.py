"""What a person may say about their data when the files do not say it themselves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medcl.foundation.config import Settings
from medcl.foundation.types import Units


class Columns(Settings):
    """Names of columns in the reports and labels CSV. None: the usual names are looked for (see tables.py)."""

    file: str | None = None
    patient: str | None = None
    study: str | None = None
    accession: str | None = None
    text: str | None = None
    findings: str | None = None
    impression: str | None = None
    split: str | None = None
    modality: str | None = None
    sex: str | None = None
    age: str | None = None
    date: str | None = None


class ReportConfig(Settings):
    """What to do with report texts. language: the one expected, others are flagged. drop_comparisons: leave out sentences that
    compare with an earlier study, which the picture cannot show.
    """

    language: Literal["en", "de", "fr", "es"] | None = None
    drop_comparisons: bool = False


class SplitConfig(Settings):
    """Shares of patients in val and test where the data bring no split of their own; `stratify`: a label column."""

    val: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)
    seed: int = 0
    stratify: str | None = None

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> SplitConfig:
        if self.val + self.test >= 1:
            raise ValueError("val + test must stay below 1, so that patients remain to train on")
        return self


class IngestConfig(Settings):
    """Settings of `medcl ingest`.

    modality, units: of NIfTI, pictures and npz files, which do not say. label_name: the label column of npz files.
    label_columns: columns of the labels CSV to keep (None: those that look like labels). tilt: what to do with gantry
    tilt: resample it away (recorded), keep it as an exact sheared affine, or refuse. budget_gib: the largest volume.
    """

    modality: str | None = None
    units: Units | None = None
    columns: Columns = Columns()
    label_columns: tuple[str, ...] | None = None
    label_name: str = "label"
    keep_derived: bool = False
    keep_localizers: bool = False
    keep_burned_in: bool = False
    tilt: Literal["correct", "keep", "refuse"] = "correct"
    nifti_orientation: Literal["strict", "sform", "qform"] = "strict"
    not_finite: Literal["refuse", "zero"] = "refuse"
    min_slices: int = Field(default=2, ge=2)
    budget_gib: float = Field(default=2.0, gt=0)
    split: SplitConfig = SplitConfig()
    reports: ReportConfig = ReportConfig()

    @property
    def budget_bytes(self) -> int:
        """The largest volume, in bytes as decoded."""
        return int(self.budget_gib * 2**30)

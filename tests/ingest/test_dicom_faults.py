"""Every fault of the corpus ends as its truth says: right, split or refused with its reason; none is wrong in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcl.ingest import read_scans
from tests.ingest import faults_enhanced, faults_geometry, faults_mosaic, faults_pixels  # noqa: F401  (each fills the table)
from tests.ingest.faults import FAULTS, Fault, judge


@pytest.mark.parametrize("case", FAULTS, ids=lambda case: case.name)
def test_fault(tmp_path: Path, case: Fault) -> None:
    known = case.write(tmp_path)
    reading = read_scans(tmp_path)
    assert {one.reason for one in reading.ledger} - {"ok"} == case.reasons
    assert judge([(volume.array, volume.affine) for volume in reading.volumes], known, strict=True) == "right"
    assert all(case.flags <= set(flags) for flags in reading.flags)
    assert {volume.units for volume in reading.volumes} <= ({case.units} if case.units else {"HU", "SUV", "arbitrary", "display"})

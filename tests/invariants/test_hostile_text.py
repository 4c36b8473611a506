"""Text that a spreadsheet would run or a browser obey is harmless in what medcl writes."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from medcl.evaluation.summary import RESULTS, SUMMARY, Summary, write_summary


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_cells_of_a_study_are_no_formulas(tmp_path: Path, cell: str) -> None:
    """Names of initialisations and tasks come from a person's YAML; numbers stay numbers."""
    table = pd.DataFrame([{"task": cell, "init": cell, "metric": "auroc", "value": -0.5}])
    write_summary(tmp_path, Summary(table, table, {}, []))
    for name in (RESULTS, SUMMARY):
        with open(tmp_path / name, newline="", encoding="utf-8") as handle:
            (row,) = csv.DictReader(handle)
        assert row["task"] == row["init"] == "'" + cell.replace("\r", " ")  # a bare carriage return would begin a row
        assert float(row["value"]) == -0.5

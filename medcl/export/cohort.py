"""Who and what a backbone was trained on, as counts that single nobody out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

# Columns of the manifest that are counted; one that a data set does not have is unknown of all.
COUNTED = ("modality", "body_part", "scanner", "site", "age_band", "sex")
FEWEST = 5


def count_cohort(items: pd.DataFrame) -> dict[str, dict[str, int | str]]:
    """Column -> value -> number of patients with it. A value of fewer than five patients says so and no more.

    items: rows of a store's index. age_band: decades of `age_years`, 80 and above in one.
    """
    table = items.assign(age_band=[_band(age) for age in items["age_years"]]) if "age_years" in items else items
    patients = table["patient_key"].astype(str)
    found: dict[str, dict[str, int | str]] = {}
    for name in COUNTED:
        values = table[name].fillna("").astype(str).replace("", "unknown") if name in table else ["unknown"] * len(table)
        counts: Any = patients.groupby(values).nunique()
        found[name] = {str(value): _few(int(count)) for value, count in counts.sort_index().items()}
    return found


def lines(cohort: dict[str, Any]) -> Iterable[str]:
    """The counts for a model card."""
    for name, counts in cohort.items():
        yield f"- {name.replace('_', ' ')} (patients): " + ", ".join(f"{value} {count}" for value, count in counts.items())


def _band(age: Any) -> str:
    if pd.isna(age):
        return "unknown"
    decade = min(int(age) // 10, 8)
    return "80+" if decade == 8 else f"{decade}0-{decade}9" if decade else "0-9"


def _few(count: int) -> int | str:
    return count if count >= FEWEST else f"fewer than {FEWEST}"

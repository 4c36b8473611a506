"""Command line: python datasets/made OUT, or python -m made_cohort OUT once installed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def main() -> None:
    """Write the cohort and print where it is, as JSON."""
    if not __package__:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        from made import make  # type: ignore[import-not-found]
    else:
        from . import make
    parser = argparse.ArgumentParser(
        description="Write a made cohort: chest CT (DICOM), chest X-rays with reports (DICOM), brain MR (NIfTI, BIDS)."
    )
    parser.add_argument("out", type=Path, help="an empty or a new folder")
    parser.add_argument("--patients", type=int, default=96)
    parser.add_argument("--xray-patients", type=int, default=None)
    parser.add_argument("--mr-patients", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    said = parser.parse_args()
    made = make(said.out, said.patients, said.seed, said.jobs, xray_patients=said.xray_patients, mr_patients=said.mr_patients)
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()

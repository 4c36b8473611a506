"""How many planted near-duplicates the perceptual hash finds, and how many scans it takes for another's, on real data.

python benchmarks/ingest_duplicates.py [--most 24] [--out reports/ingest/duplicates.md]

Sources: $MEDCL_TEST_DATA (see its SOURCES.md). Of every set up to `most` scans are written anew in eleven guises, as another export,
another reconstruction or a picture editor would; a guise is found where its hash differs in at most as many bits as medcl allows.
A false alarm is a scan that looks like another one of the set by the same rule.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from medcl.foundation.randomness import generator
from medcl.foundation.types import Volume
from medcl.ingest.duplicates import BITS, MOST_DIFFERING, near_hash, near_pairs
from medcl.ingest.reading import read_scans

SETS = {
    "hippocampus MR, crops of one organ": "hippocampus/imagesTr",
    "cxr_notes": "cxr_notes",
    "cxr_hannover": "cxr_hannover",
    "CT phantoms": "dicom_series",
    "assorted NIfTI": "nifti_misc",
}
LARGEST = 8_000_000  # voxels; larger scans are hashed, but not written anew
MEASURED = ("kernel smooth", "kernel sharp", "8-bit window", "gamma 0.7", "noise 5%", "0.7 x resolution", "1.3 x resolution")
CROPS = ("cropped 2%", "cropped 3%", "cropped 5%", "cropped 8%")

WHERE_IT_ENDS = (
    "## Where it does not work",
    "",
    "- Crops: up to 2% of every axis are found; of 3% some are missed, of 5% most, of 8% all. The hash has no way to shift one scan",
    "  against the other. A scan turned, mirrored, or with its slices in another field of view is another scan to it.",
    "- Scans under 20 x 20 x 8 voxels (pictures under 32 x 32), and those of at most 16 values, have no hash: MedMNIST at 28 x 28, say.",
    "- Crops of one organ stand close together: among the hippocampi the nearest two differ in 2 bits more than is allowed. Among",
    "  thousands of such crops there will be false alarms. They link patients when splits are drawn, and stand in `flags` for review.",
    "- `cxr_notes` holds `raw_samples/`, untouched originals of nine of its pictures; the CT phantom lies in `dicom_series` as DICOM and,",
    "  made by dcm2niix, as NIfTI. So likenesses in these two sets are true ones as far as is known; they were not judged one by one.",
    "- Beyond 8,192 scans not all pairs are compared: of made hashes at 20,000, with 1 to 20 bits differing, a test asks for 97%.",
    "  Real hashes are less even than made ones, so expect less. The leak guard compares all pairs, whatever their number.",
)


def main() -> None:
    """Measure, print, and write the tables."""
    parser = argparse.ArgumentParser(description="Near-duplicates found and false alarms, on real data.")
    parser.add_argument("--most", type=int, default=24)
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("MEDCL_TEST_DATA", shared))
    if not root.is_dir():
        print(f"no real data at {root}; set MEDCL_TEST_DATA")
        return
    found_rows, alarm_rows = [], []
    for name, folder in SETS.items():
        scans = [scan for scan in read_scans(root / folder).volumes if near_hash(scan)]
        hashes = [near_hash(scan) for scan in scans]
        chosen = [place for place, scan in enumerate(scans) if scan.array.size <= LARGEST]
        chosen = chosen[:: max(1, -(-len(chosen) // said.most))]
        found_rows.append(_found(name, [scans[place] for place in chosen], [hashes[place] for place in chosen]))
        alarm_rows.append(_alarms(name, hashes))
        print(found_rows[-1], alarm_rows[-1], sep="\n", flush=True)
    text = _page(found_rows, alarm_rows)
    print(text)
    if said.out is not None:
        said.out.parent.mkdir(parents=True, exist_ok=True)
        said.out.write_text(text, encoding="utf-8")


def guises(scan: Volume, item: int) -> dict[str, np.ndarray]:
    """Name -> the scan's voxels in another guise."""
    draw = generator(0, "guises", item=item)
    values = scan.array.astype(np.float32)
    axes = 3 if scan.kind == "volume" else 2
    low, high = (float(one) for one in np.percentile(values, [1, 99]))
    blurred = ndimage.gaussian_filter(values, (1.0, 1.0, 0.0))
    whole = (values - values.min()) / max(float(np.ptp(values)), 1e-6)
    result = {
        "kernel smooth": ndimage.gaussian_filter(values, (0.8,) * axes + (0.0,) * (3 - axes)),
        "kernel sharp": values + (values - blurred),
        "8-bit window": np.rint(255 * np.clip((values - low) / (high - low + 1e-6), 0, 1)),
        "gamma 0.7": whole**0.7,
        "noise 5%": values + draw.normal(0, 0.05 * (high - low), values.shape),
        "0.7 x resolution": ndimage.zoom(values, (0.7,) * axes + (1.0,) * (3 - axes), order=1),
        "1.3 x resolution": ndimage.zoom(values, (1.3,) * axes + (1.0,) * (3 - axes), order=1),
    }
    for name, share in zip(CROPS, (0.02, 0.03, 0.05, 0.08), strict=True):
        result[name] = _cropped(values, share, axes, draw)
    if axes == 2:
        stream = BytesIO()
        Image.fromarray(np.uint8(255 * whole[:, :, 0])).save(stream, "JPEG", quality=40)
        result["JPEG 40"] = np.asarray(Image.open(stream))[:, :, None]
    return result


def _cropped(values: np.ndarray, share: float, axes: int, draw: np.random.Generator) -> np.ndarray:
    """Without a share of every axis, taken from both ends in a random proportion."""
    box = []
    for length in values.shape[:axes]:
        cut = max(1, round(share * length))
        first = int(draw.integers(0, cut + 1))
        box.append(slice(first, length - cut + first))
    return values[tuple(box)]


def _found(name: str, scans: Sequence[Volume], hashes: Sequence[str]) -> str:
    """One row: for every guise the share found and the median number of bits that differ."""
    bits: dict[str, list[int]] = {guise: [] for guise in (*MEASURED, "JPEG 40", *CROPS)}
    most = MOST_DIFFERING[hashes[0][0]]
    for item, (scan, own) in enumerate(zip(scans, hashes, strict=True)):
        for guise, array in guises(scan, item).items():
            other = near_hash(Volume(array, scan.affine, scan.modality, scan.units, scan.kind))
            bits[guise].append((int(own[1:], 16) ^ int(other[1:], 16)).bit_count() if other else BITS)
    cells = [f"{np.mean([one <= most for one in found]):.0%} ({np.median(found):.0f})" if found else "" for found in bits.values()]
    return f"| {name} | {len(scans)} | {most} | " + " | ".join(cells) + " |"


def _alarms(name: str, hashes: Sequence[str]) -> str:
    """One row: scans that look like another, and how near the nearest others are."""
    pairs = near_pairs(hashes)
    numbers = [int(one[1:], 16) for one in hashes]
    nearest = [min((one ^ other).bit_count() for b, other in enumerate(numbers) if a != b) for a, one in enumerate(numbers)]
    spread = ", ".join(f"{np.percentile(nearest, share):.0f}" for share in (0, 1, 5, 50))
    return f"| {name} | {len(hashes)} | {len(np.unique(pairs))} | {len(pairs)} | {spread} |"


def _page(found: Sequence[str], alarms: Sequence[str]) -> str:
    names = (*MEASURED, "JPEG 40", *CROPS)
    return "\n".join(
        [
            "# Near-duplicates: what the perceptual hash finds",
            "",
            f"Written by `benchmarks/ingest_duplicates.py`. Guises of real scans found by {BITS} bits, in brackets the median number of "
            "bits that differ. `most`: bits that may differ. Cropped: that share of every axis, from both ends in a random proportion.",
            "",
            f"| set | scans | most | {' | '.join(names)} |",
            "|" + "---|" * (len(names) + 3),
            *found,
            "",
            "Scans of the set as it is that look like another one of it; bits to the nearest other scan: least, 1%, 5%, half of the scans.",
            "",
            "| set | scans | look like another | pairs | nearest other |",
            "|---|---|---|---|---|",
            *alarms,
            "",
            *WHERE_IT_ENDS,
            "",
        ]
    )


if __name__ == "__main__":
    main()

"""Which blosc2 filter the store's arrays are written with: disk, reading and writing, on real scans as integers.

python -m benchmarks.store_filters [--rounds 5] [--boxes 8] [--side 64] [--out reports/views/store_filters.md]

CT and MR volumes of $MEDCL_TEST_DATA (see its SOURCES.md), as their files hold them, in the store's chunks and blocks; fMRI and
masks are left out. Random boxes, one thread, arms interleaved, CPU time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import blosc2
import nibabel as nib
import numpy as np

_blosc2: Any = blosc2  # its annotations are narrower than what it takes
NAMES = ("nifti_misc/CT_*.nii.gz", "nifti_misc/totalseg_example_??_sm.nii.gz")
MORE = ("nifti_misc/chris_*.nii.gz", "dicom_series/reference_dcm2niix/ct_*.nii.gz")
ARMS = {
    "shuffle, LZ4 5 (the store's)": (blosc2.Filter.SHUFFLE, blosc2.Codec.LZ4, 5),
    "bit-shuffle, LZ4 5": (blosc2.Filter.BITSHUFFLE, blosc2.Codec.LZ4, 5),
    "shuffle, LZ4 9": (blosc2.Filter.SHUFFLE, blosc2.Codec.LZ4, 9),
    "shuffle, LZ4HC 5": (blosc2.Filter.SHUFFLE, blosc2.Codec.LZ4HC, 5),
}


def main() -> None:
    """Measure, print, and write the tables."""
    parser = argparse.ArgumentParser(description="Size, read and write time of each filter.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--boxes", type=int, default=8)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    root = Path(os.environ.get("MEDCL_TEST_DATA", "../shared/data"))
    shown = f"Boxes of {said.side} voxels or the whole axis, {said.rounds} rounds of {said.boxes}, interleaved, CPU time of one thread"
    text = [f"{shown}, blosc2 {blosc2.__version__}."]
    for path in sorted(path for pattern in NAMES + MORE for path in root.glob(pattern)):
        array = np.asanyarray(nib.load(path).dataobj)  # pyright: ignore[reportAttributeAccessIssue]
        if array.ndim == 3:
            text += ["", *_rows(path, np.ascontiguousarray(array.astype(np.int16)), said)]
    print("\n".join(text))
    if said.out is not None:
        said.out.write_text("\n".join(text) + "\n", encoding="utf-8")


def _rows(path: Path, array: np.ndarray, said: argparse.Namespace) -> list[str]:
    writes, arrays = {}, {}
    for name, arm in ARMS.items():
        begin = time.process_time()
        arrays[name] = _written(array, *arm)
        writes[name] = (time.process_time() - begin) * 1000 / (array.nbytes / 1e6)
    rng, reads = np.random.default_rng(0), {name: list[float]() for name in ARMS}
    for turn in range(said.rounds + 1):
        starts = [[int(rng.integers(0, max(length - said.side, 0) + 1)) for length in array.shape] for _ in range(said.boxes)]
        for name, written in arrays.items():
            begin = time.process_time()
            for start in starts:
                _ = written[tuple(slice(first, first + said.side) for first in start)]
            if turn:
                reads[name].append((time.process_time() - begin) * 1000 / said.boxes)
    own = statistics.median(reads[next(iter(ARMS))])
    return [
        f"{path.name}, {' x '.join(map(str, array.shape))}",
        "",
        "| arm | share of the bytes | ms per box, median | of the rounds | ratio | ms to write a megabyte |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {arrays[name].schunk.cbytes / array.nbytes:.3f} | {statistics.median(seen):.2f} "
            f"| {min(seen):.2f} - {max(seen):.2f} | {statistics.median(seen) / own:.2f} | {writes[name]:.1f} |"
            for name, seen in reads.items()
        ),
    ]


def _written(array: np.ndarray, filter_: Any, codec: Any, level: int) -> Any:
    packed = {"codec": codec, "clevel": level, "nthreads": 1, "typesize": 2, "filters": [filter_], "filters_meta": [0]}
    chunks = tuple(min(length, most) for length, most in zip(array.shape, (64, 64, 160), strict=True))
    blocks = tuple(min(length, most) for length, most in zip(chunks, (16, 16, 32), strict=True))
    return _blosc2.asarray(array, chunks=chunks, blocks=blocks, cparams=packed)


if __name__ == "__main__":
    main()

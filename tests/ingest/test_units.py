"""Hounsfield units doubted: never rescaled, rescaled twice, cut to a window; and silence where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medcl.ingest import read_scans
from medcl.ingest.units import hu_doubts


def chest() -> np.ndarray:
    """A made chest: air, lung, tissue and a tail of bone, with noise; 12 bits from -1024 on, as a scanner writes it."""
    rng = np.random.default_rng(0)
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, side) for side in (64, 64, 40)], indexing="ij")
    values = np.full(x.shape, -1000.0)
    values[x**2 + y**2 < 0.8] = 40
    values[(np.abs(x) - 0.4) ** 2 + y**2 < 0.06] = -850
    bone = (np.abs(x) < 0.15) & (np.abs(y - 0.6) < 0.15)
    values[bone] = 150 + rng.exponential(250, bone.sum())
    return np.clip(np.rint(values + rng.normal(0, 20, values.shape)), -1024, 3071)


@pytest.mark.parametrize(
    ("doubts", "change"),
    [
        ((), lambda hu: hu),
        ((), lambda hu: np.where(hu > 700, 3071, hu)),  # metal ends at what 12 bits hold
        (("air_missing",), lambda hu: hu + 1024),
        (("rescaled_twice",), lambda hu: hu - 1024),
        (("below_air",), lambda hu: np.where(np.indices(hu.shape)[:2].min(0) < 3, -3024, hu)),
        (("windowed",), lambda hu: np.clip(hu, -1000, 1000)),
        (("windowed",), lambda hu: np.clip(hu, -1000, 400)),
        (("air_missing", "windowed"), lambda hu: np.clip(hu, -160, 240)),
        (("air_missing", "windowed"), lambda hu: np.clip((hu + 160) / 400, 0, 1)),
    ],
    ids=["right", "metal", "never rescaled", "rescaled twice", "padded", "lung window", "wide window", "abdomen", "zero to one"],
)  # fmt: skip
def test_doubts(doubts: tuple[str, ...], change: Callable[[np.ndarray], np.ndarray]) -> None:
    values = change(chest()).astype(np.float32)
    assert hu_doubts(values) == doubts
    if values.max() > 1:
        assert hu_doubts(values.astype(np.int16)) == doubts


def test_real_ct(real_data: Path) -> None:
    head = read_scans(real_data / "dicom_series" / "ct_head_phantom_philips").volumes[0].array
    assert hu_doubts(head) == ()
    assert hu_doubts(head.astype(np.int32) - 1024) == ("rescaled_twice",)
    assert hu_doubts(np.clip(head, -1000, 400)) == ("windowed",)
    doubts = {
        name: hu_doubts(np.asanyarray(nib.load(real_data / "nifti_misc" / f"{name}.nii.gz").dataobj))  # type: ignore[attr-defined]
        for name in ("totalseg_example_ct_sm", "CT_AVM", "CT_pitch")
    }
    # CT_AVM starts at 0, CT_pitch is a window of 0 to 255
    assert doubts == {"totalseg_example_ct_sm": (), "CT_AVM": ("air_missing",), "CT_pitch": ("air_missing",)}

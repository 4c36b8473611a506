"""Real series: equal to dcm2niix voxel for voxel, split where they are mixed, refused where they are no volume."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medcl.foundation import geometry
from medcl.ingest import IngestConfig, ingest, open_data, read_scans


def reference(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    return geometry.reorient(np.asanyarray(image.dataobj), image.affine, "RAS")  # type: ignore[attr-defined]


def test_ct_head_study_equals_dcm2niix(real_data: Path) -> None:
    reading = read_scans(real_data / "dicom_series" / "ct_head_phantom_philips")
    assert Counter(one.reason for one in reading.ledger) == {"ok": 28, "localizer": 1, "secondary_capture": 6, "dicomdir": 3}
    assert len(reading.volumes) == 1
    volume = reading.volumes[0]
    assert (volume.units, volume.modality) == ("HU", "ct")
    array, affine = geometry.reorient(volume.array, volume.affine, "RAS")
    voxels, true_affine = reference(real_data / "dicom_series" / "reference_dcm2niix" / "ct_head_S2010.nii.gz")
    np.testing.assert_array_equal(array, voxels)
    np.testing.assert_allclose(affine, true_affine, atol=1e-4)


def test_tilted_series_before_correction_equals_dcm2niix(real_data: Path) -> None:
    reading = read_scans(real_data / "dicom_series" / "ct_gantry_tilt_phantom_philips", IngestConfig(tilt="keep"))
    volume = reading.volumes[0]
    array, affine = geometry.reorient(volume.array, volume.affine, "RAS")
    voxels, true_affine = reference(real_data / "dicom_series" / "reference_dcm2niix" / "ct_tilt.nii.gz")
    np.testing.assert_array_equal(array, voxels)
    np.testing.assert_allclose(affine[:, :2], true_affine[:, :2], atol=1e-4)
    np.testing.assert_allclose(affine[:3, 3], true_affine[:3, 3], atol=1e-4)
    # dcm2niix puts the slices at right angles; the headers put them straight along z
    np.testing.assert_allclose(affine[:3, 2], [0, 0, 2.5], atol=1e-4)


def test_tilted_series_corrected_keeps_every_slice(real_data: Path) -> None:
    folder = real_data / "dicom_series" / "ct_gantry_tilt_phantom_philips"
    kept, corrected = (read_scans(folder, IngestConfig(tilt=tilt)) for tilt in ("keep", "correct"))
    assert corrected.flags[0] == ("gantry_tilt_corrected",)
    before, after = kept.volumes[0], corrected.volumes[0]
    directions = after.affine[:3, :3] / np.linalg.norm(after.affine[:3, :3], axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-5)
    for index in (0, 9, 19):
        inside = before.array[:, :, index]
        shift = np.linalg.solve(after.affine, before.affine @ [256, 256, index, 1])
        assert shift[2] == pytest.approx(index, abs=1e-4)
        row = int(np.floor(shift[1]))
        part = shift[1] - row
        moved = (1 - part) * after.array[256, row, index] + part * after.array[256, row + 1, index]
        low, high = inside[256, 254:259].min(), inside[256, 254:259].max()
        assert low - 1 <= moved <= high + 1


def test_mixed_cardiac_series_become_three_stacks_each(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "dicom_series" / "scd_cardiac_localizers"
    summary = ingest(folder, tmp_path / "data", labels=folder / "labels.csv", jobs=0, key=b"k" * 32)
    data = open_data(tmp_path / "data")
    assert (summary.volumes, summary.patients, summary.used) == (18, 6, 91)
    assert all(shape == (256, 256, 5) for shape in data.manifest["shape"])
    assert data.manifest.groupby("patient_key")["orientation"].nunique().tolist() == [3] * 6
    assert data.manifest.groupby("patient_key")["split"].nunique().tolist() == [1] * 6
    assert data.labels is not None
    assert data.labels["Pathology"].value_counts().to_dict() == {
        "Heart failure with infarct": 6, "Heart failure without infarct": 6, "Hypertrophy": 3, "Normal": 3,
    }  # fmt: skip

"""The truth table of NIfTI: every odd file is read right, refused with its code, or comes with a word of doubt. None in silence."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from medcl.ingest import IngestConfig, read_scans
from tests.ingest.nifti_cases import CASES, PIXDIM, Case, single, voxels

_HARMLESS = {"modality_unknown", "looks_like_labels"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case_ends_as_it_must(case: Case, tmp_path: Path) -> None:
    case.write(tmp_path)
    reading = read_scans(tmp_path, IngestConfig(units="arbitrary"))
    assert {one.reason for one in reading.ledger} == {case.code or "ok"}
    if case.code:
        assert not reading.volumes
        return
    said = {flag for flags in reading.flags for flag in flags} - _HARMLESS
    assert said == ({case.flag} if case.flag else set())
    if case.array is None:
        return
    squeezed = case.array.reshape(*case.array.shape[:3], -1)
    assert len(reading.volumes) == squeezed.shape[3]
    for time_index, volume in enumerate(reading.volumes):
        np.testing.assert_allclose(volume.array, squeezed[..., time_index], rtol=1e-6)
        np.testing.assert_allclose(volume.affine, case.affine, atol=1e-5)


def test_the_table_is_as_long_as_promised() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 80
    assert {"qform is the mirror of sform", "slope is not a number", "gzip checksum"} <= set(names)


def test_every_axis_order_and_direction_by_sform_and_by_qform(tmp_path: Path) -> None:
    """All 48 ways in which three axes lie along three directions; a qform says the same where NIfTI can."""
    from nibabel.quaternions import mat2quat

    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        turn = np.eye(3)[:, list(order)] * signs
        affine = np.eye(4)
        affine[:3] = np.c_[turn * PIXDIM, (11.0, -22.0, 33.0)]
        qfac = np.sign(np.linalg.det(turn))
        quaternion = mat2quat(turn * (1, 1, qfac))
        quaternion = quaternion if quaternion[0] >= 0 else -quaternion
        qform = {
            "qform_code": 1,
            "quatern": tuple(quaternion[1:]),
            "qoffset": tuple(affine[:3, 3]),
            "pixdim": (qfac, *PIXDIM, 1.0, 1.0, 1.0, 1.0),
        }
        name = "".join(f"{axis}{'+' if sign > 0 else '-'}" for axis, sign in zip(order, signs, strict=True))
        (tmp_path / f"{name}_sform.nii").write_bytes(single(srow=tuple(affine[:3].ravel())))
        (tmp_path / f"{name}_qform.nii").write_bytes(single(sform_code=0, **qform))  # type: ignore[arg-type]
        (tmp_path / f"{name}_twice.nii").write_bytes(single(srow=tuple(affine[:3].ravel()), **qform))  # type: ignore[arg-type]
        for path in tmp_path.glob(f"{name}_*.nii"):
            (volume,) = read_scans(path).volumes
            np.testing.assert_array_equal(volume.array, voxels())
            np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
            path.unlink()


@pytest.mark.parametrize("name", ["qform 4 mm beside sform", "neither qform nor sform", "qform is the mirror of sform"])
def test_a_setting_decides_what_the_file_leaves_open(name: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    reading = read_scans(case.write(tmp_path), IngestConfig(nifti_orientation="sform"))
    assert len(reading.volumes) == 1
    assert {"qform_differs", "orientation_guessed"} & set(reading.flags[0])


def test_voxels_that_are_no_numbers_become_zero_where_asked(tmp_path: Path) -> None:
    for case in CASES:
        if case.code == "not_finite":
            reading = read_scans(case.write(tmp_path / "in"), IngestConfig(not_finite="zero"))
            assert "not_finite_zeroed" in reading.flags[0]
            assert np.isfinite(reading.volumes[0].array).all()


def test_what_is_not_the_shape_of_a_scan(tmp_path: Path) -> None:
    for shape in ((7,), (7, 8), (7, 8, 9, 2, 2)):
        (tmp_path / "a.nii").write_bytes(single(voxels(shape)))
        (one,) = read_scans(tmp_path / "a.nii").ledger
        assert one.reason == "dimensions"

"""NIfTI: orientation stated, values scaled once, damage noticed, masks put where they belong."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header, Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Image

from medcl.ingest import IngestConfig, Reading, ingest, open_data, read_scans

AFFINE = np.array([[-1.5, 0, 0, 10], [0, 2.0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1.0]])


def voxels(shape: tuple[int, ...] = (9, 10, 11), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 900, shape).astype(np.int16)


def write(path: Path, array: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Nifti1Image(voxels() if array is None else array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)  # type: ignore[attr-defined]
    return path


def only_reason(reading: Reading) -> str:
    assert not reading.volumes
    (one,) = reading.ledger
    return one.reason


def test_array_stays_in_the_file_s_own_axes(tmp_path: Path) -> None:
    volume = read_scans(write(tmp_path / "a.nii.gz")).volumes[0]
    np.testing.assert_array_equal(volume.array, voxels())
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert volume.array.dtype == np.int16


def test_units_come_from_the_setting_and_the_values(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz")
    reading = read_scans(tmp_path, IngestConfig(modality="ct"))
    assert (reading.volumes[0].units, reading.flags[0]) == ("HU", ())
    write(tmp_path / "a.nii.gz", np.abs(voxels()))
    reading = read_scans(tmp_path, IngestConfig(modality="ct"))
    assert (reading.volumes[0].units, reading.flags[0]) == ("arbitrary", ("hu_doubtful",))
    reading = read_scans(tmp_path, IngestConfig(modality="ct", units="HU"))
    assert reading.volumes[0].units == "HU"
    assert read_scans(tmp_path).flags[0] == ("modality_unknown",)


def test_slope_and_intercept_are_applied_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([2.5, -7], "<f4").tobytes()
    path.write_bytes(content)
    volume = read_scans(path).volumes[0]
    np.testing.assert_allclose(volume.array, voxels() * 2.5 - 7)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001)])
def test_lengths_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    affine = AFFINE.copy()
    affine[:3] /= factor
    path = tmp_path / "a.nii.gz"
    image = Nifti1Image(voxels(), affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)  # type: ignore[attr-defined]
    np.testing.assert_allclose(read_scans(path).volumes[0].affine, AFFINE, rtol=1e-5)


def test_time_points(tmp_path: Path) -> None:
    array = voxels((6, 7, 8, 3))
    volumes = read_scans(write(tmp_path / "a.nii.gz", array)).volumes
    assert len(volumes) == 3
    for time, volume in enumerate(volumes):
        np.testing.assert_array_equal(volume.array, array[..., time])


def test_big_endian_pair_and_nifti2(tmp_path: Path) -> None:
    image = Nifti1Image(voxels(), AFFINE, Nifti1Header(endianness=">"))
    (tmp_path / "big").mkdir()
    nib.save(image, tmp_path / "big" / "a.nii")  # type: ignore[attr-defined]
    (tmp_path / "pair").mkdir()
    nib.save(Nifti1Pair(voxels(), AFFINE), tmp_path / "pair" / "a.hdr")  # type: ignore[attr-defined]
    (tmp_path / "two").mkdir()
    nib.save(Nifti2Image(voxels(), AFFINE), tmp_path / "two" / "a.nii.gz")  # type: ignore[attr-defined]
    for folder in ("big", "pair", "two"):
        reading = read_scans(tmp_path / folder)
        np.testing.assert_array_equal(reading.volumes[0].array, voxels())
        assert {one.reason for one in reading.ledger} == {"ok"}


def test_wrong_suffix_is_read_by_content(tmp_path: Path) -> None:
    write(tmp_path / "a.nii")
    (tmp_path / "a.nii").rename(tmp_path / "plain.nii.gz")
    write(tmp_path / "b.nii.gz")
    (tmp_path / "b.nii.gz").rename(tmp_path / "zipped.nii")
    assert len(read_scans(tmp_path).volumes) == 2


def test_orientation_conflict(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    image = Nifti1Image(voxels(), AFFINE)
    image.set_sform(AFFINE, code=1)
    other = AFFINE.copy()
    other[0, 3] += 4
    image.set_qform(other, code=1)
    nib.save(image, path)  # type: ignore[attr-defined]
    assert only_reason(read_scans(path)) == "orientation_conflict"
    reading = read_scans(path, IngestConfig(nifti_orientation="qform"))
    np.testing.assert_allclose(reading.volumes[0].affine, other, atol=1e-5)
    assert "qform_differs" in reading.flags[0]
    np.testing.assert_allclose(read_scans(path, IngestConfig(nifti_orientation="sform")).volumes[0].affine, AFFINE, atol=1e-5)


def test_orientation_unknown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[252:256] = bytes(4)
    path.write_bytes(content)
    assert only_reason(read_scans(path)) == "orientation_unknown"
    assert "orientation_guessed" in read_scans(path, IngestConfig(nifti_orientation="sform")).flags[0]


@pytest.mark.parametrize("change", ["nan", "zero column", "huge"])
def test_bad_affines(tmp_path: Path, change: str) -> None:
    affine = AFFINE.copy()
    if change == "nan":
        affine[0, 0] = np.nan
    elif change == "zero column":
        affine[:3, 1] = affine[:3, 0]
    else:
        affine[:3, :3] *= 1000
    path = write(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[280:328] = affine[:3].astype("<f4").tobytes()
    content[252:254] = b"\0\0"
    path.write_bytes(content)
    assert only_reason(read_scans(path)) in {"nan": ("bad_affine",), "zero column": ("bad_affine",), "huge": ("absurd_spacing",)}[change]


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated(tmp_path: Path, zipped: bool) -> None:
    path = write(tmp_path / ("a.nii.gz" if zipped else "a.nii"))
    path.write_bytes(path.read_bytes()[:-300])
    assert only_reason(read_scans(path)) == "truncated"


def test_corrupt_gzip_is_noticed_even_where_the_image_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    assert only_reason(read_scans(path)) == "corrupt_gzip"


def test_gzip_bomb_stops_early(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(30 * 2**20)))
    assert only_reason(read_scans(path, IngestConfig(budget_gib=0.01))) == "too_large"


def test_absurd_dimensions_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[40:48] = np.array([3, 30000, 30000, 30000], "<i2").tobytes()
    path.write_bytes(content)
    assert only_reason(read_scans(path)) == "too_large"


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (voxels().astype(np.complex64), "complex_values"),
        (np.zeros((9, 10, 11), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour"),
        (np.where(voxels() > 0, np.nan, 1.0).astype(np.float32), "not_finite"),
        (np.zeros((9, 10, 11), np.int16), "blank"),
        (voxels((9, 10, 1)), "dimensions"),
        (voxels((9, 10, 11, 2, 2)), "dimensions"),
    ],
    ids=["complex", "rgb", "nan", "blank", "flat", "5d"],
)
def test_refused_contents(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    assert only_reason(read_scans(write(tmp_path / "a.nii.gz", array))) == reason


def test_not_finite_can_be_zeroed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", np.where(voxels() > 800, np.inf, voxels()).astype(np.float32))
    reading = read_scans(path, IngestConfig(not_finite="zero"))
    assert np.isfinite(reading.volumes[0].array).all()
    assert "not_finite_zeroed" in reading.flags[0]


def test_what_is_not_nifti(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"x" * 1000)
    (tmp_path / "b.hdr").write_bytes(b"x" * 1000)
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(b"x" * 1000))
    assert sorted(one.reason for one in read_scans(tmp_path).ledger) == ["missing_pair", "unreadable", "unreadable"]


def mask_of(shape: tuple[int, ...] = (9, 10, 11)) -> np.ndarray:
    mask = np.zeros(shape, np.float32)
    mask[2:5, 3:6, 4:7] = 2
    return mask


def masks(folder: Path) -> dict[str, str]:
    return {Path(one.path).name: one.reason for one in read_scans(folder).ledger}


def test_masks_find_their_image(tmp_path: Path) -> None:
    write(tmp_path / "imagesTr" / "case_1.nii.gz", voxels(seed=1))
    write(tmp_path / "imagesTr" / "case_2.nii.gz", voxels(seed=2))
    write(tmp_path / "labelsTr" / "case_2.nii.gz", mask_of() + 1e-5)
    write(tmp_path / "other" / "scan.nii.gz", voxels(seed=3))
    turned = AFFINE @ np.array([[-1, 0, 0, 8], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    write(tmp_path / "other" / "scan_mask.nii.gz", mask_of()[::-1], turned)
    ingest(tmp_path, tmp_path / "out", settings=IngestConfig(modality="mr"), jobs=0)
    data = open_data(tmp_path / "out")
    assert data.labels is not None
    assert len(data.labels) == 2
    for row in data.labels.itertuples():
        mask = data.mask(str(row.mask_id))
        assert sorted(np.unique(mask.array)) == [0, 2]
        assert mask.array.dtype == np.uint8
        assert data.volume(str(row.volume_id)).array.shape == mask.array.shape


def test_masks_that_fit_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a" / "label_of_nothing.nii.gz", mask_of())
    write(tmp_path / "b" / "scan.nii.gz")
    write(tmp_path / "b" / "scan_seg.nii.gz", mask_of((9, 10, 12)))
    write(tmp_path / "c" / "scan.nii.gz", voxels(seed=4))
    write(tmp_path / "c" / "scan_mask.nii.gz", mask_of() + 0.4)
    write(tmp_path / "d" / "scan.nii.gz", voxels(seed=5))
    write(tmp_path / "d" / "scan_seg.nii.gz", mask_of())
    write(tmp_path / "d" / "scan_mask.nii.gz", mask_of())
    found = {str(Path(one.path).relative_to(tmp_path)): one.reason for one in read_scans(tmp_path).ledger}
    assert found.pop("a/label_of_nothing.nii.gz") == "mask_without_image"
    assert found.pop("b/scan_seg.nii.gz") == "mask_grid"
    assert found.pop("c/scan_mask.nii.gz") == "mask_values"
    assert sorted((found.pop("d/scan_seg.nii.gz"), found.pop("d/scan_mask.nii.gz"))) == ["mask", "second_mask"]
    assert set(found.values()) == {"ok"}


def test_bids_names(tmp_path: Path) -> None:
    for seed, (subject, session) in enumerate((("01", "a"), ("01", "b"), ("02", "a"))):
        name = f"sub-{subject}/ses-{session}/anat/sub-{subject}_ses-{session}_T1w.nii.gz"
        write(tmp_path / "in" / name, voxels(seed=seed))
    (tmp_path / "in" / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t95\tF\nsub-02\t40\tM\n")
    ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    manifest = open_data(tmp_path / "out").manifest
    assert manifest["modality"].unique().tolist() == ["mr"]
    assert (manifest["patient_key"].nunique(), manifest["study_key"].nunique()) == (2, 3)
    assert sorted(manifest["age_years"]) == [40, 89, 89]
    assert sorted(manifest["sex"]) == ["F", "F", "M"]


def test_real_misc_files(real_data: Path) -> None:
    reading = read_scans(real_data / "nifti_misc")
    assert len(reading.volumes) == 8
    assert {Path(one.path).name: one.reason for one in reading.ledger if one.reason != "ok"} == {
        "manifest.csv": "not_an_image", "totalseg_example_seg.nii.gz": "mask", "totalseg_example_seg_mr.nii.gz": "mask",
    }  # fmt: skip
    place = {Path(one.path).name: one.volume_id for one in reading.ledger}
    assert place["totalseg_example_seg.nii.gz"] == place["totalseg_example_ct_sm.nii.gz"]
    assert place["totalseg_example_seg_mr.nii.gz"] == place["totalseg_example_mr_sm.nii.gz"]
    motor = reading.volumes[int(place["spmMotor.nii.gz"])]
    assert motor.array.min() == pytest.approx(-6.862357, abs=1e-5)
    assert motor.array.max() == pytest.approx(12.156505, abs=1e-5)


def test_real_hippocampus_with_traps(real_data: Path, tmp_path: Path) -> None:
    summary = ingest(real_data / "hippocampus", tmp_path, settings=IngestConfig(modality="mr"), jobs=0)
    assert (summary.files, summary.volumes, summary.masks, summary.patients) == (404, 201, 200, 201)
    assert summary.reasons == {"mask_without_image": 2, "not_an_image": 1}
    data = open_data(tmp_path)
    assert data.labels is not None
    assert sorted(np.unique(data.mask(data.labels["mask_id"][0]).array)) == [0, 1, 2]

"""NIfTI beside its names: units, BIDS, masks put where they belong. What single files mean is in test_nifti_truth.py."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header, Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Image

from medcl.ingest import IngestConfig, Reading, ingest, open_data, read_scans
from medcl.ingest.nifti import read_mask

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


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        ("case_11.nii.gz case_21.nii.gz", "case_10_seg.nii.gz case_11_seg.nii.gz", ["", "case_11.nii.gz"]),
        ("case_1.nii.gz", "case_2_seg.nii.gz", [""]),
        ("bob.nii.gz", "alice_seg.nii.gz bob_seg.nii.gz", ["", "bob.nii.gz"]),
        ("imagesTr/bob.nii.gz imagesTr/eve.hdr", "labelsTr/alice.nii.gz", [""]),
        ("imagesTr/img0003.nii.gz imagesTr/eve.hdr", "labelsTr/label0003.nii.gz", ["imagesTr/img0003.nii.gz"]),
        ("ct.nii.gz", "tumour_mask.nii.gz", ["ct.nii.gz"]),
        ("p1_ct.nii.gz p1_pet.nii.gz", "p1_ct_liver_seg.nii.gz", ["p1_ct.nii.gz"]),
        (
            "one/sub-1/anat/sub-1_T1w.nii.gz two/sub-1/anat/sub-1_T1w.nii.gz",
            "one/derivatives/sub-1/sub-1_T1w_mask.nii.gz two/derivatives/sub-1/sub-1_T1w_mask.nii.gz",
            ["one/sub-1/anat/sub-1_T1w.nii.gz", "two/sub-1/anat/sub-1_T1w.nii.gz"],
        ),
    ],
)
def test_a_mask_of_another_patient_is_not_attached_because_it_is_on_the_grid(
    images: str, labels: str, expected: list[str], tmp_path: Path
) -> None:
    for seed, name in enumerate(images.split()):
        write(tmp_path / name, voxels(seed=seed))
    for seed, name in enumerate(labels.split()):
        write(tmp_path / name, mask_of() + seed)
    found = {str(Path(one.path).relative_to(tmp_path)): one for one in read_scans(tmp_path).ledger}
    image_of = {found[name].volume_id: name for name in images.split()}
    assert [image_of.get(found[name].volume_id, "") if found[name].reason == "mask" else "" for name in labels.split()] == expected


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


def test_two_bids_data_sets_keep_their_own_participants(tmp_path: Path) -> None:
    for seed, (name, age) in enumerate((("one", 20), ("two", 70))):
        write(tmp_path / "in" / name / "sub-01" / "anat" / "sub-01_T1w.nii.gz", voxels(seed=seed))
        (tmp_path / "in" / name / "participants.tsv").write_text(f"participant_id\tage\nsub-01\t{age}\n")
    ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    assert sorted(open_data(tmp_path / "out").manifest["age_years"]) == [20, 70]


def test_bids_folders_and_entities(tmp_path: Path) -> None:
    names = (
        "sub-01/ses-a/anat/sub-01_ses-a_run-1_echo-1_part-mag_MEGRE.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_run-1_echo-2_part-mag_MEGRE.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_run-1_echo-1_part-phase_MEGRE.nii.gz",
        "sub-01/ses-a/fmap/sub-01_ses-a_phasediff.nii.gz",
        "derivatives/sub-01/brain.nii.gz",
        "sub-studies/one.nii.gz",
        "sub-studies/two.nii.gz",
    )
    for seed, name in enumerate(names):
        write(tmp_path / "in" / name, voxels(seed=seed))
    write(tmp_path / "in" / "sub-01/ses-a/anat/sub-01_ses-a_label-GM_probseg.nii.gz", np.linspace(0, 1, 990).reshape(9, 10, 11))
    ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    data = open_data(tmp_path / "out")
    assert (data.manifest["patient_key"].nunique(), data.manifest["study_key"].nunique()) == (3, 4)
    assert data.ledger["reason"].value_counts().to_dict() == {"ok": 5, "derived": 2, "mask_values": 1}
    kept = read_scans(tmp_path / "in", IngestConfig(keep_derived=True))
    assert sum(volume.modality == "mr" for volume in kept.volumes) == 4


@pytest.mark.parametrize(
    ("array", "affine", "expected"),
    [
        (mask_of() * 0.999999, AFFINE, "mask"),
        (mask_of() + 0.01, AFFINE, "mask_values"),
        (mask_of() - 1, AFFINE, "mask_values"),
        (mask_of(), AFFINE + np.array([[0, 0, 0, 0.75], *[[0] * 4] * 3]), "mask_grid"),
        (mask_of(), AFFINE * np.array([[-1], [1], [1], [1]]), "mask_grid"),
        (mask_of((9, 10, 11, 2)), AFFINE, "dimensions"),
    ],
    ids=["rounded", "fractions", "negative", "half a voxel off", "mirrored", "two at once"],
)
def test_a_mask_is_whole_numbers_on_its_image_s_grid(array: np.ndarray, affine: np.ndarray, expected: str, tmp_path: Path) -> None:
    write(tmp_path / "scan.nii.gz")
    path = write(tmp_path / "scan_mask.nii.gz", array.astype(np.float32), affine)
    assert masks(tmp_path)[path.name] == expected
    if expected == "mask":
        assert sorted(np.unique(read_mask(str(path), IngestConfig()).array)) == [0, 2]


def test_the_two_halves_of_a_pair_share_their_fate(tmp_path: Path) -> None:
    nib.save(Nifti1Pair(voxels(), AFFINE), tmp_path / "scan.hdr")  # type: ignore[attr-defined]
    nib.save(Nifti1Pair(mask_of(), AFFINE), tmp_path / "scan_mask.hdr")  # type: ignore[attr-defined]
    nib.save(Nifti1Pair(np.zeros((9, 10, 11), np.uint8), AFFINE), tmp_path / "flat.HDR")  # type: ignore[attr-defined]
    assert masks(tmp_path) == {
        "scan.hdr": "ok", "scan.img": "ok", "scan_mask.hdr": "mask", "scan_mask.img": "mask", "flat.HDR": "blank", "flat.IMG": "blank",
    }  # fmt: skip


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

"""Series to volumes: right voxels at right places, or a refusal with its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from medcl.foundation import geometry
from medcl.ingest import IngestConfig, Reading, open_data, read_scans
from medcl.ingest.run import ingest
from tests.ingest.scanner import base, change_to, phantom, put_pixels, save, series

SPACING = (0.8, 0.9, 2.5)


def expected(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels in HU and affine of `scanner.series` with its defaults, in RAS, by another way than the reader's."""
    values = pixels.astype(np.float64).transpose(2, 1, 0)[::-1, ::-1] - 1024
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (10 - SPACING[0] * (pixels.shape[2] - 1), 20 - SPACING[1] * (pixels.shape[1] - 1), 30)
    return values, affine


def in_ras(reading: Reading, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    volume = reading.volumes[index]
    return geometry.reorient(volume.array, volume.affine, "RAS")


def check_default(reading: Reading, pixels: np.ndarray) -> None:
    assert len(reading.volumes) == 1
    array, affine = in_ras(reading)
    values, true_affine = expected(pixels)
    np.testing.assert_array_equal(array, values)
    np.testing.assert_allclose(affine, true_affine, atol=1e-5)


def reasons(reading: Reading) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in reading.ledger:
        counts[one.reason] = counts.get(one.reason, 0) + 1
    return counts


def test_plain_series(tmp_path: Path) -> None:
    reading = read_scans(series(tmp_path))
    check_default(reading, phantom())
    assert reading.volumes[0].units == "HU"
    assert reading.volumes[0].modality == "ct"
    assert reasons(reading) == {"ok": 8}


@pytest.mark.parametrize("seed", [1, 2])
def test_names_and_instance_numbers_do_not_matter(tmp_path: Path, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(8)

    def swap(dataset: Dataset, index: int) -> None:
        dataset.InstanceNumber = int(order[index]) + 1

    reading = read_scans(series(tmp_path, names=lambda index: f"{order[index]:03d}", change=swap))
    check_default(reading, phantom())


def test_reversed_order_on_disk(tmp_path: Path) -> None:
    reading = read_scans(series(tmp_path, names=lambda index: f"{99 - index}.dcm"))
    check_default(reading, phantom())


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"]
)
def test_transfer_syntaxes(tmp_path: Path, syntax: str) -> None:
    def compress(dataset: Dataset, _: int) -> None:
        if syntax.endswith(".5"):
            dataset.compress(syntax)

    written = "1.2.840.10008.1.2.1" if syntax.endswith(".5") else syntax
    check_default(read_scans(series(tmp_path, syntax=written, change=compress)), phantom())


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_without_preamble(tmp_path: Path, syntax: str) -> None:
    check_default(read_scans(series(tmp_path, syntax=syntax, preamble=False)), phantom())


def test_oblique_series(tmp_path: Path) -> None:
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    orientation = (*turn[:, 0], *turn[:, 1])
    volume = read_scans(series(tmp_path, orientation=orientation)).volumes[0]
    x, y, z = 5, 7, 3
    lps = np.array([-10.0, -20, 30]) + x * 0.8 * turn[:, 0] + y * 0.9 * turn[:, 1] + z * 2.5 * np.cross(turn[:, 0], turn[:, 1])
    found = volume.affine @ [x, y, z, 1]
    np.testing.assert_allclose(found[:3], lps * (-1, -1, 1), atol=1e-4)
    assert volume.array[x, y, z] == phantom()[z, y, x] - 1024


@pytest.mark.parametrize("missing", [[3], [3, 4]])
def test_missing_slices(tmp_path: Path, missing: list[int]) -> None:
    series(tmp_path)
    for index in missing:
        (tmp_path / f"IM{index:04d}.dcm").unlink()
    assert reasons(read_scans(tmp_path)) == {"missing_slices": 8 - len(missing)}


def test_spacing_within_tolerance(tmp_path: Path) -> None:
    places = [(-10.0, -20.0, 30 + 2.5 * k + 0.004 * (k % 2)) for k in range(8)]
    assert reasons(read_scans(series(tmp_path, positions=places))) == {"ok": 8}


def test_copies_are_dropped_and_listed(tmp_path: Path) -> None:
    series(tmp_path / "a")
    series(tmp_path / "b", names=lambda index: f"copy{index}")
    reading = read_scans(tmp_path)
    check_default(reading, phantom())
    assert reasons(reading) == {"ok": 8, "duplicate_slice": 8}


def test_one_instance_with_two_contents_is_a_conflict(tmp_path: Path) -> None:
    series(tmp_path / "a")
    series(tmp_path / "b", phantom(seed=1))
    assert reasons(read_scans(tmp_path)) == {"conflicting_copies": 16}


@pytest.mark.parametrize("jobs", [0, 2])
def test_one_instance_with_two_pictures_is_a_conflict(tmp_path: Path, jobs: int) -> None:
    for seed in range(3):
        picture = base("DX", "P1" if seed < 2 else "P2", "2.25.5", "2.25.5.1")
        put_pixels(picture, phantom(seed=seed)[0])
        save(picture, tmp_path / "in" / f"{seed}.dcm")
    summary = ingest(tmp_path / "in", tmp_path / "out", jobs=jobs)
    assert (summary.pictures, summary.reasons) == (1, {"conflicting_copies": 2})
    data = open_data(tmp_path / "out")
    assert data.manifest["volume_id"].is_unique
    np.testing.assert_array_equal(data.volume(data.manifest["volume_id"][0]).array[..., 0].T, phantom(seed=2)[0])


@pytest.mark.parametrize("field", ["TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime", "InstanceNumber"])
def test_time_points(tmp_path: Path, field: str) -> None:
    for time in range(3):

        def change(dataset: Dataset, index: int, time: int = time) -> None:
            dataset.InstanceNumber = 1
            setattr(dataset, field, (time + 1) * 10)
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"2.25.7.{time}.{index}"

        series(tmp_path, phantom(seed=time), modality="MR", change=change, names=lambda index, time=time: f"{2 - time}_{index}")
    reading = read_scans(tmp_path)
    assert [flags for flags in reading.flags] == [("split_by_time",)] * 3
    for time in range(3):
        np.testing.assert_array_equal(reading.volumes[time].array, phantom(seed=time).transpose(2, 1, 0))


def test_two_acquisitions_one_after_the_other(tmp_path: Path) -> None:
    places = [(-10.0, -20.0, 30 + 2.5 * k + (40 if k > 3 else 0)) for k in range(8)]

    def change(dataset: Dataset, index: int) -> None:
        dataset.AcquisitionNumber = 1 + (index > 3)

    reading = read_scans(series(tmp_path, positions=places, change=change))
    assert [volume.array.shape[2] for volume in reading.volumes] == [4, 4]
    assert reading.flags[0] == ("split_by_acquisition",)


@pytest.mark.parametrize(
    "split",
    [
        {"EchoTime": [10, 20]}, {"ImageType": [["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]]},
        {"DiffusionBValue": [0.0, 800.0]},
        {"PixelSpacing": [[0.9, 0.8], [0.5, 0.5]]}, {"FrameOfReferenceUID": ["1.2.3", "1.2.4"]},
        {"PatientID": ["MRN0001", "MRN0002"]}, {"SeriesInstanceUID": ["1.2.5", "1.2.6"]},
    ],
    ids=lambda split: next(iter(split)),
)  # fmt: skip
def test_what_makes_two_volumes_of_one_folder(tmp_path: Path, split: dict[str, list[object]]) -> None:
    ((field, values),) = split.items()
    for which in range(2):

        def change(dataset: Dataset, index: int, which: int = which) -> None:
            setattr(dataset, field, values[which])
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"2.25.8.{which}.{index}"

        series(tmp_path, phantom(seed=which), modality="MR", change=change, names=lambda index, which=which: f"{index}_{which}")
    reading = read_scans(tmp_path)
    assert len(reading.volumes) == 2
    stored = sorted(int(volume.array.astype(np.int64).sum()) for volume in reading.volumes)
    assert stored == sorted(int(phantom(seed=which).astype(np.int64).sum()) for which in range(2))


TILT = np.deg2rad(15)


def tilted(folder: Path, pixels: np.ndarray) -> Path:
    """Slices turned by 15 degrees about x whose table moved along z: a shear."""
    orientation = (1, 0, 0, 0, float(np.cos(TILT)), float(np.sin(TILT)))
    places = [(-10.0, -20.0, 30.0 + 2.5 * index) for index in range(len(pixels))]
    return series(folder, pixels, orientation=orientation, positions=places)


def test_tilt_can_be_kept_as_an_exact_shear(tmp_path: Path) -> None:
    reading = read_scans(tilted(tmp_path, phantom()), IngestConfig(tilt="keep"))
    np.testing.assert_array_equal(reading.volumes[0].array, phantom().transpose(2, 1, 0) - 1024)
    place = reading.volumes[0].affine @ [0, 10, 4, 1]
    np.testing.assert_allclose(place[:3], [10, 20 - 9 * np.cos(TILT), 40 + 9 * np.sin(TILT)], atol=1e-4)
    assert reading.flags[0] == ("sheared",)


def test_tilt_can_be_refused(tmp_path: Path) -> None:
    assert reasons(read_scans(tilted(tmp_path, phantom()), IngestConfig(tilt="refuse"))) == {"gantry_tilt": 8}


def test_tilt_is_resampled_where_the_world_says(tmp_path: Path) -> None:
    """A smooth function of world place, sampled on the tilted grid, comes out as that function of the corrected grid's places."""

    def field(lps: np.ndarray) -> np.ndarray:
        return 1500 + 400 * np.sin(lps[..., 0] / 9) + 300 * np.cos(lps[..., 1] / 7) + 200 * np.sin(lps[..., 2] / 11)

    z, y, x = np.mgrid[0:10, 0:40, 0:24]
    row, column = np.array([1, 0, 0]), np.array([0, np.cos(TILT), np.sin(TILT)])
    places = np.array([-10.0, -20, 30]) + x[..., None] * 0.8 * row + y[..., None] * 0.9 * column + z[..., None] * 2.5 * np.array([0, 0, 1])
    volume = read_scans(tilted(tmp_path, np.rint(field(places)).astype(np.int16))).volumes[0]
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-6)
    index = np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), -1)
    world = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    truth = field(world * (-1, -1, 1)) - 1024
    covered = volume.array > volume.array.min()
    inner = covered & np.roll(covered, 2, 1) & np.roll(covered, -2, 1)
    assert inner.mean() > 0.6
    assert np.abs(volume.array - truth)[inner].max() < 4


@pytest.mark.parametrize(
    ("reason", "values"),
    [
        ("localizer", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("derived", {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
        ("derived", {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}),
        ("secondary_capture", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
        ("structured_report", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}),
        ("segmentation_object", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}),
        ("radiotherapy_object", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}),
        ("presentation_state", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}),
        ("key_objects", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.59"}),
        ("burned_in_annotation", {"BurnedInAnnotation": "YES"}),
        ("unsupported_modality", {"Modality": "OT"}),
        ("rescale_slope_zero", {"RescaleSlope": 0}),
        ("no_geometry", {"ImagePositionPatient": None}),
        ("no_geometry", {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}),
        ("no_geometry", {"PixelSpacing": None}),
        ("bad_header", {"Rows": 60000}),
        ("bad_header", {"BitsAllocated": 12}),
        ("bad_header", {"SamplesPerPixel": 2}),
        ("truncated", {"Rows": 40}),
        ("pixel_length", {"Rows": 10}),
        ("colour", {"PhotometricInterpretation": "PALETTE COLOR"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_refusals(tmp_path: Path, reason: str, values: dict[str, object]) -> None:
    reading = read_scans(series(tmp_path, phantom(3), change=change_to(**values)))
    assert reasons(reading) == {reason: 3}


def test_derived_and_localizers_can_be_asked_for(tmp_path: Path) -> None:
    series(tmp_path, change=change_to(ImageType=["DERIVED", "SECONDARY", "LOCALIZER"]))
    check_default(read_scans(tmp_path, IngestConfig(keep_derived=True, keep_localizers=True)), phantom())


def test_lossy_copies_of_originals_are_used_and_flagged(tmp_path: Path) -> None:
    reading = read_scans(series(tmp_path, change=change_to(ImageType=["DERIVED", "PRIMARY", "AXIAL"], LossyImageCompression="01")))
    assert reading.flags == [("lossy_compression",)]


def test_single_slice_and_blank(tmp_path: Path) -> None:
    assert reasons(read_scans(series(tmp_path / "one", phantom(1)))) == {"single_slice": 1}
    assert reasons(read_scans(series(tmp_path / "flat", np.zeros((4, 20, 24), np.int16)))) == {"blank": 4}


def test_a_broken_slice_breaks_its_stack_by_name(tmp_path: Path) -> None:
    """The file at fault carries the reason, its companions point to it; a cut at the end of a stack is at least flagged."""
    series(tmp_path / "rle", change=lambda dataset, _: dataset.compress("1.2.840.10008.1.2.5"))
    path = tmp_path / "rle" / "IM0003.dcm"
    content = path.read_bytes()
    path.write_bytes(content[:-200] + b"\x7f" * 200)
    counts = reasons(read_scans(tmp_path / "rle"))
    assert counts == {"decode_failed": 1, "stack_broken": 7}
    series(tmp_path / "cut")
    path = tmp_path / "cut" / "IM0007.dcm"
    path.write_bytes(path.read_bytes()[:-100])
    reading = read_scans(tmp_path / "cut")
    assert reasons(reading) == {"truncated": 1, "ok": 7}
    assert reading.flags == [("series_lost_a_file",)]


def test_units_of_ct_without_rescale_are_not_hounsfield(tmp_path: Path) -> None:
    def change(dataset: Dataset, _: int) -> None:
        del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType

    reading = read_scans(series(tmp_path, change=change))
    assert reading.volumes[0].units == "arbitrary"
    assert reading.flags == [("no_hounsfield_rescale",)]

"""The made cohort: the same bytes every time, files a hospital could have sent, and no way to the labels but by what is in the pictures."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from made_cohort import make
from made_cohort.chest import make_chest
from made_cohort.findings import LABELS, SHARES, chest_findings, incidental_findings, label_table
from made_cohort.people import draw_person
from made_cohort.reports import states
from made_cohort.xray import make_xray
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

pytestmark = pytest.mark.xdist_group("cohort")  # one process makes what they share

PATIENTS = 8


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("made") / "cohort"
    return out, make(out, PATIENTS, seed=3, jobs=1)


@pytest.fixture(scope="module")
def chests() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(patients, z, y, x) HU of one scan each, middle slices, with their labels."""
    count = 120
    table = label_table(11, "ct", count)
    volumes = [
        make_chest(11, k, 0, chest_findings(11, "ct", k, {name: bool(flags[k]) for name, flags in table.items()})).hu for k in range(count)
    ]
    return np.stack([hu[(len(hu) - 33) // 2 :][:33] for hu in volumes]), table


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    count = 160
    table = label_table(11, "xray", count)
    drawn = []
    for k in range(count):
        findings = chest_findings(11, "xray", k, {name: bool(flags[k]) for name, flags in table.items()}) + incidental_findings(11, k)
        drawn.append(make_xray(11, k, 0, findings, side_px=88)[0])
    return np.stack(drawn), table


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _series(cohort: Path) -> list[list[pydicom.Dataset]]:
    """Every whole axial series, slices from feet to head."""
    found = []
    for folder in sorted((cohort / "ct").rglob("002_AXIAL")):
        slices = {}
        for path in folder.iterdir():
            if path.is_file() and path.stat().st_size > 8192 and not path.name.endswith((".nii.gz", ".part.dcm")) and path.name[0] == "I":
                item = pydicom.dcmread(path)
                slices[item.SOPInstanceUID] = item
        found.append(sorted(slices.values(), key=lambda item: float(item.ImagePositionPatient[2])))
    return found


def _auc(features: np.ndarray, labels: np.ndarray, strength: float = 0.1) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(roc_auc_score(labels, cross_val_predict(model, features, labels, cv=folds, method="decision_function")))


def _chance(labels: np.ndarray, sigmas: float = 3.0) -> float:
    """How far an AUC that knows nothing may lie above 0.5 (Mann-Whitney). One side counts: cross-validation of noise falls below 0.5."""
    ones, zeros = int(labels.sum()), int((~labels).sum())
    return sigmas * float(np.sqrt((ones + zeros + 1) / (12 * ones * zeros)))


def _statistics(images: np.ndarray, edges: np.ndarray) -> np.ndarray:
    rows = []
    for image in images:
        values = image.ravel().astype(np.float64)
        counts = np.histogram(values, edges)[0] / values.size
        rows.append([values.mean(), values.std(), *np.percentile(values, [1, 5, 25, 50, 75, 95, 99]), *counts])
    return np.array(rows)


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_jobs(cohort, tmp_path):
    again = tmp_path / "again"
    make(again, PATIENTS, seed=3, jobs=2)
    assert _files(again) == _files(cohort[0])


def test_another_seed_gives_other_people(tmp_path):
    assert draw_person(0, 1) != draw_person(1, 1)


def test_a_folder_in_use_is_refused(cohort):
    with pytest.raises(FileExistsError, match="not empty"):
        make(cohort[0], 1)


def test_counts_and_tables_agree(cohort):
    out, made = cohort
    counts = made["counts"]
    assert counts["ct"]["patients"] == counts["xray"]["patients"] == PATIENTS
    assert counts["mr"]["patients"] == PATIENTS // 4
    for part in ("ct", "xray", "mr"):
        labels = pd.read_csv(made[f"{part}_labels"])
        assert len(labels) == counts[part]["studies"]
        assert all((out / name).exists() for name in labels["file"])
    assert len(_series(out)) == counts["ct"]["studies"]
    assert len(pd.read_csv(made["xray_reports"])) == len(list((out / "xray").rglob("*.dcm"))) == counts["xray"]["studies"]
    for label in LABELS:
        assert label_table(0, "ct", 200)[label].sum() == round(200 * SHARES[label])


def test_headers_name_invented_people_and_pixels_give_hounsfield_units(cohort):
    out, _ = cohort
    canaries = (out / "canaries.txt").read_text().split("\n")
    for slices in _series(out):
        first = slices[0]
        assert str(first.PatientID) in canaries and str(first.PatientName).split("^")[0] in canaries and first.AccessionNumber in canaries
        assert first[0x0029, 0x1010].value.endswith(first.PatientID)
        gaps = np.diff([float(item.ImagePositionPatient[2]) for item in slices])
        assert np.ptp(gaps) < 2e-3 and abs(gaps[0] - float(first.SliceThickness)) < 2e-3
        assert len({item.SOPInstanceUID for item in slices}) == len(slices) == len({item.InstanceNumber for item in slices})
        middle = slices[len(slices) // 2]
        hu = middle.pixel_array * float(middle.RescaleSlope) + float(middle.RescaleIntercept)
        assert middle.pixel_array.dtype == np.int16
        assert np.median(hu[hu > -200]) == pytest.approx(40, abs=60) and np.percentile(hu[hu > -1200], 5) == pytest.approx(-1000, abs=40)


def test_masks_lie_on_their_series(cohort):
    """Voxel for voxel on the DICOM grid, and what they mark is dense."""
    out, _ = cohort
    marked = []
    for folder, slices in zip(sorted((out / "ct").rglob("002_AXIAL")), _series(out), strict=True):
        image = nib.Nifti1Image.from_filename(folder / "findings_mask.nii.gz")
        mask = np.asarray(image.dataobj)
        assert mask.shape == (slices[0].Columns, slices[0].Rows, len(slices))
        for corner in ((0, 0, 0), (5, 9, len(slices) - 1)):
            x, y, z = slices[corner[2]].ImagePositionPatient
            spacing = slices[0].PixelSpacing
            lps = np.array([x + corner[0] * spacing[1], y + corner[1] * spacing[0], z], dtype=float)
            assert np.asarray(image.affine) @ [*corner, 1] == pytest.approx([-lps[0], -lps[1], lps[2], 1], abs=2e-3)
        stack = np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices]).transpose(2, 1, 0)
        marked += [np.median(stack[mask == value]) for value in (1, 2, 3) if (mask == value).any()]
    assert len(marked) > PATIENTS and all(-450 < value < 120 for value in marked)


def test_masks_say_what_the_labels_say(cohort):
    out, made = cohort
    for row in pd.read_csv(made["ct_labels"]).to_dict("records"):
        values = set(np.unique(np.asarray(nib.Nifti1Image.from_filename(out / row["file"] / "findings_mask.nii.gz").dataobj)))
        assert [value in values for value in (1, 2, 3)] == [bool(row[label]) for label in LABELS]


@pytest.mark.parametrize("part", ["ct", "xray"])
def test_reports_state_what_is_there_and_only_that(cohort, part):
    _, made = cohort
    rows = pd.read_csv(made[f"{part}_labels"]).merge(pd.read_csv(made[f"{part}_reports"]), on=["study", "patient"])
    assert len(rows)
    for row in rows.to_dict("records"):
        text = row["report_text"]
        assert "finding" in text.lower() and "impression" in text.lower()
        assert {label: states(text, label) for label in LABELS} == {label: bool(row[label]) for label in LABELS}, text
        if int(row["effusion"]) == 1:
            assert row["effusion_side"] in text.lower()


def test_reports_differ(cohort):
    texts = pd.read_csv(cohort[1]["xray_reports"])["report_text"]
    assert texts.nunique() == len(texts)


def test_pictures_are_twelve_bits_and_inverted_where_they_say_so(cohort):
    kinds = set()
    for path in (cohort[0] / "xray").rglob("*.dcm"):
        item = pydicom.dcmread(path)
        values = item.pixel_array.astype(float)
        assert item.BitsStored == 12 and values.max() <= 4095 and item.Modality in ("CR", "DX")
        if item.PhotometricInterpretation == "MONOCHROME1":
            values = 4095 - values
        assert values[60:110, 85:92].mean() > values[60:110, :6].mean(), "the spine is brighter than the air"
        kinds.add(item.PhotometricInterpretation)
    assert kinds == {"MONOCHROME1", "MONOCHROME2"}


def test_brains_are_bids(cohort):
    out, made = cohort
    people = pd.read_csv(out / "mr" / "participants.tsv", sep="\t")
    assert len(people) == made["counts"]["mr"]["patients"]
    for path in (out / "mr").rglob("*.nii.gz"):
        subject, session, _ = path.name.split("_")
        assert path.parts[-4:-1] == (subject, session, "anat") and path.with_name(path.name.replace(".nii.gz", ".json")).exists()
        assert nib.aff2axcodes(nib.Nifti1Image.from_filename(path).affine) == ("R", "A", "S")


def test_order_says_nothing():
    for part in ("ct", "xray"):
        for label, flags in label_table(0, part, 400).items():
            order = np.arange(400)
            assert abs(roc_auc_score(flags, order) - 0.5) < _chance(flags), label
            assert abs(_auc(np.stack([order % 2, order % 3, order % 48, order], axis=1), flags) - 0.5) < _chance(flags, 3.5), label


def test_a_label_changes_neither_amounts_nor_noise():
    """All draws are made before the kind matters: with and without the label the patient is the same person at the same size."""
    present = dict.fromkeys(LABELS, False)
    without = chest_findings(0, "ct", 5, present)
    having = chest_findings(0, "ct", 5, dict.fromkeys(LABELS, True))
    for mine, theirs in zip(without, having, strict=True):
        assert (mine.side, mine.size_mm, mine.volume_ml, mine.count) == (theirs.side, theirs.size_mm, theirs.volume_ml, theirs.count)
    first, second = make_chest(0, 5, 0, without).hu, make_chest(0, 5, 0, having).hu
    outside = ndimage.binary_erosion(first < -900, iterations=3)
    assert (first[outside] == second[outside]).mean() > 0.95


@pytest.mark.parametrize("label", LABELS)
def test_intensity_statistics_of_volumes_say_nothing(chests, label):
    volumes, table = chests
    found = _auc(_statistics(volumes, np.arange(-1000, 700, 100)), table[label])
    assert found < 0.5 + _chance(table[label]), f"{label}: {found:.3f}"


@pytest.mark.parametrize("label", LABELS)
def test_intensity_statistics_of_pictures_say_nothing(pictures, label):
    images, table = pictures
    found = _auc(_statistics(images, np.linspace(0, 1, 17)), table[label])
    assert found < 0.5 + _chance(table[label]), f"{label}: {found:.3f}"


def test_pixels_with_pca_do_not_find_nodules_but_their_shape_does(chests):
    """The floor every backbone must leave below it, and the proof that there is something to find."""
    volumes, table = chests
    small = np.clip(volumes[:, ::2, ::2, ::2] / 700.0, -1, 1).reshape(len(volumes), -1)
    floor = _auc(PCA(50, random_state=0, svd_solver="randomized").fit_transform(small), table["nodules"])
    oracle = roc_auc_score(table["nodules"], [-_elongation(hu) for hu in volumes])
    assert floor < 0.5 + _chance(table["nodules"]) and oracle > 0.95, (floor, oracle)


@pytest.mark.parametrize("label", ["effusion", "cardiomegaly"])
def test_pixels_with_pca_fall_short_of_the_other_labels(chests, label):
    volumes, table = chests
    small = np.clip(volumes[:, ::2, ::2, ::2] / 700.0, -1, 1).reshape(len(volumes), -1)
    assert _auc(PCA(50, random_state=0, svd_solver="randomized").fit_transform(small), table[label]) < 0.8


@pytest.mark.parametrize(("label", "most"), [("nodules", 0.62), ("effusion", 0.85), ("cardiomegaly", 0.75)])
def test_pixels_with_pca_fall_short_on_pictures(pictures, label, most):
    """With 400 pictures they reach .48, .77 and .66."""
    images, table = pictures
    assert _auc(PCA(50, random_state=0, svd_solver="randomized").fit_transform(images.reshape(len(images), -1)), table[label]) < most


def _islands(inside: np.ndarray) -> np.ndarray:
    """Connected regions, numbered from 1."""
    labels = np.zeros(inside.shape, dtype=np.int32)
    ndimage.label(inside, output=labels)
    return labels


def _elongation(hu: np.ndarray) -> float:
    """A rule made by hand: dense islands in the lung, and how long they are for their volume (a ball has about 0.35)."""
    air = _islands(hu < -500)
    rim = np.concatenate([air[:, [0, -1]].ravel(), air[:, :, [0, -1]].ravel()])
    lungs = (air > 0) & ~np.isin(air, np.unique(rim))
    islands = _islands(ndimage.binary_closing(lungs, iterations=2) & (hu > -450) & ~lungs)
    found = []
    for k, box in enumerate(ndimage.find_objects(islands), 1):
        points = np.argwhere(islands[box] == k)
        if 10 <= len(points) <= 120:
            found.append(np.sqrt(np.linalg.eigvalsh(np.cov(points.T))[-1]) / len(points) ** (1 / 3))
    return float(np.median(found)) if found else 0.6

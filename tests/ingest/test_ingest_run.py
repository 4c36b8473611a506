"""The whole of ingest: every file in the ledger once, nothing identifying out, the same bytes every time."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medcl.foundation.errors import DataError, UserError
from medcl.foundation.files import read_card
from medcl.ingest import IngestConfig, convert, ingest, open_data, read_scans
from medcl.ingest import manifest as tables
from medcl.ingest.ledger import REASONS
from medcl.ingest.workers import Workers, give_memory
from tests.ingest.scanner import CANARY, change_to, phantom, series
from tests.ingest.test_nifti import mask_of, write

KEY = b"k" * 32
PATIENT = f"{CANARY}MRN0001"


def messy(folder: Path) -> Path:
    """A bit of everything, with canaries in names, headers and texts."""
    home = folder / f"{CANARY}_LAST"
    series(home / "ct", phantom(6), patient=PATIENT)
    series(home / "again", phantom(6), patient=PATIENT)
    series(
        home / "scout", phantom(1, seed=3), patient=PATIENT, uid="2.25.3", change=change_to(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    )
    series(home / "other", phantom(6, seed=5), patient=f"{CANARY}MRN0002", uid="2.25.5")
    write(home / "mr" / f"{CANARY}_scan.nii.gz")
    write(home / "mr" / f"{CANARY}_scan_mask.nii.gz", mask_of())
    (home / f"{CANARY}.txt").write_text("hello")
    (home / "empty.dcm").touch()
    (home / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + os.urandom(500))
    os.symlink(home / "mr" / f"{CANARY}_scan.nii.gz", home / "link.nii.gz")
    text = f"Findings: Dr. {CANARY}smith saw {CANARY}LAST, {PATIENT}. No effusion. Impression: normal."
    rows = [{"accession": "ACC0001", "report": text, "label": 1, f"{CANARY}name": CANARY, "kind": CANARY}]
    rows += [
        {"accession": f"ACC{number}", "report": "Findings: none at all.", "label": 0, f"{CANARY}name": CANARY, "kind": "b"}
        for number in (7, 8)
    ]
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder


def every_byte(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "private" not in path.relative_to(folder).parts
    }


def decoded(folder: Path) -> str:
    """All text of all artefacts: parquet is compressed, so its cells are read."""
    parts = [path.name for path in folder.rglob("*") if "private" not in path.parts]
    for path in folder.glob("*.parquet"):
        frame = pd.read_parquet(path)
        parts += [" ".join(map(str, frame.columns)), frame.to_csv()]
    return " ".join([*parts, (folder / "card.json").read_text()])


def test_everything_at_once(tmp_path: Path) -> None:
    source = messy(tmp_path / "in")
    summary = ingest(source, tmp_path / "out", reports=source / "table.csv", labels=source / "table.csv", jobs=0, key=KEY)
    met = sum(len(files) for _, _, files in os.walk(source))
    data = open_data(tmp_path / "out")
    assert summary.files == met == len(data.ledger) == summary.used + summary.skipped + summary.refused
    assert data.ledger["file_key"].is_unique
    assert summary.reasons == {"duplicate_slice": 6, "localizer": 1, "empty_file": 1, "not_an_image": 1, "same_file": 1, "unreadable": 1}
    assert (summary.volumes, summary.patients, summary.masks, summary.reports) == (3, 3, 1, 1)
    assert set(data.ledger["volume_id"]) <= {"", *data.manifest["volume_id"]}
    assert data.ledger.query("status == 'used' and reason == 'ok'")["volume_id"].ne("").all()
    card = read_card(tmp_path / "out", "data")
    assert card["counts"]["files"] == met
    assert (card["modalities"], card["labels"]) == ({"ct": 2, "unknown": 1}, ["kind", "label"])
    assert json.dumps(summary.counts)
    assert any(line.startswith("1 unknown: no recipe takes them") for line in summary.lines)
    files = tables.read_table(tmp_path / "out" / tables.FILES)
    assert [str(tmp_path / "out" / tables.FILES) in line for line in summary.lines if "not used" in line] == [True]
    refused = data.ledger.query("reason == 'unreadable'").merge(files, on="file_key")
    assert [Path(path).name for path in refused["path"]] == ["broken.dcm"] and len(files) == met


def test_a_spacing_that_no_picture_says_is_not_invented(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(source / "a.png")
    summary = ingest(source, tmp_path / "out", settings=IngestConfig(modality="xray"), jobs=0)
    assert summary.spacings_mm == {"xray": "not said"}
    assert "pixel spacing" not in (tmp_path / "out" / "overview.html").read_text()


def test_no_identifier_gets_out(tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    source = messy(tmp_path / "in")
    table = source / "table.csv"
    pd.read_csv(table).drop(columns="kind").to_csv(table, index=False)
    with caplog.at_level(0):
        summary = ingest(source, tmp_path / "out", reports=table, labels=table, jobs=0, key=KEY)
    found = decoded(tmp_path / "out") + repr(summary.lines) + repr(summary.counts)
    for canary in (CANARY, "MRN0001", "ACC0001", "2.25.", "19300102", "20210304", str(tmp_path / "in")):
        assert canary not in found.replace(str(tmp_path / "out"), ""), canary
    assert CANARY.lower() not in found.lower()
    assert "95" not in open_data(tmp_path / "out").manifest["age_years"].astype(str).tolist()
    out, err = capfd.readouterr()
    assert out + err + caplog.text == ""
    reading = read_scans(source)
    assert all(CANARY not in one.detail for one in reading.ledger)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("SIEMENS", "siemens"),
        ("GE MEDICAL SYSTEMS", "ge"),
        ("Philips Medical Systems", "philips"),
        ("TOSHIBA_MEC", "toshiba"),
        ("FUJI PHOTO FILM Co., ltd.", "fujifilm"),
        (f"{CANARY} workstation of Dr. Gerald", ""),
    ],
)
def test_the_scanner_is_a_word_of_a_closed_list_and_the_site_a_key(tmp_path: Path, said: str, kept: str) -> None:
    sites = ("St. Canary  Hospital", "ST. CANARY HOSPITAL", "Elsewhere", "")
    for number, site in enumerate(sites):
        change = change_to(Manufacturer=said, InstitutionName=site)
        series(tmp_path / "in" / str(number), phantom(4, seed=number), patient=f"MRN000{number}", uid=f"2.25.{number + 3}", change=change)
    ingest(tmp_path / "in", tmp_path / "out", jobs=0, key=KEY)
    manifest = open_data(tmp_path / "out").manifest
    assert manifest["scanner"].tolist() == [kept] * 4
    counts = manifest["site"].value_counts()
    assert counts.pop("") == 1 and sorted(counts) == [1, 2] and all(len(site) == 20 for site in counts.index)
    assert not any(word in decoded(tmp_path / "out").casefold() for word in ("elsewhere", "st. canary", "gerald"))


def test_private_is_private(tmp_path: Path) -> None:
    series(tmp_path / "in")
    ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    private = tmp_path / "out" / "private"
    assert private.stat().st_mode & 0o777 == 0o700
    assert (private / "key").stat().st_mode & 0o777 == 0o600
    key = (private / "key").read_bytes()
    assert len(key) == 32
    before = open_data(tmp_path / "out").manifest["volume_id"].tolist()
    ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    assert (private / "key").read_bytes() == key
    assert open_data(tmp_path / "out").manifest["volume_id"].tolist() == before
    ingest(tmp_path / "in", tmp_path / "fresh", jobs=0)
    assert open_data(tmp_path / "fresh").manifest["volume_id"].tolist() != before


def test_same_input_same_bytes_whatever_the_jobs(tmp_path: Path) -> None:
    source = messy(tmp_path / "in")
    runs = []
    for name, jobs in (("one", 0), ("two", 2)):
        ingest(source, tmp_path / name, reports=source / "table.csv", jobs=jobs, key=KEY)
        runs.append(every_byte(tmp_path / name))
    assert runs[0] == runs[1]
    assert set(runs[0]) == {"manifest.parquet", "ledger.parquet", "reports.parquet", "labels.parquet", "card.json", "overview.html"}


def test_order_and_split_do_not_depend_on_the_key_or_on_names(tmp_path: Path) -> None:
    results = []
    for which in range(2):
        for number in range(12):
            folder = tmp_path / f"in{which}" / str(number if which else 11 - number)
            series(
                folder,
                phantom(3, seed=number),
                patient=f"P{number}",
                uid=f"2.25.{number}",
                names=lambda index, which=which: f"{index ^ which}.dcm",
            )
        ingest(tmp_path / f"in{which}", tmp_path / f"out{which}", jobs=0)
        data = open_data(tmp_path / f"out{which}")
        results.append(data.manifest[["pixel_hash", "split", "shape"]])
    pd.testing.assert_frame_equal(*results)
    assert results[0]["split"].value_counts().to_dict() == pytest.approx({"train": 8, "test": 3, "val": 1}, abs=1)


def test_volumes_come_back_and_changed_sources_are_noticed(tmp_path: Path) -> None:
    series(tmp_path / "in", phantom())
    ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    data = pickle.loads(pickle.dumps(open_data(tmp_path / "out")))
    name = data.manifest["volume_id"][0]
    np.testing.assert_array_equal(data.volume(name).array, phantom().transpose(2, 1, 0) - 1024)
    with pytest.raises(UserError, match="no volume or mask 'nope'"):
        data.volume("nope")
    path = tmp_path / "in" / "IM0002.dcm"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="changed since they were ingested"):
        data.volume(name)
    path.unlink()
    with pytest.raises(DataError, match="gone"):
        data.volume(name)


def test_fewer_time_points_than_there_were_are_a_changed_source(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 900, (9, 10, 11, 3)).astype(np.int16)
    path = write(tmp_path / "in" / "a.nii.gz", array)
    ingest(tmp_path / "in", tmp_path / "out", settings=IngestConfig(modality="mr"), jobs=0)
    data = open_data(tmp_path / "out")
    last = data.manifest.loc[data.manifest["time_index"] == 2, "volume_id"].item()
    write(path, array[..., :2])
    with pytest.raises(DataError, match="have changed since they were ingested"):
        data.volume(last)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="cannot be read any more"):
        data.volume(last)


def test_tilted_time_series_and_pictures_come_back(tmp_path: Path) -> None:
    orientation = (1, 0, 0, 0, float(np.cos(0.2)), float(np.sin(0.2)))
    series(tmp_path / "in" / "tilt", orientation=orientation, positions=[(-10.0, -20.0, 2.5 * k) for k in range(8)])
    for time in (1, 2):
        change = change_to(TemporalPositionIdentifier=time)
        series(tmp_path / "in" / f"t{time}", phantom(seed=time), modality="MR", uid="2.25.7", change=change)
    summary = ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    assert summary.reasons == {"conflicting_copies": 16}
    data = open_data(tmp_path / "out")
    assert data.volume(data.manifest["volume_id"][0]).array.shape == data.manifest["shape"][0]
    assert json.loads(data.manifest["sequence"][0])["gantry_tilt_deg"] == pytest.approx(np.rad2deg(0.2), abs=0.01)


def test_nothing_usable_is_exit_3_with_the_counts(tmp_path: Path) -> None:
    series(tmp_path / "in", change=change_to(RescaleSlope=0))
    with pytest.raises(DataError, match=r"nothing usable among 8 files:\n +8  rescale_slope_zero: a rescale slope of 0"):
        ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no files at all"):
        ingest(tmp_path / "empty", tmp_path / "out", jobs=0)
    with pytest.raises(UserError, match="no such file or folder"):
        ingest(tmp_path / "nowhere", tmp_path / "out", jobs=0)
    with pytest.raises(UserError, match="matches no file"):
        ingest(str(tmp_path / "in" / "*.nii"), tmp_path / "out", jobs=0)


def test_a_failed_second_run_leaves_no_card_of_mixed_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series(tmp_path / "in")
    ingest(tmp_path / "in", tmp_path / "out", jobs=0)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tables, "write_rows", fail)
    with pytest.raises(OSError, match="disk full"):
        ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    with pytest.raises(UserError, match="not whole"):
        open_data(tmp_path / "out")


def test_sources_as_globs_files_and_lists(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "scan.nii.gz", np.random.default_rng(ord(name)).integers(0, 99, (9, 9, 9)).astype(np.int16))
    assert len(read_scans(str(tmp_path / "*" / "*.nii.gz")).volumes) == 2
    assert len(read_scans(tmp_path / "a" / "scan.nii.gz").volumes) == 1
    ingest([tmp_path / "a", tmp_path / "b"], tmp_path / "out", jobs=0)
    assert open_data(tmp_path / "out").manifest["patient_key"].nunique() == 2


def test_same_pixels_stay_in_one_split(tmp_path: Path) -> None:
    for number in range(10):
        series(tmp_path / "in" / str(number), phantom(3, seed=number % 5), patient=f"P{number}", uid=f"2.25.{number}")
    ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    manifest = open_data(tmp_path / "out").manifest
    assert (manifest["duplicate_group"] > 0).all()
    assert manifest.groupby("duplicate_group")["split"].nunique().max() == 1
    assert all("duplicate_pixels" in flags for flags in manifest["flags"])


def test_what_has_no_split_goes_with_its_equals(tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        plane = np.random.default_rng(number).integers(0, 255, (24, 30), dtype=np.uint8)
        for letter, part in (("a", ("train", "val", "test")[number % 3]), ("b", "")):
            (tmp_path / "in").mkdir(exist_ok=True)
            Image.fromarray(plane).save(tmp_path / "in" / f"{letter}{number}.png")
            rows.append({"file": f"{letter}{number}.png", "patient": f"{letter}{number}", "split": part})
    pd.DataFrame(rows).to_csv(tmp_path / "in" / "table.csv", index=False)
    ingest(tmp_path / "in", tmp_path / "out", labels=tmp_path / "in" / "table.csv", settings=IngestConfig(label_columns=()), jobs=0)
    found = open_data(tmp_path / "out").manifest
    assert found.groupby("pixel_hash")["split"].nunique().max() == 1
    assert found["split"].value_counts().to_dict() == {"train": 8, "val": 8, "test": 8}


def test_a_patient_whom_a_table_puts_into_two_splits_is_refused(tmp_path: Path) -> None:
    series(tmp_path / "in", phantom(4))
    pd.DataFrame([{"patient": "MRN0001", "split": part} for part in ("train", "test")]).to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(DataError, match="1 patients are in more than one of train, val and test"):
        ingest(tmp_path / "in", tmp_path / "out", labels=tmp_path / "table.csv", jobs=0)


def test_convert(tmp_path: Path) -> None:
    import nibabel as nib

    series(tmp_path / "in" / "ct", phantom(5))
    write(tmp_path / "in" / "bold.nii.gz", np.random.default_rng(0).integers(0, 99, (6, 7, 8, 3)).astype(np.int16))
    done = convert(tmp_path / "in", tmp_path / "out", jobs=0, key=KEY)
    assert (done.volumes, done.written, done.files) == (4, 2, 6)
    images = {path: nib.load(path) for path in sorted((tmp_path / "out").glob("*.nii.gz"))}  # type: ignore[attr-defined]
    assert sorted(image.shape for image in images.values()) == [(6, 7, 8, 3), (24, 20, 5)]
    reading = read_scans(
        tmp_path / "out" / next(path.name for path, image in images.items() if len(image.shape) == 3), IngestConfig(modality="ct")
    )
    np.testing.assert_array_equal(reading.volumes[0].array, phantom(5).transpose(2, 1, 0) - 1024)
    np.testing.assert_allclose(reading.volumes[0].affine, read_scans(tmp_path / "in" / "ct").volumes[0].affine, atol=1e-5)
    assert len(pd.read_parquet(tmp_path / "out" / "ledger.parquet")) == 6
    before = every_byte(tmp_path / "out")
    convert(tmp_path / "in", tmp_path / "out", jobs=0, key=KEY)
    assert every_byte(tmp_path / "out") == before


def test_every_reason_has_a_meaning_and_manifest_columns_are_the_contract_s() -> None:
    assert all(status in ("used", "skipped", "refused") and meaning for status, meaning in REASONS.values())
    contract = "volume_id patient_key study_key series_key modality kind shape spacing_mm orientation units body_part sequence time_index"
    contract += " age_years sex report_id split pixel_hash"
    assert list(tables.MANIFEST_COLUMNS)[: len(contract.split())] == contract.split()
    assert list(tables.LEDGER_COLUMNS) == ["file_key", "status", "reason", "detail", "volume_id"]
    with pytest.raises(KeyError, match="do not fit the schema"):
        tables.table([{"volume_id": "a", "path": "b"}], tables.LEDGER_COLUMNS)


def test_the_card_changes_with_all_that_a_store_is_made_of(tmp_path: Path) -> None:
    """Labels, a mask's voxels, where a scan lies: the pixels of the scans are the same. `prepare` names DATA by its card."""
    source, out, cards = tmp_path / "in", tmp_path / "out", []
    rng = np.random.default_rng(0)
    scan, mask = rng.integers(0, 999, (9, 8, 7)).astype(np.int16), np.zeros((9, 8, 7), np.uint8)
    (source / "labelsTr").mkdir(parents=True)
    (source / "imagesTr").mkdir()

    def again(grade: int, marked: int, place: float) -> None:
        affine = np.diag([1.0, 1.0, 2.0, 1.0])
        affine[0, 3], mask[2:4, 2:4, marked] = place, 1
        write(source / "imagesTr" / "a.nii.gz", scan, affine)
        write(source / "labelsTr" / "a.nii.gz", mask, affine)
        pd.DataFrame({"file": ["a.nii.gz"], "grade": [grade]}).to_csv(tmp_path / "labels.csv", index=False)
        settings = IngestConfig(modality="mr", units="arbitrary", label_columns=("grade",))
        ingest(source, out, labels=tmp_path / "labels.csv", settings=settings, jobs=0, images=False)
        cards.append((out / "card.json").read_bytes())

    again(1, 2, 0.0)
    rows = [open_data(out).manifest.iloc[0].to_dict()]
    again(1, 2, 0.0)
    assert cards[0] == cards[1]
    again(2, 2, 0.0)
    again(2, 3, 0.0)
    again(2, 3, 0.5)
    rows.append(open_data(out).manifest.iloc[0].to_dict())
    assert len(set(cards)) == 4
    first, last = ({name: str(value) for name, value in row.items()} for row in rows)
    assert {name for name in first if first[name] != last[name]} == {"geometry_hash"}


def test_many_rows_are_parts_that_read_as_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 10)
    rows = [{"file_key": f"{number:04d}", "status": "used", "reason": "ok", "detail": "", "volume_id": ""} for number in range(165)]
    path = tmp_path / "ledger.parquet"
    for count, parts in ((165, 2), (160, 0), (161, 2), (0, 0)):
        tables.write_rows(path, iter(rows[:count]), tables.LEDGER_COLUMNS)
        assert len(list(path.glob("*"))) == parts
        assert tables.read_table(path)["file_key"].tolist() == [row["file_key"] for row in rows[:count]]
        assert [one.name for one in tmp_path.iterdir()] == ["ledger.parquet"]


def test_import_is_light() -> None:
    code = "import sys, medcl.ingest; print([name for name in ('torch', 'monai', 'pandas', 'pydicom', 'nibabel') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def kill_on_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), 9)
    return number * 10


def test_a_child_that_dies_costs_one_task() -> None:
    with Workers(2) as workers:
        results = dict(workers.work(kill_on_three, list(range(8)), lambda task: -task))
    assert results == {index: -3 if index == 3 else index * 10 for index in range(8)}


def want_much(number: int) -> str:
    try:
        return f"{len(bytearray(number))}"
    except MemoryError:
        return "refused"


def test_a_child_cannot_take_all_memory() -> None:
    with Workers(1, most_bytes=2 * 2**30) as workers:
        results = dict(workers.work(want_much, [1000, 4 * 2**30], str))
    assert results == {0: "1000", 1: "refused"}


def take_long(number: int) -> int:
    while number == 1:
        pass
    return number


def test_a_child_that_takes_too_long_is_given_up() -> None:
    with Workers(1, seconds=0.3) as workers:
        assert dict(workers.work(take_long, [0, 1, 2], lambda task: -task)) == {0: 0, 1: -1, 2: 2}


def want_much_for_a_small_file(number: int) -> str:
    give_memory(1000)
    return want_much(number)


def test_a_small_file_cannot_take_what_a_large_one_may() -> None:
    with Workers(1, most_bytes=16 * 2**30) as workers:
        results = dict(workers.work(want_much_for_a_small_file, [1000, 2 * 2**30], str))
    assert results == {0: "1000", 1: "refused"}


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_table_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    pd.DataFrame({"row": np.arange(1000)}).to_parquet(path)
    content = bytearray(path.read_bytes())
    content[-400:-8] = bytes(392)
    path.write_bytes({"cut": content[:500], "flipped": content, "empty": b""}[damage])
    with pytest.raises(DataError, match=r"index\.parquet: damaged, it cannot be read as a table"):
        tables.read_parquet(path)
    with pytest.raises(FileNotFoundError):
        tables.read_parquet(tmp_path / "none.parquet")


def test_what_ingest_wrote_is_not_read_again(tmp_path: Path) -> None:
    series(tmp_path / "ct", phantom(6), patient=PATIENT)
    with pytest.raises(UserError, match="is one of the sources"):
        ingest(tmp_path, tmp_path, jobs=0)
    first = ingest(tmp_path, tmp_path / "data", jobs=0)
    assert ingest(tmp_path, tmp_path / "data", jobs=0).files == ingest(tmp_path, tmp_path / "other", jobs=0).files == first.files == 6
    (tmp_path / "data" / "private" / "key").unlink()  # as a kill while reading leaves it
    assert ingest(tmp_path, tmp_path / "other", jobs=0).files == 6

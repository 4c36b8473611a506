"""prepare: what goes in comes out, in any number of processes, after any interruption, and failures are listed."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medcl.foundation.errors import DataError, UserError
from medcl.foundation.progress import Silent
from medcl.foundation.types import Volume
from medcl.store import work
from medcl.store.prepare import prepare_data
from medcl.store.recipe import BUILT_IN
from medcl.store.volume_store import VolumeStore
from tests.store.made_data import MadeData

CT = BUILT_IN["ct"].model_copy(update={"spacing_mm": None, "body_crop": False})


def made(count: int = 5, big: bool = True) -> MadeData:
    """CT blocks; the first one is larger than a pooled item where `big`."""
    rng = np.random.default_rng(0)
    volumes, masks = {}, {}
    for number in range(count):
        shape = (80, 70, 60) if big and number == 0 else (30 + number, 28, 20)
        array = rng.integers(-1000, 1000, shape).astype(np.int16)
        volumes[f"v{number}"] = Volume(array, np.diag([-1.0, -1.0, 2.0, 1.0]), "ct", "HU")
        masks[f"m{number}"] = Volume((array > 900).astype(np.uint8) * 3, np.diag([-1.0, -1.0, 2.0, 1.0]), "ct", "arbitrary")
    labels = pd.DataFrame({"volume_id": list(volumes)[1:], "mask_id": list(masks)[1:], "malignant": 1.0})
    reports = pd.DataFrame({"report_id": ["r"], "study_key": ["s0"], "text": ["no finding"]})
    return MadeData(volumes, masks, labels, reports)


def prepared(data: MadeData, out: Path, jobs: int = 1, recipe=CT, **more) -> VolumeStore:
    prepare_data(data, "hash", out, recipe, jobs=jobs, progress=Silent(), **more)
    return VolumeStore(out)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_values_masks_tables_and_keys_come_out(tmp_path: Path) -> None:
    data = made()
    store = prepared(data, tmp_path / "store")
    assert store.index["volume_id"].tolist() == list(data.volumes)
    assert store.index["patient"].tolist() == [0, 0, 1, 1, 2]
    assert store.card["counts"] == {"volumes": 5, "patients": 3, "masks": 4, "refused": 0}
    for row, (key, volume) in enumerate(data.volumes.items()):
        read = store.read(row)
        assert np.array_equal(read.array, volume.array[::-1, ::-1]) and read.units == "HU"
        assert read.affine @ [0, 0, 0, 1] == pytest.approx(volume.affine @ [volume.array.shape[0] - 1, volume.array.shape[1] - 1, 0, 1])
        mask = store.mask(row)
        assert (mask is None) == (key == "v0")
        if mask is not None:
            assert np.array_equal(mask, (read.array > 900) * 3)
    assert store.labels is not None and store.labels["malignant"].tolist() == [1.0] * 4
    assert store.reports is not None and store.reports["text"].tolist() == ["no finding"]


def test_same_bytes_in_one_process_and_two(tmp_path: Path) -> None:
    prepared(made(), tmp_path / "one")
    prepared(made(), tmp_path / "two", jobs=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_goes_on_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepared(made(), tmp_path / "whole")
    done: list[int] = []
    real = work.do_task

    def counted(context, task):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(task.number)
        return real(context, task)

    monkeypatch.setattr(work, "do_task", counted)
    with pytest.raises(KeyboardInterrupt):
        prepared(made(), tmp_path / "cut")
    assert not (tmp_path / "cut" / "card.json").exists()
    again: list[int] = []
    monkeypatch.setattr(work, "do_task", lambda context, task: again.append(task.number) or real(context, task))
    prepared(made(), tmp_path / "cut")
    assert again and not set(again) & set(done)
    assert contents(tmp_path / "cut") == contents(whole.folder)


def test_whole_store_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(made(), tmp_path / "store")
    monkeypatch.setattr(work, "do_task", lambda *_: pytest.fail("done again"))
    before = contents(tmp_path / "store")
    prepared(made(), tmp_path / "store")
    assert contents(tmp_path / "store") == before


def test_other_recipe_or_foreign_folder_is_refused(tmp_path: Path) -> None:
    prepared(made(), tmp_path / "store")
    with pytest.raises(UserError, match="another recipe; choose another folder"):
        prepared(made(), tmp_path / "store", recipe=BUILT_IN["ct"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty and not a store"):
        prepared(made(), tmp_path / "mine")


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run begun while the first works changes nothing, and may begin as soon as the first has ended, however it ended."""
    real, refused = work.do_task, []

    def twice(context, task):
        with pytest.raises(UserError, match="another medcl is writing this folder; wait for it") as caught:
            prepare_data(made(), "hash", tmp_path / "store", CT, jobs=1, progress=Silent())
        refused.append(caught.value.exit_code)
        return real(context, task) if len(refused) > 1 else 1 / 0

    monkeypatch.setattr(work, "do_task", twice)
    with pytest.raises(ZeroDivisionError):
        prepared(made(), tmp_path / "store")
    assert len(prepared(made(), tmp_path / "store")) == 5 and set(refused) == {2}


@pytest.mark.parametrize("spoilt", [lambda part: part[:-1], lambda part: part + part[-1:]])
def test_a_card_stands_for_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt) -> None:
    real = work.do_task
    monkeypatch.setattr(work, "do_task", lambda context, task: spoilt(real(context, task)))
    with pytest.raises(DataError, match=r"not one for each of the 5 rows of the manifest"):
        prepared(made(), tmp_path / "store")
    assert not (tmp_path / "store" / "card.json").exists()


def test_goes_on_after_a_kill_while_the_first_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".begun.json.0123abcd.partial").write_text("{")
    whole = prepared(made(2), tmp_path / "whole")
    assert contents(prepared(made(2), tmp_path / "store").folder) == contents(whole.folder)


def grown() -> MadeData:
    """`made(8)` without its masks, of which v1 was replaced, v3 withdrawn, and v8 came to; v0 has a file of its own."""
    data = made(9)
    data.volumes["v1"] = Volume(data.volumes["v1"].array[::-1].copy(), data.volumes["v1"].affine, "ct", "HU")
    del data.volumes["v3"]
    return MadeData(data.volumes)


def before() -> MadeData:
    return MadeData({key: volume for key, volume in made(9).volumes.items() if key != "v8"})


def test_a_store_grows_with_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcl.store.plan._POOLED_ITEMS", 2)  # pools of v1 v2, v3 v4, v5 v6, v7
    prepared(before(), tmp_path / "store")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "arrays").iterdir()}
    prepare_data(grown(), "other hash", tmp_path / "store", CT, jobs=1, progress=Silent())
    store, fresh = VolumeStore(tmp_path / "store"), prepared(grown(), tmp_path / "fresh")
    placed = ["file", "offset", "nbytes", "checksums", "frame"]
    pd.testing.assert_frame_equal(store.index.drop(columns=placed), fresh.index.drop(columns=placed))
    for row in range(len(fresh)):
        assert np.array_equal(store.read(row).array, fresh.read(row).array)
    same = {path.name for path, at in files.items() if path.is_file() and path.stat().st_mtime_ns == at}
    assert same == {"0000000.b2nd", "0000003.pool", "0000004.pool"}  # v0, v5 v6, v7: not what shares a pool with v1 or v3
    assert {f"arrays/{path.name}" for path in (tmp_path / "store" / "arrays").iterdir()} == {*store.index["file"]}
    assert store.card["corpus_hash"] == fresh.card["corpus_hash"] and store.card["inputs"] == {"data": "other hash"}
    assert not (tmp_path / "store" / "parts").exists()


def test_growing_can_be_interrupted_and_the_data_can_change_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcl.store.plan._POOLED_ITEMS", 2)
    prepared(before(), tmp_path / "store")
    real = work.do_task
    monkeypatch.setattr(work, "do_task", lambda context, task: 1 / 0 if task.number > 5 else real(context, task))
    with pytest.raises(ZeroDivisionError):
        prepare_data(grown(), "second", tmp_path / "store", CT, jobs=1, progress=Silent())
    again: list[int] = []
    monkeypatch.setattr(work, "do_task", lambda context, task: again.extend(task.rows) or real(context, task))
    last = grown()
    del last.volumes["v7"]
    prepare_data(last, "third", tmp_path / "store", CT, jobs=1, progress=Silent())
    store, fresh = VolumeStore(tmp_path / "store"), prepared(MadeData(last.volumes), tmp_path / "fresh")
    assert [store.read(row).array.sum() for row in range(len(store))] == [fresh.read(row).array.sum() for row in range(len(fresh))]
    assert {store.index["volume_id"].iat[row] for row in again[: -len(fresh)]} == {"v4", "v8"}  # v1 v2 were done, v0 v5 v6 stayed


def test_a_scan_whose_geometry_or_claims_changed_is_done_again(tmp_path: Path) -> None:
    """Pixels alone do not make a volume: spacing and place come from elsewhere. Reports that are gone do not stay either."""
    data = before()
    data.reports = made().reports
    data.manifest["geometry_hash"] = data.manifest["volume_id"]
    prepared(data, tmp_path / "store")
    changed = before()
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    changed.volumes["v0"] = Volume(changed.volumes["v0"].array, affine, "ct", "HU")  # its manifest's spacing tells
    changed.manifest["geometry_hash"] = changed.manifest["volume_id"]
    prepare_data(changed, "spacing", tmp_path / "store", CT, jobs=1, progress=Silent())
    store = VolumeStore(tmp_path / "store")
    assert [store.affine(row)[2, 2] for row in range(2)] == [3.0, 2.0] and store.reports is None
    affine[:3, 3] = 7.0  # only `geometry_hash` tells that it has moved
    changed.manifest.loc[0, "geometry_hash"] = "elsewhere"
    prepare_data(changed, "place", tmp_path / "store", CT, jobs=1, progress=Silent())
    moved = VolumeStore(tmp_path / "store")
    assert moved.affine(0)[2, 3] == 7.0 and moved.affine(1)[2, 3] == 0.0
    assert [store.index["file"].iat[row] == moved.index["file"].iat[row] for row in (0, 1)] == [False, True]
    changed.manifest["units"] = "arbitrary"
    for volume in changed.volumes:
        changed.volumes[volume] = Volume(changed.volumes[volume].array, affine, "ct", "arbitrary")
    with pytest.raises(DataError, match="8 wrong_units"):
        prepare_data(changed, "units", tmp_path / "store", CT, jobs=1, progress=Silent())


def test_a_store_follows_its_data_where_nothing_can_stay(tmp_path: Path) -> None:
    """Every volume has a mask, which may have been drawn anew; or an earlier medcl prepared them, and did not say out of what."""
    data = made(3)
    data.labels = pd.DataFrame({"volume_id": ["v0", "v1", "v2"], "mask_id": ["m0", "m1", "m2"], "malignant": 1.0})
    prepared(data, tmp_path / "store")
    data.labels["malignant"] = [0.0, 1.0, 0.0]
    prepare_data(data, "corrected", tmp_path / "store", CT, jobs=1, progress=Silent())
    store = VolumeStore(tmp_path / "store")
    assert store.labels is not None and store.labels["malignant"].tolist() == [0.0, 1.0, 0.0]
    store.index.drop(columns="scan_hash").to_parquet(tmp_path / "store" / "index.parquet")
    assert np.array_equal(VolumeStore(tmp_path / "store").read(1).array, store.read(1).array), "an earlier store opens"
    prepare_data(data, "again", tmp_path / "store", CT, jobs=1, progress=Silent())
    assert "scan_hash" in VolumeStore(tmp_path / "store").index


def test_a_volume_that_was_prepared_in_another_way_is_prepared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(made(3), tmp_path / "store")
    before = VolumeStore(tmp_path / "store").index["file"].tolist()
    monkeypatch.setattr("medcl.store.work._PREPARATION", 0)
    prepare_data(made(3), "changed", tmp_path / "store", CT, jobs=1, progress=Silent())
    assert not {*before} & {*VolumeStore(tmp_path / "store").index["file"]}


def test_masks_are_done_again_and_other_data_are_refused(tmp_path: Path) -> None:
    data = made()
    prepared(data, tmp_path / "store")
    data.masks["m2"] = Volume(np.zeros_like(data.masks["m2"].array), data.masks["m2"].affine, "ct", "arbitrary")
    prepare_data(data, "redrawn", tmp_path / "store", CT, jobs=1, progress=Silent())
    mask = VolumeStore(tmp_path / "store").mask(2)
    assert mask is not None and not mask.any()
    others = MadeData({f"w{key}": volume for key, volume in made().volumes.items()})
    with pytest.raises(UserError, match="made from other data"):
        prepare_data(others, "others", tmp_path / "store", CT, jobs=1, progress=Silent())
    assert len(VolumeStore(tmp_path / "store")) == 5


def test_a_bad_volume_is_listed_and_not_fatal(tmp_path: Path) -> None:
    data = made()
    data.volumes["v2"] = Volume(data.volumes["v2"].array + 1024, np.eye(4), "ct", "HU")
    data.masks["m3"] = Volume(np.full((4, 4, 4), 300), np.eye(4), "ct", "arbitrary")
    store = prepared(data, tmp_path / "store")
    ledger = pd.read_parquet(tmp_path / "store" / "ledger.parquet").set_index("volume_id")
    assert ledger["status"].value_counts().to_dict() == {"used": 3, "refused": 2}
    assert ledger.loc["v2", "reason"] == "implausible_units" and ledger.loc["v3", "reason"] == "wrong_mask"
    assert store.index["volume_id"].tolist() == ["v0", "v1", "v4"]
    assert np.array_equal(store.read(2).array, data.volumes["v4"].array[::-1, ::-1])


def test_a_lost_label_of_a_mask_is_listed(tmp_path: Path) -> None:
    """Small ones keep a voxel; what lies outside the field that is kept cannot, and the ledger says so."""
    array = np.full((60, 60, 60), -1000, np.int16)
    array[20:55, 20:55, 20:55] = 40
    mask = np.zeros(array.shape, np.uint8)
    mask[31, 31, 31], mask[1, 1, 1], mask[40:50, 40:50, 40:50] = 1, 2, 4
    data = MadeData({"v": Volume(array, np.eye(4), "ct", "HU")}, {"m": Volume(mask, np.eye(4), "ct", "arbitrary")})
    data.labels = pd.DataFrame({"volume_id": ["v"], "mask_id": ["m"]})
    stored = prepared(data, tmp_path / "store", recipe=BUILT_IN["ct"].model_copy(update={"spacing_mm": (3.0, 3.0, 3.0)})).mask(0)
    assert stored is not None and set(np.unique(stored)) == {0, 1, 4} and np.count_nonzero(stored == 1) == 1
    (said,) = pd.read_parquet(tmp_path / "store" / "ledger.parquet").to_dict("records")
    assert (said["status"], said["reason"], said["detail"]) == ("used", "", "mask labels without a voxel in the store: 2")


def test_no_path_reaches_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made()
    real = MadeData.volume

    def broken(self, volume_id):
        if volume_id == "v1":
            raise OSError("/export/Smith_John/series1: no such file")
        return real(self, volume_id)

    monkeypatch.setattr(MadeData, "volume", broken)
    prepared(data, tmp_path / "store")
    ledger = pd.read_parquet(tmp_path / "store" / "ledger.parquet")
    assert ledger.loc[ledger["volume_id"] == "v1", "reason"].tolist() == ["unreadable"]
    assert not any(b"Smith" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_nothing_usable_is_an_error_with_the_reason(tmp_path: Path) -> None:
    data = MadeData({"v0": Volume(np.zeros((9, 9, 9)), np.eye(4), "mr", "arbitrary")})
    with pytest.raises(DataError, match=r"1 wrong_modality.*'mr' for recipe 'ct'"):
        prepared(data, tmp_path / "store")


def test_dry_run_writes_nothing_and_is_about_right(tmp_path: Path) -> None:
    data = made()
    summary = prepare_data(data, "hash", tmp_path / "store", CT, jobs=1, progress=Silent(), dry_run=True)
    assert not (tmp_path / "store").exists()
    assert summary.estimate is not None and summary.estimate.seconds > 0 and summary.estimate.memory_bytes > 0
    real = prepared(data, tmp_path / "store").card["array_bytes"]
    assert real / 4 < summary.estimate.disk_bytes < real * 4


def test_dry_run_names_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `prepare` does, which lists it and goes on."""
    data, real = made(), MadeData.volume

    def broken(self, volume_id):
        if volume_id == "v0":
            raise IsADirectoryError("/export/Smith_John/series1")
        return real(self, volume_id)

    monkeypatch.setattr(MadeData, "volume", broken)
    summary = prepare_data(data, "hash", tmp_path / "store", CT, jobs=1, progress=Silent(), dry_run=True)
    assert summary.estimate is not None and summary.estimate.failed == ("v0",)
    assert str(summary.estimate).endswith("; of those tried, not usable: v0")


def test_pooled_items_share_files_and_large_ones_do_not(tmp_path: Path) -> None:
    store = prepared(made(), tmp_path / "store")
    files = store.index["file"].tolist()
    assert files[0].endswith(".b2nd") and len({*files[1:]}) == 1 and files[1].endswith(".pool")


def test_real_scans_go_through(real_data: Path, tmp_path: Path) -> None:
    """Hippocampus MR with masks, from ingest to store."""
    from medcl.ingest.run import ingest
    from medcl.ingest.settings import IngestConfig
    from medcl.store.prepare import prepare

    source = tmp_path / "source"
    for kind in ("imagesTr", "labelsTr"):
        (source / kind).mkdir(parents=True)
        for path in sorted((real_data / "hippocampus" / kind).glob("*.nii.gz"))[:6]:
            shutil.copy(path, source / kind)
    ingest([source], tmp_path / "data", settings=IngestConfig(modality="mr", units="arbitrary"))
    summary = prepare(tmp_path / "data", tmp_path / "store", BUILT_IN["mr"])
    store = VolumeStore(tmp_path / "store")
    assert summary.volumes == summary.masks == len(store) == 6
    for row in range(6):
        volume, mask = store.read(row).array, store.mask(row)
        assert mask is not None and mask.shape == volume.shape and set(np.unique(mask)) == {0, 1, 2}
        assert abs(volume.mean()) < 0.2 and 0.7 < volume.std() < 1.3

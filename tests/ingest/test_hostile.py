"""Inputs that want out of their folder or want to be run: links, paths in tables, formulas, pickles. All harmless."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medcl.ingest import ingest, open_data, read_scans
from tests.ingest.scanner import phantom, series
from tests.ingest.test_nifti import voxels, write


class Evil:
    """Unpickled, it would make a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_links_and_paths_lead_nowhere_outside(tmp_path: Path) -> None:
    """Neither a link to a file or folder nor a path in a table brings in what lies beside the sources."""
    secret = write(tmp_path / "outside" / "secret.nii.gz", voxels(seed=1))
    inside = tmp_path / "in"
    write(inside / "scan.nii.gz", voxels(seed=2))
    os.symlink(secret, inside / "link.nii.gz")
    os.symlink(secret.parent, inside / "folder")
    os.symlink(inside, inside / "loop")
    rows = ["../outside/secret.nii.gz,1", f"{secret},1", "/etc/passwd,1", "..\\..\\outside\\secret.nii.gz,1", "scan.nii.gz,0"]
    (inside / "table.csv").write_text("\n".join(["file,label", *rows]))
    ingest(inside, tmp_path / "out", labels=inside / "table.csv", jobs=0)
    data = open_data(tmp_path / "out")
    assert data.ledger["reason"].value_counts().to_dict() == {"ok": 1, "link_outside": 2, "same_file": 1, "table": 1}
    assert data.labels is not None
    assert (len(data.manifest), data.labels["label"].tolist()) == (1, [0.0])


def test_cells_that_look_like_formulas_stay_text(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / "in" / f"{number}.nii.gz", voxels(seed=number))
    cells = ["=cmd|' /C calc'!A1", "+1+1", "-1+2"]
    rows = [f'{number}.nii.gz,"{cells[number % 3]}"' for number in range(6)]
    (tmp_path / "table.csv").write_text("\n".join(["file,finding", *rows]))
    ingest(tmp_path / "in", tmp_path / "out", labels=tmp_path / "table.csv", jobs=0)
    labels = open_data(tmp_path / "out").labels
    assert labels is not None
    assert set(labels["finding"]) == set(cells)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "made"
    np.savez(tmp_path / "a.npz", train_images=np.array([Evil(mark)], dtype=object))
    np.savez(tmp_path / "b.npz", train_images=np.zeros((1, 9, 9), np.uint8), train_labels=np.array([Evil(mark)], dtype=object))
    (tmp_path / "c.npz").write_bytes(pickle.dumps(Evil(mark)))
    (tmp_path / "d.nii").write_bytes(pickle.dumps(Evil(mark)) + bytes(400))
    (tmp_path / "e.dcm").write_bytes(bytes(128) + b"DICM" + pickle.dumps(Evil(mark)))
    reading = read_scans(tmp_path)
    assert not reading.volumes
    assert {one.reason for one in reading.ledger} == {"unreadable"}
    assert not mark.exists()


def test_folders_that_nobody_looks_into_are_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series(tmp_path / "archive" / "p1", phantom(4))
    series(tmp_path / "in" / "p2", phantom(4, seed=2))
    (tmp_path / "in" / "closed").mkdir()
    os.symlink(tmp_path / "archive" / "p1", tmp_path / "in" / "p1")
    os.symlink(tmp_path / "in" / "p2", tmp_path / "in" / "again")
    scandir = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = {Path(one.path).name: one.reason for one in read_scans(tmp_path / "in").ledger if one.reason != "ok"}
    assert found == {"p1": "link_outside", "again": "same_file", "closed": "no_permission"}


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    series(tmp_path / "in" / os.fsdecode(b"M\xfcller"), phantom(4))
    ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    data = open_data(tmp_path / "out")
    assert data.volume(data.manifest["volume_id"][0]).array.shape == (24, 20, 4)
    assert pd.read_parquet(tmp_path / "out" / "private" / "files.parquet")["path"].str.contains("M\U0010fffcller/").all()

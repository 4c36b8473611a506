from __future__ import annotations

import json
from pathlib import Path

import pytest

from medcl.foundation import files
from medcl.foundation.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    files.write_text(target, "old")

    def breaks(partial: Path) -> None:
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_whole(target, breaks)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_card_round_trip_and_kind(tmp_path: Path) -> None:
    files.write_card(tmp_path, "store", inputs={"data": "abc"}, settings={"x": 1}, counts={"volumes": 3}, corpus_hash="h")
    card = files.read_card(tmp_path, "store", "data")
    assert card["counts"] == {"volumes": 3} and card["corpus_hash"] == "h"
    with pytest.raises(UserError, match="expected a run folder, found 'store'"):
        files.read_card(tmp_path, "run")


def test_a_folder_without_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not whole"):
        files.read_card(tmp_path, "store")
    with pytest.raises(UserError, match="no such folder"):
        files.read_card(tmp_path / "absent", "store")
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        files.read_card(tmp_path, "store")


def test_other_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"kind": "store", "schema_version": 99}))
    with pytest.raises(UserError, match="schema 99"):
        files.read_card(tmp_path, "store")


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_hash_of_files_depends_on_names_and_bytes_not_on_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    first = files.sha256_of_files(tmp_path, ["a", "b"])
    assert first == files.sha256_of_files(tmp_path, ["b", "a"])
    (tmp_path / "b").write_text("3")
    assert first != files.sha256_of_files(tmp_path, ["a", "b"])


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x"])
def test_a_formula_is_quoted(cell: str) -> None:
    assert files.safe_csv_cell(cell) == "'" + cell
    assert files.safe_csv_cell("plain") == "plain"


def test_a_folder_or_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        files.write_text(tmp_path, "page")
    for wanted in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(UserError, match="a file where a folder is to be; choose another --out"):
            files.write_text(wanted / "page.html", "page")
    with pytest.raises(UserError, match="no folder can be made here"):
        files.make_folder(Path("/proc/nothing/here"))

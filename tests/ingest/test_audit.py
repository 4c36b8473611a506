"""The privacy audit finds identifiers however they are packed, and says them to nobody."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from medcl.foundation.errors import UserError
from medcl.ingest import ingest
from medcl.ingest.audit import Audit, Finder, audit_privacy, needle
from medcl.ingest.identifiers import can_be_looked_for
from medcl.ingest.layers import layers
from tests.ingest.scanner import phantom, series

SECRET = "QUILLFEATHER"


def _zipped(text: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner/a.txt", f"{text} " * 3)
    return target.getvalue()


def _parquet(text: str) -> bytes:
    return pd.DataFrame({"a": ["x", text], "b": [[1.5], [2.5]]}).to_parquet()


def _png(text: str) -> bytes:
    target, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("Comment", text, zip=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(target, "PNG", pnginfo=info)
    return target.getvalue()


PACKED: dict[str, Callable[[str], bytes]] = {
    "plain": lambda text: f"seen by {text} today".encode(),
    "lower case": lambda text: text.lower().encode(),
    "utf-16": lambda text: f"name {text}".encode("utf-16"),
    "utf-32": lambda text: np.array([text]).tobytes(),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzip appended to": lambda text: gzip.compress(b"yesterday: ") + gzip.compress(f"today {text * 2} {text}".encode()),
    "bzip2 appended to": lambda text: bz2.compress(b"yesterday: ") + bz2.compress(text.encode()),
    "xz appended to": lambda text: lzma.compress(b"yesterday: ") + lzma.compress((f"{text} " * 9).encode()),
    "zip": _zipped,
    "zip in base64": lambda text: b"data:application/zip;base64," + base64.b64encode(_zipped(text)) + b'"',
    "base64": lambda text: b"x: " + base64.b64encode(f"the name is {text}, is it".encode()),
    "parquet": _parquet,
    "png text": _png,
    "json": lambda text: json.dumps({"name": text}).encode(),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")

    def change(dataset, index: int) -> None:
        dataset.PatientName, dataset.PatientBirthDate = f"{SECRET}^Jürgen", "18911203"

    series(folder / "in" / "Doe_John", phantom(4), patient="MRN00420042", change=change)
    ingest(folder / "in", folder / "out", jobs=0, key=b"k" * 32)
    return folder / "out"


def audited(data: Path, folder: Path, content: bytes, name: str = "artefact.bin") -> Audit:
    (folder / name).write_bytes(content)
    return audit_privacy(folder, data)


@pytest.mark.parametrize("how", sorted(PACKED))
@pytest.mark.parametrize("secret", [SECRET, "Jürgen", "MRN00420042", "18911203"])
def test_found_however_it_is_packed(data: Path, tmp_path: Path, how: str, secret: str) -> None:
    audit = audited(data, tmp_path, PACKED[how](secret))
    kinds = {SECRET: "name", "Jürgen": "name", "MRN00420042": "patient", "18911203": "date"}
    assert {leak.kind for leak in audit.leaks} == {kinds[secret]}
    assert len({leak.fingerprint for leak in audit.leaks}) == 1
    said = " ".join(audit.lines) + json.dumps(audit.counts, default=str)
    assert secret.lower() not in said.lower()
    row = pd.read_parquet(data / "private" / "identifiers.parquet").set_index("fingerprint").loc[audit.leaks[0].fingerprint]
    assert row["value"] == secret


def test_other_ways_to_write_it(data: Path, tmp_path: Path) -> None:
    for text in ("1891-12-03", "03.12.1891", "1891/12/03", "12/03/1891", "12/3/1891", "3.12.1891"):
        assert [leak.kind for leak in audited(data, tmp_path, f"born {text}.".encode()).leaks] == ["date"]
    for text in ("JÜRGEN".encode(), "jürgen".encode("latin-1"), "Jürgen".encode("utf-16")):
        assert [leak.kind for leak in audited(data, tmp_path, text).leaks] == ["name"]


def test_names_of_files_are_looked_at_and_masked(data: Path, tmp_path: Path) -> None:
    (tmp_path / "of MRN00420042").mkdir()
    audit = audited(data, tmp_path, b"nothing", "of MRN00420042/plot.png")
    assert [(leak.file, leak.how) for leak in audit.leaks] == [("of [patient]/plot.png", "name")]


def test_a_name_that_a_path_says_twice_is_masked_twice(data: Path, tmp_path: Path) -> None:
    (tmp_path / SECRET).mkdir()
    audit = audited(data, tmp_path, b"nothing", f"{SECRET}/{SECRET.lower()} of {SECRET}.png")
    assert [leak.file for leak in audit.leaks] == ["[name]/[name] of [name].png"]


def test_a_date_of_a_table_is_looked_for_in_every_form() -> None:
    (one,) = Finder([needle("f", "date", "2021-03-04")]).found(b"seen 20210304 and 3/4/2021, not 13/4/2021")
    assert (one.kind, Finder([one]).found(b"20210304 and 3/4/2021, not 13/4/2021")[one]) == ("date", 2)


def test_what_is_no_leak(data: Path, tmp_path: Path) -> None:
    assert not audited(data, tmp_path, b"QUILLFEATHERS 218911203 9MRN0042 0.18911203e5 quill feather").leaks
    assert audit_privacy(data, data).leaks == ()  # its own private/ is left out
    assert audit_privacy(data / "private", data).leaks  # unless it is asked for


def test_too_plain_to_be_told_apart() -> None:
    vocabulary = {"heart", "images"}
    assert not any(
        can_be_looked_for(*one, vocabulary) for one in [("name", "Doe"), ("name", "HEART"), ("patient", "1234"), ("file", "images")]
    )
    told = [("name", "Zaphod"), ("patient", "12345"), ("patient", "sub-01x"), ("file", "Doe_John"), ("file", "IM000001")]
    assert all(can_be_looked_for(*one, vocabulary) for one in told)


@pytest.mark.parametrize("magic", [b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x89PNG\r\n\x1a\n", b"PAR1"])
def test_what_only_claims_to_be_packed_is_read_as_it_is(magic: bytes) -> None:
    content = magic + b"SMITH and nothing that unpacks " * 4
    assert content in [layer for _, layer in layers(content)]


def test_a_damaged_member_does_not_hide_the_others() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("first", "second", "third"):
            archive.writestr(name, f"{name} {name} SMITH" * 9)
    whole = buffer.getvalue()
    at = whole.index(b"second") + len("second")
    found = [layer for _, layer in layers(whole[:at] + b"\xff\xff\xff\xff" + whole[at + 4 :])]
    assert any(layer.startswith(b"first first") for layer in found) and any(layer.startswith(b"third third") for layer in found)


def test_a_needle_across_two_chunks_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcl.ingest.audit._CHUNK", 64)
    one = needle("f", "name", SECRET)
    finder = Finder([one, needle("g", "patient", "MRN00420042")])
    for start in range(40, 80):
        content = b"." * start + SECRET.encode() + b"." * 90
        assert finder.found(content) == {one: 1}, start


def test_it_needs_to_know_what_to_look_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"identifiers\.parquet: missing; --out names the DATA folder"):
        audit_privacy(tmp_path, tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        audit_privacy(tmp_path / "none", tmp_path)

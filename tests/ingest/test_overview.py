"""The page that a person looks at: self-contained, without identifiers, with pictures only of scans that may be shown."""

from __future__ import annotations

import base64
import html
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcl.foundation.types import Volume
from medcl.ingest.doubts import DOUBTS
from medcl.ingest.ledger import LedgerEntry
from medcl.ingest.overview import PER_MODALITY, middle_slice, overview_page, thumbnails
from medcl.ingest.run import ingest
from medcl.ingest.settings import IngestConfig
from tests.ingest.scanner import CANARY, change_to, phantom, series
from tests.ingest.test_burned_in import chest

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = '<script>alert("x")</script>'


def row(**changes: object) -> dict:
    known = {"modality": "ct", "kind": "volume", "patient_key": "a", "shape": [20, 20, 9], "spacing_mm": [0.7, 0.7, 2.5], "flags": []}
    return known | changes


def test_it_tells_what_was_found_and_what_was_not(tmp_path: Path) -> None:
    series(tmp_path / "in" / "ct", phantom(40, 40, 40), patient=f"{CANARY}1")
    scout = change_to(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    series(tmp_path / "in" / f"{CANARY}_scout", phantom(2), patient=f"{CANARY}2", uid="2.25.9", change=scout)
    summary = ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    page = html.unescape((tmp_path / "out" / "overview.html").read_text())
    for expected in (
        "1 scan of 1 patient can be used; of 42 files, 2 had to be refused",
        "localizer",
        "a localizer (scout",
        "1 thumbnail of scans",
    ):
        assert expected in page, expected
    assert summary.lines[-1] == f"to look at before going on: {tmp_path / 'out' / 'overview.html'}"
    assert "median spacing in mm: ct 0.8 x 0.9 x 2.5" in summary.lines
    assert CANARY not in page and str(tmp_path) not in page
    assert "<script" not in page and "default-src 'none'" in page and "prefers-color-scheme: dark" in page
    assert all(found.startswith("data:") for found in re.findall(r'(?:src|href)="([^"]+)"', page))
    picture = Image.open(BytesIO(base64.b64decode(re.findall(r'src="data:image/png;base64,([^"]+)"', page)[0])))
    assert max(picture.size) == 168 and not picture.info
    ingest(tmp_path / "in", tmp_path / "out", jobs=0, images=False)
    assert "holds no picture of any scan" in (tmp_path / "out" / "overview.html").read_text()


def test_what_comes_from_outside_is_text() -> None:
    entries = [LedgerEntry(HOSTILE, "refused", "localizer")]
    numbers = {"files": 1, "volumes": 1, "pictures": 0, "patients": 1, "refused": 1}
    page = overview_page([row(modality=HOSTILE, flags=[HOSTILE])], entries, numbers, {})
    assert "<script" not in page and page.count("&lt;script&gt;") == 3


@pytest.mark.parametrize("flag", ["text_suspected", "text_burned_in"])
def test_scans_with_text_burned_in_are_not_shown_and_few_are(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class One:
        source = "a source"

    monkeypatch.setattr("medcl.ingest.overview.thumbnail", lambda source, config: f"data:{source}")
    rows = [row(flags=[flag] if place % 2 else []) for place in range(100)]

    class Quiet:
        def track(self, items, total: int, what: str, done: int = 0):
            return items

    found = thumbnails([One()] * 100, rows, IngestConfig(), 0, 0, None, Quiet())  # type: ignore[arg-type]
    assert 6 <= len(found) <= PER_MODALITY and all(place % 2 == 0 for place in found)


def test_what_ingest_itself_suspects_of_text_is_not_shown(tmp_path: Path) -> None:
    for name, text in (("plain", "L"), ("named", "DOE JOHN 1961")):
        Image.fromarray(chest(text)[:, :, 0].T).save(tmp_path / f"{name}.png")
    ingest(tmp_path, tmp_path / "out", settings=IngestConfig(modality="xray"), jobs=0)
    page = (tmp_path / "out" / "overview.html").read_text()
    assert page.count("data:image") == 1 and DOUBTS["text_suspected"] in page
    series(tmp_path / "ct", phantom(8, 40, 40), patient="1", change=change_to(BurnedInAnnotation="YES"))
    ingest(tmp_path / "ct", tmp_path / "kept", settings=IngestConfig(keep_burned_in=True), jobs=0)
    page = (tmp_path / "kept" / "overview.html").read_text()
    assert "data:image" not in page and "text_burned_in" in page


def test_every_flag_that_a_reader_raises_has_its_meaning() -> None:
    """Readers write each in a line that speaks of flags; what else is written in such lines is named here."""
    readers = [path for path in (ROOT / "medcl" / "ingest").glob("*.py") if path.name not in ("doubts.py", "manifest.py")]
    lines = [line for path in readers for line in path.read_text().splitlines() if "flags" in line]
    raised = {word for line in lines for word in re.findall(r'"([a-z]+_[a-z_0-9]+)"', line)}
    assert raised - {"normal_and_nearly_the_same", "age_years", "body_part"} <= set(DOUBTS) and len(raised) > 15


def test_the_patient_s_right_is_on_the_left_and_the_front_on_top() -> None:
    array = np.zeros((10, 12, 5), np.float32)
    array[8:, 9:, :] = 1  # right and front in RAS
    plane, size = middle_slice(Volume(array, np.diag([1.0, 2.0, 5.0, 1.0]), "ct", "HU"))
    assert plane[:3, :2].all() and plane.sum() == 6
    assert plane.shape == (12, 10) and size == (10.0, 24.0)
    flipped, _ = middle_slice(Volume(array[::-1], np.diag([-1.0, 2.0, 5.0, 1.0]), "ct", "HU"))
    np.testing.assert_array_equal(flipped, plane)

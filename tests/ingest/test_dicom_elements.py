"""The quick way through a header gives what pydicom's own reader gives, on whole files and on damaged ones."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medcl.ingest.dicom_elements import _as_the_standard_says, read_elements
from medcl.ingest.dicom_header import quiet_pydicom
from medcl.ingest.dicom_tags import WANTED
from tests.ingest import faults_enhanced, faults_geometry, faults_mosaic, faults_pixels  # noqa: F401  (each fills the table)
from tests.ingest.faults import FAULTS

CHARACTER_SET = 0x00080005  # decoded by pydicom, which medcl does not ask for


def the_same(content: bytes) -> bool:
    """Compare both ways; whether the quick one was taken."""
    quick = _as_the_standard_says(BytesIO(content), WANTED)
    if quick is None:
        return False
    stream, other = BytesIO(content), BytesIO(content)
    found = read_elements(stream, WANTED)
    theirs = pydicom.dcmread(other, stop_before_pixels=True, force=True, specific_tags=WANTED)
    assert stream.tell() == other.tell()
    wanted = {int(element.tag): element for element in theirs.values()}
    assert found.by_tag.keys() == wanted.keys()
    for tag, element in wanted.items():
        assert tag == CHARACTER_SET or str(found.by_tag[tag]) == str(element)
    implicit, little = theirs.original_encoding
    assert (found.implicit, found.little_endian, found.syntax) == (implicit, little, str(theirs.file_meta.TransferSyntaxUID))
    if found.file_class:
        assert found.file_class == str(theirs.file_meta.MediaStorageSOPClassUID)
    return True


def damaged(content: bytes, rng: np.random.Generator) -> list[bytes]:
    """The file cut within its header, and with bits of its header flipped."""
    header = min(len(content), 2500)
    cut = [content[: int(rng.integers(140, header))] for _ in range(6)]
    flipped = []
    for _ in range(12):
        mutant = bytearray(content)
        mutant[int(rng.integers(132, header))] ^= 1 << int(rng.integers(8))
        flipped.append(bytes(mutant))
    return cut + flipped


def test_on_faults_and_mutants(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    quick = whole = 0
    cases = FAULTS[::5]
    with quiet_pydicom():
        for place, case in enumerate(cases):
            folder = tmp_path / str(place)
            folder.mkdir()
            case.write(folder)
            path = next(path for path in sorted(folder.rglob("*")) if path.is_file())
            content = path.read_bytes()
            whole += the_same(content)
            quick += sum(the_same(mutant) for mutant in _readable(damaged(content, rng)))
    assert whole > 0.8 * len(cases)
    assert quick > 5 * len(cases)


def _readable(mutants: list[bytes]) -> list[bytes]:
    """Those that pydicom reads at all: where it raises, so does `read_elements` or it has gone the quick way as far as there is."""
    kept = []
    for mutant in mutants:
        try:
            pydicom.dcmread(BytesIO(mutant), stop_before_pixels=True, force=True, specific_tags=WANTED)
        except Exception:
            continue
        kept.append(mutant)
    return kept


@pytest.mark.parametrize("folder", ["dicom_series", "dicom_single"])
def test_on_real_files(real_data: Path, folder: str) -> None:
    paths = [path for path in sorted((real_data / folder).rglob("*")) if path.is_file() and path.suffix not in (".nii", ".gz", ".csv")]
    with quiet_pydicom():
        taken = [the_same(path.read_bytes()) for path in paths]
    assert np.mean(taken) > 0.7

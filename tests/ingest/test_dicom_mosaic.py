"""The made mosaics are what others understand: dcm2niix puts their voxels where the truth says, nibabel reads their header."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medcl.ingest import ingest, open_data, read_scans
from tests.ingest.faults import judge
from tests.ingest.faults_geometry import CORONAL
from tests.ingest.faults_mosaic import OBLIQUE, PIXELS, csa, mosaic
from tests.ingest.scanner import AXIAL


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("turn", [AXIAL, OBLIQUE, CORONAL], ids=["axial", "oblique", "coronal"])
def test_dcm2niix_agrees_with_the_truth_and_with_us(tmp_path: Path, turn: tuple[float, ...], reverse: bool) -> None:
    dcm2niix = pytest.importorskip("dcm2niix")
    known = mosaic(tmp_path / "in" / "one", PIXELS[0], turn=turn, reverse=reverse)
    (tmp_path / "out").mkdir()
    said = [dcm2niix.bin, "-b", "n", "-z", "n", "-f", "it", "-o", str(tmp_path / "out"), str(tmp_path / "in")]
    subprocess.run(said, check=True, capture_output=True)
    image = nib.load(tmp_path / "out" / "it.nii")
    theirs = (np.asanyarray(image.dataobj), image.affine)  # type: ignore[attr-defined]
    volume = read_scans(tmp_path / "in").volumes[0]
    assert [judge([one], [known]) for one in (theirs, (volume.array, volume.affine))] == ["right", "right"]


@pytest.mark.filterwarnings("ignore:The DICOM readers are highly experimental")
def test_made_private_headers_are_read_by_nibabel() -> None:
    from nibabel.nicom import csareader

    tags = {"EchoLinePosition": ["32"], "NumberOfImagesInMosaic": ["7"], "SliceNormalVector": ["0.0", "-0.6", "0.8"]}
    found = csareader.read(csa(tags))["tags"]
    assert [found[name]["items"][: len(words)] for name, words in tags.items()] == [[32.0], [7.0], [0.0, -0.6, 0.8]]


def test_a_mosaic_is_read_again(tmp_path: Path) -> None:
    for time, pixels in enumerate(PIXELS):
        mosaic(tmp_path / "in" / str(time), pixels, time + 1)
    ingest(tmp_path / "in", tmp_path / "data", jobs=0, key=b"k" * 32)
    data = open_data(tmp_path / "data")
    assert sorted(data.manifest["time_index"]) == [0, 1, 2]
    for volume_id, time in zip(data.manifest["volume_id"], data.manifest["time_index"], strict=True):
        np.testing.assert_array_equal(data.volume(volume_id).array, PIXELS[time].transpose(2, 1, 0))

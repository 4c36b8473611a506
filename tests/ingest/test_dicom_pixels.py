"""X-rays, ultrasound and every real file of `dicom_single`: pixels as the header means them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from pydicom import DataElement, dcmread
from pydicom.dataset import Dataset

from medcl.ingest import IngestConfig, read_scans
from medcl.ingest.dicom_frames import read_frames
from medcl.ingest.dicom_header import PixelLayout
from medcl.ingest.dicom_pixels import stored_values
from medcl.ingest.ledger import REASONS
from tests.ingest.scanner import base, change_to, phantom, put_pixels, save, series


def x_ray(path: Path, pixels: np.ndarray, **values: object) -> Path:
    dataset = base("DX", "MRN0001", "2.25.400", f"2.25.400.{path.stem[-1]}")
    put_pixels(dataset, pixels, bits_stored=12)
    dataset.PixelSpacing = [0.2, 0.3]
    for name, value in values.items():
        setattr(dataset, name, value)
    save(dataset, path)
    return path


def test_x_ray_is_a_picture(tmp_path: Path) -> None:
    pixels = phantom(1, 30, 40)[0].astype(np.uint16)
    volume = read_scans(x_ray(tmp_path / "1", pixels)).volumes[0]
    assert (volume.kind, volume.units, volume.modality, volume.array.shape) == ("picture", "display", "xray", (40, 30, 1))
    np.testing.assert_array_equal(volume.array[:, :, 0], pixels.T)
    np.testing.assert_allclose(volume.spacing_mm, (0.3, 0.2, 1.0))


@pytest.mark.parametrize(
    "values", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}], ids=["MONOCHROME1", "INVERSE"]
)
def test_inverted_x_rays_are_turned_around(tmp_path: Path, values: dict[str, object]) -> None:
    pixels = phantom(1, 30, 40)[0].astype(np.uint16)
    volume = read_scans(x_ray(tmp_path / "1", pixels, **values)).volumes[0]
    np.testing.assert_array_equal(volume.array[:, :, 0], 4095 - pixels.T)


@pytest.mark.parametrize(("kind", "padding"), [(np.uint16, 0), (np.int16, 0xF830)], ids=["unsigned", "signed, read as unsigned"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_what_lies_outside_an_x_ray_is_as_dark_as_its_darkest_part(tmp_path: Path, photometric: str, kind: type, padding: int) -> None:
    pixels = (100 + phantom(1, 30, 40)[0] % 900).astype(kind)
    pixels[:, :12] = padding - (65536 if padding > 32767 else 0)
    path = x_ray(tmp_path / "1", pixels, PhotometricInterpretation=photometric)
    dataset = dcmread(path)
    dataset.BitsStored, dataset.HighBit = 16, 15
    dataset[0x00280120] = DataElement(0x00280120, "US", padding)
    dataset.save_as(path)
    array = read_scans(path).volumes[0].array[:, :, 0].T.astype(int)
    assert set(array[:, :12].ravel()) == {array[:, 12:].min()}
    inside = pixels[:, 12:].astype(int)
    np.testing.assert_array_equal(
        array[:, 12:] - array.min(), inside.max() - inside if photometric == "MONOCHROME1" else inside - inside.min()
    )


def test_mri_in_monochrome1_keeps_its_values(tmp_path: Path) -> None:
    volume = read_scans(series(tmp_path, modality="MR", change=change_to(PhotometricInterpretation="MONOCHROME1"))).volumes[0]
    np.testing.assert_array_equal(volume.array, phantom().transpose(2, 1, 0))


def test_modality_lut(tmp_path: Path) -> None:
    pixels = np.arange(400, dtype=np.uint16).reshape(20, 20) % 64

    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [64, 0, 16], "US"
    table.LUTData = np.array([1000 - 10 * entry for entry in range(64)], dtype="<u2").tobytes()
    volume = read_scans(x_ray(tmp_path / "1", pixels, ModalityLUTSequence=[table])).volumes[0]
    np.testing.assert_array_equal(volume.array[:, :, 0], 1000 - 10 * pixels.T.astype(np.float32))


def test_ultrasound_colour_becomes_luminance(tmp_path: Path) -> None:
    dataset = base("US", "MRN0001", "2.25.500", "2.25.500.1")
    colour = np.random.default_rng(0).integers(0, 255, (2, 20, 30, 3), dtype=np.uint8)
    put_pixels(dataset, colour[0, :, :, 0])
    dataset.SamplesPerPixel, dataset.PlanarConfiguration, dataset.PhotometricInterpretation = 3, 0, "RGB"
    dataset.NumberOfFrames, dataset.PixelData = 2, colour.tobytes()
    dataset["PixelData"].VR = "OB"
    save(dataset, tmp_path / "us.dcm")
    reading = read_scans(tmp_path)
    assert len(reading.volumes) == 2
    grey = np.rint(colour[1].astype(np.float64) @ [0.299, 0.587, 0.114])
    assert np.abs(reading.volumes[1].array[:, :, 0].T - grey).max() <= 1
    assert "colour_to_grey" in reading.flags[0]


def manifest_rows(real_data: Path) -> list[dict[str, str]]:
    with open(real_data / "dicom_single" / "manifest.csv", newline="") as handle:
        return list(csv.DictReader(handle))


# reason -> files, as the facts of manifest.csv imply
FATES = {
    "ok": "colour_us/JPGLosslessP14SV1_1s_1f_8b.dcm colour_us/OBXXXX1A_rle_2frame.dcm colour_us/US1_J2KR.dcm colour_us/color-pl.dcm "
    "xray/RG1_J2KI.dcm xray/RG2_JPLY_fixed.dcm xray/RG3_J2KR.dcm",
    "secondary_capture": "colour_us/SC_rgb_16bit.dcm colour_us/SC_ybr_full_uncompressed.dcm malformed/OT-PAL-8-face.dcm "
    "malformed/OsirixFake16BitsStoredFakeSpacing.dcm malformed/mlut_18.dcm malformed/vlut_04.dcm "
    "transfer_syntax/HTJ2KLossless_08_RGB.dcm transfer_syntax/JLSL_16_15_1_1F.dcm transfer_syntax/JPEG-LL.dcm "
    "transfer_syntax/JPEGExtended_1s_1f_u_16_12.dcm transfer_syntax/deflated.dcm",
    "duplicate_volume": "colour_us/color-px.dcm",
    "single_slice": "malformed/J2K_pixelrep_mismatch.dcm malformed/JPEGLossless_1s_1f_i_16_16_bad.dcm malformed/bad_sequence.dcm "
    "malformed/explicit_VR-UN.dcm transfer_syntax/693_J2KR.dcm transfer_syntax/CT1_JLSN.dcm "
    "transfer_syntax/JPEGLossless_1s_1f_u_16_12.dcm transfer_syntax/implicit_little.dcm",
    "derived": "malformed/MR-SIEMENS-DICOM-WithOverlays.dcm multiframe/eCT_Supplemental.dcm transfer_syntax/MR_small_RLE.dcm "
    "transfer_syntax/MR_small_jpeg_ls_lossless.dcm transfer_syntax/explicit_big.dcm",
    "truncated": "malformed/MR_truncated.dcm malformed/emri_small_jpeg_2k_lossless_too_short.dcm",
    "radiotherapy_object": "malformed/badVR.dcm malformed/no_meta_group_length.dcm malformed/rtplan_truncated.dcm non_image/rtdose.dcm "
    "non_image/rtplan.dcm non_image/rtstruct.dcm transfer_syntax/rtdose_rle.dcm",
    "unreadable": "malformed/empty_charset_LEI.dcm malformed/no_meta.dcm",
    "no_geometry": "multiframe/emri_small.dcm multiframe/emri_small_RLE.dcm "
    "multiframe/emri_small_jpeg_2k_lossless.dcm multiframe/explicit_little.dcm",
    "segmentation_object": "malformed/liver_nonbyte_aligned.dcm non_image/liver.dcm non_image/liver_rle.dcm",
    "bad_header": "malformed/meta_missing_tsyntax.dcm",
    "parametric_map": "non_image/parametric_map_float.dcm",
    "structured_report": "non_image/reportsi.dcm non_image/test-SR.dcm",
    "localizer": "transfer_syntax/MAROTECH_CT_JP2Lossy.dcm",
}


@pytest.fixture(scope="module")
def fates(real_data: Path) -> dict[str, str]:
    """What became of every file when all are read together."""
    for codec in ("gdcm", "openjpeg", "jpeg_ls", "imagecodecs"):
        pytest.importorskip(codec)
    folder = real_data / "dicom_single"
    return {str(Path(one.path).relative_to(folder)): one.reason for one in read_scans(folder).ledger}


@pytest.mark.parametrize(("name", "reason"), [(name, reason) for reason, names in FATES.items() for name in names.split()])
def test_real_single_file_ends_as_it_should(fates: dict[str, str], name: str, reason: str) -> None:
    assert fates[name] == reason


def test_no_real_single_file_is_forgotten(fates: dict[str, str], real_data: Path) -> None:
    named = {name for names in FATES.values() for name in names.split()}
    assert set(fates) - {"manifest.csv"} == named == {row["path"] for row in manifest_rows(real_data)}
    assert len(named) == 55


def test_decoded_values_are_those_of_the_manifest(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every grey single file that another decoder read: same least and greatest stored value."""
    for codec in ("gdcm", "openjpeg", "jpeg_ls", "imagecodecs"):
        pytest.importorskip(codec)
    monkeypatch.setattr("medcl.ingest.dicom_frames.why_not_an_image", lambda _: "")
    monkeypatch.setattr("medcl.ingest.dicom_frames._refuse_by_kind", lambda *_: None)
    monkeypatch.setattr("medcl.ingest.dicom_frames._volume_frames", lambda header, fields, _: _any_frame(header, fields))
    seen = 0
    for row in manifest_rows(real_data):
        if row["pixel_decode"] != "ok" or not row["photometric"].startswith("MONOCHROME") or row["bits"] in ("1/1", "/32"):
            continue
        path = str(real_data / "dicom_single" / row["path"])
        frames = read_frames(path, path, IngestConfig())
        values = np.stack([stored_values(frame) for frame in frames])
        assert (values.min(), values.max()) == (float(row["min"]), float(row["max"])), row["path"]
        seen += 1
    assert seen == 31


def _any_frame(header, fields):
    from medcl.ingest.dicom_frames import _plain_frame

    return [_plain_frame(header, fields, number) for number in range(header.pixels.frames)]


def test_a_missing_codec_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series(tmp_path, change=lambda dataset, _: dataset.compress("1.2.840.10008.1.2.5"))
    monkeypatch.setattr("medcl.ingest.dicom_pixels._PLUGINS", ())
    reading = read_scans(tmp_path)
    assert {one.reason for one in reading.ledger} == {"codec_missing", "stack_broken"}
    blamed = next(one for one in reading.ledger if one.reason == "codec_missing")
    assert "pip install 'medcl[codecs]'" in blamed.detail
    assert "pip install 'medcl[codecs]'" in REASONS["codec_missing"][1]


def test_layout_is_plain_data() -> None:
    """Frames cross process borders: nothing of pydicom may ride along."""
    assert all(not name.startswith("_") for name in PixelLayout.__dataclass_fields__)

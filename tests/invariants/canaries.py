"""A hospital's export in which every place that can hold text holds a canary: a word that exists nowhere else."""

from __future__ import annotations

import gzip
import json
import string
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.nifti1 import Nifti1Extension
from PIL import Image, PngImagePlugin
from pydicom import dcmwrite
from pydicom.datadict import dictionary_VR, keyword_dict
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

from tests.ingest.scanner import base, phantom, put_pixels

_TEXT = {"LO": 60, "SH": 16, "ST": 200, "LT": 200, "UT": 200, "UC": 60, "UR": 60, "AE": 16}
# What decides whether and how the file is read.
_STRUCTURE = {
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "StudyInstanceUID", "SeriesInstanceUID", "PatientSex",
    "FrameOfReferenceUID", "BodyPartExamined", "PatientAge", "PhotometricInterpretation", "StudyDate", "BurnedInAnnotation",
    "PresentationIntentType", "PresentationLUTShape", "RescaleType", "LossyImageCompression", "PatientBirthDate", "LanguageCodeSequence",
    "TransferSyntaxUID", "AccessionNumber", "PatientID",
}  # fmt: skip


class Cage:
    """Hands out canaries and remembers them."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def word(self) -> str:
        """Letters and digits."""
        return self._new(f"Zq{len(self.all):05d}Kw")

    def name(self) -> str:
        """Letters alone, as in a person's name."""
        number, letters = len(self.all), ""
        while number or not letters:
            number, rest = divmod(number, 26)
            letters += string.ascii_uppercase[rest]
        return self._new(f"ZQW{letters}VXJ")

    def number(self) -> str:
        """A long number."""
        return self._new(f"71{len(self.all):06d}39")

    def uid(self) -> str:
        """A UID that no one else uses."""
        return self._new(f"1.2.826.0.1.77777.{len(self.all)}.4711")

    def date(self) -> str:
        """A date of the nineteenth century."""
        number = len(self.all)
        return self._new(f"18{number // 336 % 100:02d}{number // 28 % 12 + 1:02d}{number % 28 + 1:02d}")

    def _new(self, canary: str) -> str:
        self.all.append(canary)
        return canary


def plant(root: Path) -> tuple[Path, Cage]:
    """Write the export under `root`: ct/, xray/, nifti/, pictures/, and reports.csv, reports.xlsx, labels.csv. Returns its folder."""
    cage = Cage()
    export = root / cage.word()
    for part, modality, number in (("ct", "CT", 2), ("xray", "CR", 4)):
        for k in range(number):
            _series(export / part, modality, k, cage)
    _objects(export / "ct" / cage.name(), cage)
    _broken(export / "ct" / cage.word(), cage)
    _nifti(export / "nifti", cage)
    _pictures(export / "pictures", cage)
    _tables(export, cage)
    return export, cage


def header(modality: str, patient: str, uid: str, instance: str, cage: Cage) -> Dataset:
    """A header in which every text field that DICOM knows, nested and private ones included, is a canary."""
    dataset = base(modality, patient, uid, instance)
    dataset.StudyDate, dataset.PatientBirthDate = cage.date(), cage.date()
    dataset.AccessionNumber = "ACC" + patient[-8:]
    for keyword in sorted(keyword_dict):
        if keyword not in _STRUCTURE and keyword_dict[keyword] >> 16 in range(0x0008, 0x5400) and keyword not in ("ContentSequence",):
            value = _value(dictionary_VR(keyword), cage)
            if value is not None:
                setattr(dataset, keyword, value)
    item = Dataset()
    item.PatientID, item.PatientName, item.CodeMeaning = cage.word(), cage.name(), cage.word()
    inner = Dataset()
    inner.ReferencedSOPInstanceUID, inner.TextValue = cage.uid(), cage.word()
    item.ReferencedStudySequence = Sequence([inner])
    dataset.OtherPatientIDsSequence = dataset.RequestAttributesSequence = Sequence([item])
    block = dataset.private_block(0x0029, cage.word(), create=True)
    block.add_new(0x10, "LO", cage.word())
    block.add_new(0x11, "UN", cage.word().ljust(20).encode())
    nested = Dataset()
    nested.PatientComments = cage.word()
    block.add_new(0x12, "SQ", Sequence([nested]))
    meta = dataset.file_meta
    meta.ImplementationVersionName, meta.SourceApplicationEntityTitle = cage.word(), cage.word()
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = cage.uid(), cage.word().ljust(20).encode()
    dataset.preamble = cage.word().encode().ljust(128, b"\0")
    return dataset


def _value(kind: str, cage: Cage) -> object:
    if kind in _TEXT:
        return cage.word()
    if kind == "PN":
        return f"{cage.name()}^{cage.name()}^{cage.name()}^^{cage.name()}"
    return {"DA": cage.date, "UI": cage.uid}[kind]() if kind in ("DA", "UI") else None


def _series(folder: Path, modality: str, k: int, cage: Cage) -> None:
    patient, uid = f"PZQ{k}{modality}" + cage.number(), cage.uid()
    cage.all.append(patient)
    pixels = phantom(6, 48, 56, seed=k) if modality == "CT" else phantom(1, 96, 80, seed=k)
    shared = header(modality, patient, uid, "1.2.3", cage)
    shared.PixelSpacing, shared.StudyInstanceUID = [4.0, 4.0], cage.uid()
    place = folder / f"{cage.name()}_{patient}" / cage.word()
    place.mkdir(parents=True)
    for index, plane in enumerate(pixels):
        shared.SOPInstanceUID = shared.file_meta.MediaStorageSOPInstanceUID = cage.uid()
        shared.InstanceNumber = index + 1
        shared.ImageOrientationPatient, shared.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 5.0 * index]
        put_pixels(shared, plane)
        dcmwrite(place / f"{cage.word()}.dcm", shared, enforce_file_format=True)


def _objects(folder: Path, cage: Cage) -> None:
    """What is no image: a directory, contours, a segmentation, a report whose patient is nobody's."""
    folder.mkdir(parents=True)
    for kind, sop in (("RTSTRUCT", "481.3"), ("SEG", "66.4"), ("SR", "88.11"), ("KO", "88.59"), ("OT", "7")):
        item = header("CT", "PZQ" + cage.number(), cage.uid(), cage.uid(), cage)
        item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.{sop}"
        item.Modality = kind
        region = Dataset()
        region.ROIName = region.SegmentLabel = region.TextValue = cage.word()
        region.ValueType = "TEXT"
        item.StructureSetROISequence = item.SegmentSequence = item.ContentSequence = Sequence([region])
        dcmwrite(folder / f"{cage.word()}.dcm", item, enforce_file_format=True)
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID, directory.file_meta.TransferSyntaxUID = cage.uid(), "1.2.840.10008.1.2.1"
    directory.FileSetID = cage.word()
    record = Dataset()
    record.PatientName, record.PatientID, record.ReferencedFileID = cage.name(), cage.word(), [cage.word(), cage.word()]
    directory.DirectoryRecordSequence = Sequence([record])
    dcmwrite(folder / "DICOMDIR", directory, enforce_file_format=True)


def _broken(folder: Path, cage: Cage) -> None:
    """Files that fail, each in another place, with a canary where an error message would quote it."""
    folder.mkdir(parents=True)
    for k, (keyword, value) in enumerate(_wrong(cage)):
        item = base("CT", "PZQ" + cage.number(), cage.uid(), cage.uid())
        put_pixels(item, phantom(1, 48, 56, seed=70 + k)[0])
        item.ImageOrientationPatient, item.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
        item.PixelSpacing = [1, 1]
        item.add_new(keyword, "LO", value)
        dcmwrite(folder / f"{cage.word()}.dcm", item, enforce_file_format=False)
    whole = (folder / f"{cage.word()}.dcm", header("CT", "PZQ" + cage.number(), cage.uid(), cage.uid(), cage))
    put_pixels(whole[1], phantom(1, 48, 56)[0])
    dcmwrite(whole[0], whole[1], enforce_file_format=True)
    whole[0].write_bytes(whole[0].read_bytes()[:-3000])
    (folder / f"{cage.word()}.txt").write_text(cage.word())
    (folder / f"{cage.word()}.dcm").write_bytes(b"\0" * 128 + b"DICM" + cage.word().encode() * 20)
    (folder / f"{cage.word()}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + cage.word().encode() * 9)
    (folder / f"{cage.word()}.nii.gz").write_bytes(gzip.compress(cage.word().encode() * 200))
    (folder / f"{cage.word()}.npz").write_bytes(b"PK\x03\x04" + cage.word().encode() * 9)


def _wrong(cage: Cage) -> Iterator[tuple[str, str]]:
    """Fields in which letters are wrong, with letters in them."""
    for keyword in ("PixelSpacing", "ImagePositionPatient", "InstanceNumber", "NumberOfFrames", "RescaleSlope", "Modality", "ImageType",
                    "BodyPartExamined", "PatientSex", "PatientAge", "PhotometricInterpretation", "RescaleType"):  # fmt: skip
        yield keyword, cage.word()


def _nifti(folder: Path, cage: Cage) -> None:
    for _ in range(2):
        subject = f"sub-{cage.word()}"
        place = folder / subject / f"ses-{cage.word()}" / "anat"
        place.mkdir(parents=True)
        array = phantom(10, 20, 24, seed=len(cage.all)).transpose(2, 1, 0)
        image = nib.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0]))
        for key in ("descrip", "aux_file", "intent_name", "db_name"):
            image.header[key] = cage.word().encode()
        for code in (4, 6, 44):
            image.header.extensions.append(Nifti1Extension(code, cage.word().encode()))
        image.header.set_xyzt_units("mm")
        stem = place / f"{subject}_{cage.word()}_T1w"
        nib.save(image, f"{stem}.nii.gz")
        Path(f"{stem}.json").write_text(json.dumps({"PatientName": cage.name(), "InstitutionName": cage.word(), "SeriesUID": cage.uid()}))
        mask = nib.Nifti1Image((array > 1100).astype(np.uint8), image.affine)
        mask.header["descrip"] = cage.word().encode()
        nib.save(mask, f"{stem}_mask.nii.gz")


def _pictures(folder: Path, cage: Cage) -> None:
    folder.mkdir(parents=True)
    for k, suffix in enumerate(("png", "jpg", "tif")):
        picture = Image.fromarray((phantom(1, 96, 80, seed=40 + k)[0] // 12).astype(np.uint8))
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", cage.word())
        text.add_text("Comment", cage.word(), zip=True)
        text.add_itxt("Title", cage.word(), zip=True)
        exif = Image.Exif()
        exif[0x010E], exif[0x013B], exif[0x8298] = cage.word(), cage.name(), cage.word()
        more = {"png": {"pnginfo": text}, "jpg": {"exif": exif, "comment": cage.word()}, "tif": {"description": cage.word()}}[suffix]
        picture.save(folder / f"{cage.word()}.{suffix}", **more)
    extra = {
        "patient_names": np.array([cage.name(), cage.name()]),
        "train_images": np.zeros((2, 32, 32), np.uint8) + np.eye(32, dtype=np.uint8),
    }
    np.savez(folder / f"{cage.word()}.npz", **extra, train_labels=np.array([[0], [1]]))


def _tables(export: Path, cage: Cage) -> None:
    from pydicom import dcmread

    rows = []
    for path in sorted((export / "xray").rglob("*.dcm")):
        item = dcmread(path, stop_before_pixels=True)
        family, given = str(item.PatientName).split("^")[:2]
        doctor = str(item.ReferringPhysicianName).split("^")[0]
        rows.append(
            {
                "AccessionNumber": item.AccessionNumber, "PatientID": item.PatientID, "StudyInstanceUID": item.StudyInstanceUID,
                "PatientName": str(item.PatientName), "Radiologist": cage.name(), "Remark": cage.word(), "exam_date": cage.date(),
                "report": f"Patient: {given} {family}, {item.PatientID}, MRN: {cage.number()}, born {item.PatientBirthDate}.\n"
                f"Referred by Dr. {doctor} and Prof. {cage.name().title()}. Tel. {cage.number()}. {cage.word()}.\n"
                f"Findings: The left lung is clear, study {item.AccessionNumber}. Small right effusion.\n"
                f"Impression: Small right effusion. Signed by {cage.name().title()} {cage.name().title()}, {cage.date()}.",
            }
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(export / "reports.csv", index=False)
    pd.DataFrame(rows).to_excel(export / "reports.xlsx", index=False)
    labels = [{**{name: row[name] for name in list(row)[:6]}, "effusion": k % 2} for k, row in enumerate(rows)]
    pd.DataFrame(labels).to_csv(export / "labels.csv", index=False)

"""A scanner that writes DICOM series with the faults that tests ask for; every text tag carries a canary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

CT, MR, CR, ENHANCED_MR = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "1", "4.1"))
CANARY = "CANARY"
Change = Callable[[Dataset, int], None]


def phantom(slices: int = 8, rows: int = 20, columns: int = 24, seed: int = 0) -> np.ndarray:
    """(slices, rows, columns) int16 stored values, 0 to 3000, no two slices alike, not symmetric in any axis."""
    z, y, x = np.mgrid[0:slices, 0:rows, 0:columns]
    noise = np.random.default_rng(seed).integers(0, 50, (slices, rows, columns))
    inside = (y - rows * 0.45) ** 2 / (rows * 0.4) ** 2 + (x - columns * 0.55) ** 2 / (columns * 0.35) ** 2 < 1
    return np.where(inside, 1024 + 20 * z + 3 * x + 2 * y, 0).astype(np.int16) + noise.astype(np.int16)


def series(
    folder: Path,
    pixels: np.ndarray | None = None,
    *,
    modality: str = "CT",
    patient: str = "MRN0001",
    uid: str = "2.25.100",
    spacing: tuple[float, float, float] = (0.8, 0.9, 2.5),
    origin: tuple[float, float, float] = (-10.0, -20.0, 30.0),
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    positions: list[tuple[float, float, float]] | None = None,
    change: Change | None = None,
    syntax: str = ExplicitVRLittleEndian,
    names: Callable[[int], str] = lambda index: f"IM{index:04d}.dcm",
    preamble: bool = True,
) -> Path:
    """Write one file per slice. spacing: between columns, between rows, between slices. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = phantom() if pixels is None else pixels
    across = np.cross(orientation[:3], orientation[3:])
    for index, plane in enumerate(pixels):
        dataset = base(modality, patient, uid, f"{uid}.{index + 1}", syntax)
        place = positions[index] if positions else tuple(np.array(origin) + across * spacing[2] * index)
        dataset.ImagePositionPatient = [f"{number:.6f}" for number in place]
        dataset.ImageOrientationPatient = [f"{number:.10f}"[:16] for number in orientation]
        dataset.PixelSpacing = [spacing[1], spacing[0]]
        dataset.InstanceNumber = index + 1
        put_pixels(dataset, plane)
        if change:
            change(dataset, index)
        save(dataset, folder / names(index), syntax, preamble)
    return folder


def base(modality: str, patient: str, uid: str, instance: str, syntax: str = ExplicitVRLittleEndian) -> FileDataset:
    """A header without geometry and pixels. Every free text is a canary."""
    sop = {
        "CT": CT,
        "MR": MR,
        "CR": CR,
        "DX": "1.2.840.10008.5.1.4.1.1.1.1",
        "US": "1.2.840.10008.5.1.4.1.1.6.1",
        "PT": "1.2.840.10008.5.1.4.1.1.128",
    }
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop.get(modality, "1.2.840.10008.5.1.4.1.1.7")
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = syntax
    implicit, little = syntax == "1.2.840.10008.1.2", syntax != "1.2.840.10008.1.2.2"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=implicit, is_little_endian=little)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, instance
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality = modality
    dataset.PatientID, dataset.PatientName = patient, f"{CANARY}LAST^{CANARY}FIRST"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = "19300102", "F", "095Y"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{uid}.1000{len(patient)}", uid
    dataset.FrameOfReferenceUID = f"{uid}.2000"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20210304"
    dataset.StudyTime = dataset.SeriesTime = "101112"
    dataset.AccessionNumber = f"ACC{patient[-4:]}"
    dataset.InstitutionName, dataset.ReferringPhysicianName = f"{CANARY} Hospital", f"{CANARY}DOC^X"
    dataset.StudyDescription = dataset.SeriesDescription = dataset.ProtocolName = f"{CANARY} text"
    dataset.BodyPartExamined = "CHEST"
    dataset.PatientComments, dataset.DeviceSerialNumber = f"{CANARY} comment", f"{CANARY}SN"
    dataset.PatientAddress, dataset.OtherPatientIDs = f"{CANARY} Street 1", f"{CANARY}OTHER"
    block = dataset.private_block(0x0019, f"{CANARY} PRIVATE", create=True)
    block.add_new(0x01, "LO", f"{CANARY} private value")
    if modality == "CT":
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
        dataset.KVP = 120
    if modality == "MR":
        dataset.EchoTime, dataset.RepetitionTime = 12.5, 500
    return dataset


def put_pixels(dataset: Dataset, plane: np.ndarray, bits_stored: int | None = None) -> None:
    """Uncompressed grey pixels of the array's own integer type."""
    dataset.Rows, dataset.Columns = plane.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = plane.dtype.itemsize * 8
    dataset.BitsStored = bits_stored or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(plane.dtype.kind == "i")
    order = "<" if getattr(dataset, "file_meta", None) is None or dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    dataset.PixelData = plane.astype(plane.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OW"


def save(dataset: FileDataset, path: Path, syntax: str = ExplicitVRLittleEndian, preamble: bool = True) -> None:
    """Write a file, without preamble and meta group where asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if preamble:
        dataset.save_as(path, enforce_file_format=True)
        return
    bare = Dataset(dataset)
    implicit = syntax == "1.2.840.10008.1.2"
    bare.save_as(path, implicit_vr=implicit, little_endian=syntax != "1.2.840.10008.1.2.2", enforce_file_format=False)


def enhanced(path: Path, pixels: np.ndarray, places: list[tuple[float, float, float]], slopes: list[float], order: list[int]) -> Path:
    """One enhanced MR file; frame k holds plane order[k]."""
    dataset = base("MR", "MRN0001", "2.25.300", "2.25.300.1")
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ENHANCED_MR
    shared = Dataset()
    shared.PlaneOrientationSequence = Sequence([_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])])
    shared.PixelMeasuresSequence = Sequence([_item(PixelSpacing=[0.9, 0.8], SliceThickness=2.5)])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for plane in order:
        group = Dataset()
        group.PlanePositionSequence = Sequence([_item(ImagePositionPatient=list(places[plane]))])
        group.PixelValueTransformationSequence = Sequence([_item(RescaleSlope=slopes[plane], RescaleIntercept=0, RescaleType="US")])
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    put_pixels(dataset, pixels[order])
    dataset.NumberOfFrames = len(order)
    save(dataset, path)
    return path


def _item(**values: object) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def change_to(**values: object) -> Change:
    """A change that sets these fields on every slice."""

    def change(dataset: Dataset, _: int) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)

    return change

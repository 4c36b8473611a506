"""A scanner that writes DICOM series with the faults that tests ask for; every text tag carries a canary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

CT, MR, CR = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "1"))
_ENHANCED = {"MR": "1.2.840.10008.5.1.4.1.1.4.1", "CT": "1.2.840.10008.5.1.4.1.1.2.1", "PT": "1.2.840.10008.5.1.4.1.1.130"}
CANARY = "CANARY"
SPACING, ORIGIN, AXIAL = (0.8, 0.9, 2.5), (-10.0, -20.0, 30.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
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
    spacing: tuple[float, float, float] = SPACING,
    origin: tuple[float, float, float] = ORIGIN,
    orientation: tuple[float, ...] = AXIAL,
    positions: list[tuple[float, float, float]] | None = None,
    change: Change | None = None,
    syntax: str = ExplicitVRLittleEndian,
    names: Callable[[int], str] = lambda index: f"IM{index:04d}.dcm",
    preamble: bool = True,
    first: int = 0,
) -> Path:
    """Write one file per slice. spacing: between columns, between rows, between slices. Returns the folder.

    first: number of the first file, for a further stack of the same series.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixels = phantom() if pixels is None else pixels
    across = np.cross(orientation[:3], orientation[3:])
    for index, plane in enumerate(pixels):
        dataset = base(modality, patient, uid, f"{uid}.{first + index + 1}", syntax)
        place = positions[index] if positions else tuple(np.array(origin) + across * spacing[2] * index)
        dataset.ImagePositionPatient = [f"{number:.6f}" for number in place]
        dataset.ImageOrientationPatient = [f"{number:.10f}"[:16] for number in orientation]
        dataset.PixelSpacing = [spacing[1], spacing[0]]
        dataset.InstanceNumber = first + index + 1
        put_pixels(dataset, plane)
        if change:
            change(dataset, index)
        save(dataset, folder / names(first + index), syntax, preamble)
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
        "XA": "1.2.840.10008.5.1.4.1.1.12.1",
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


def enhanced(path: Path, pixels: np.ndarray, groups: list[Dataset], modality: str = "MR", change: Change | None = None) -> Path:
    """One enhanced multi-frame file: frame k has the functional groups groups[k] and no others."""
    dataset = base(modality, "MRN0001", "2.25.300", "2.25.300.1")
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = _ENHANCED[modality]
    for name in ("RescaleSlope", "RescaleIntercept", "RescaleType", "EchoTime", "KVP"):
        if name in dataset:
            delattr(dataset, name)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    put_pixels(dataset, pixels)
    dataset.NumberOfFrames = len(pixels)
    if change:
        change(dataset, 0)
    save(dataset, path)
    return path


def functional_group(position: tuple[float, ...], orientation: tuple[float, ...] = AXIAL, **macros: Dataset) -> Dataset:
    """What an enhanced file says of one frame. macros: sequences by keyword, one item each."""
    group = Dataset()
    group.PlanePositionSequence = Sequence([item(ImagePositionPatient=list(position))])
    group.PlaneOrientationSequence = Sequence([item(ImageOrientationPatient=list(orientation))])
    group.PixelMeasuresSequence = Sequence([item(PixelSpacing=[SPACING[1], SPACING[0]], SliceThickness=SPACING[2])])
    for keyword, macro in macros.items():
        setattr(group, keyword, Sequence([macro]))
    return group


def item(**values: object) -> Dataset:
    """A data set of these fields, to put into a sequence."""
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def change_to(**values: object) -> Change:
    """A change that sets these fields on every slice."""

    def change(dataset: Dataset, _: int) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)

    return change

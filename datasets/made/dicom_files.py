"""DICOM as a scanner writes it: full headers with invented identifiers, one file per slice or picture."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from .chance import uid
from .people import ADDRESS, INSTITUTION, Visit

CT_CLASS, CR_CLASS, DX_CLASS = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
_NUMBER, _PLACE = "918273", "4546.474"  # stand-ins in the header of a slice, as long as what replaces them
_CLASS_OF = {"CT": CT_CLASS, "CR": CR_CLASS, "DX": DX_CLASS}


@dataclass(frozen=True)
class Stored:
    """How pixels are stored: stored = (value - intercept) / slope."""

    slope: float = 1.0
    intercept: float = -1024.0
    padding: int | None = None


def header(seed: int, visit: Visit, modality: str, series: int, description: str) -> Dataset:
    """Everything but geometry and pixels."""
    person, item = visit.person, Dataset()
    key = (visit.person.index, visit.study, series)
    item.SpecificCharacterSet = "ISO_IR 100"
    item.SOPClassUID = _CLASS_OF[modality]
    item.SOPInstanceUID = uid(seed, f"{visit.part} instance", *key, 0)
    item.StudyInstanceUID = uid(seed, f"{visit.part} study", *key[:2])
    item.SeriesInstanceUID = uid(seed, f"{visit.part} series", *key)
    item.FrameOfReferenceUID = uid(seed, f"{visit.part} frame", *key[:2])
    item.StudyDate = item.SeriesDate = item.AcquisitionDate = item.ContentDate = visit.date
    item.StudyTime = item.SeriesTime = item.AcquisitionTime = item.ContentTime = visit.time
    item.AccessionNumber, item.StudyID, item.Modality = visit.accession, visit.accession[-6:], modality
    item.Manufacturer, item.ManufacturerModelName, item.DeviceSerialNumber = "MADE MEDICAL", "PHANTOM 64", "SN" + visit.accession[3:8]
    item.InstitutionName, item.InstitutionAddress, item.StationName = INSTITUTION, ADDRESS, "ROOM-3-EAST"
    item.ReferringPhysicianName = item.PerformingPhysicianName = visit.physician
    item.OperatorsName = "KNOBTURNER^WILMA"
    item.StudyDescription, item.SeriesDescription, item.ProtocolName = f"{modality} CHEST {person.family}", description, description
    item.PatientName, item.PatientID, item.PatientBirthDate, item.PatientSex = person.name, person.patient_id, person.birth_date, person.sex
    item.PatientAge, item.PatientTelephoneNumbers, item.OtherPatientIDs = f"{visit.age_years:03d}Y", person.phone, "X" + person.patient_id
    item.PatientAddress, item.PatientComments = f"{person.index + 1} CANARY ROW, EREWHON", f"CALL {person.phone} ASK FOR {person.family}"
    item.BodyPartExamined, item.SeriesNumber, item.AcquisitionNumber = "CHEST", series, 1
    private = item.private_block(0x0029, "MADE MEDICAL HEADER", create=True)
    private.add_new(0x10, "LO", f"OPERATOR NOTE {person.name} {person.patient_id}")
    private.add_new(0x11, "UN", f"RAW {person.patient_id} {visit.accession}".ljust(64).encode())
    return item


def add_pixels(item: Dataset, pixels: np.ndarray, spacing_mm: tuple[float, float], bits: int = 16) -> None:
    """Image size, bits and the (rows, columns) pixels; `spacing_mm` between rows, then between columns."""
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.Rows, item.Columns = pixels.shape
    item.PixelSpacing = [f"{spacing_mm[0]:.4f}", f"{spacing_mm[1]:.4f}"]
    item.BitsAllocated, item.BitsStored, item.HighBit = 16, bits, bits - 1
    item.PixelRepresentation = int(pixels.dtype == np.int16)
    item.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()


def to_bytes(item: Dataset, implicit: bool = False) -> bytes:
    """A whole DICOM file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = item.SOPClassUID, item.SOPInstanceUID
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = UID("2.25.20190107"), "MADE_COHORT"
    item.file_meta = meta
    target = io.BytesIO()
    item.save_as(target, enforce_file_format=True)
    return target.getvalue()


def ct_series(
    seed: int, visit: Visit, hu: np.ndarray, spacing_mm: tuple[float, float, float], stored: Stored, reverse: bool
) -> list[bytes]:
    """One file per slice of `hu` (z, y, x), from feet to head; InstanceNumber counts from the head where `reverse`.

    Slices share one header: it is written once, and its few changing fields, all of fixed length, are patched in the bytes.
    """
    item = header(seed, visit, "CT", 2, "CHEST AXIAL 5MM SOFT")
    item.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    item.KVP, item.SliceThickness, item.ConvolutionKernel, item.PatientPosition = "120", f"{spacing_mm[0]:.2f}", "B30f", "HFS"
    item.RescaleSlope, item.RescaleIntercept, item.RescaleType = f"{stored.slope:g}", f"{stored.intercept:g}", "HU"
    item.WindowCenter, item.WindowWidth = "40", "400"
    item.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    if stored.padding is not None:
        item.add_new(0x00280120, "SS", stored.padding)
    pixels = stored_values(hu, stored)
    x, y, z = origin_mm(hu.shape, spacing_mm)
    item.InstanceNumber, item.SliceLocation, item.ImagePositionPatient = _NUMBER, _PLACE, [f"{x:.4f}", f"{y:.4f}", _PLACE]
    add_pixels(item, pixels[0], spacing_mm[1:])
    whole, size = to_bytes(item), pixels[0].nbytes
    head, old_uid = whole[:-size], str(item.SOPInstanceUID).encode()
    files = []
    for k, picture in enumerate(pixels):
        new_uid = uid(seed, f"{visit.part} instance", visit.person.index, visit.study, 2, k).encode()
        number = len(pixels) - k if reverse else k + 1
        patched = head.replace(old_uid, new_uid).replace(_NUMBER.encode(), f"{number:06d}".encode())
        patched = patched.replace(_PLACE.encode(), f"{z + k * spacing_mm[0]:08.3f}".encode())
        files.append(patched + picture.astype("<i2").tobytes())
    return files


def stored_values(hu: np.ndarray, stored: Stored) -> np.ndarray:
    """Signed 16-bit values of `hu`; voxels outside the scanner's round field get the padding value where there is one."""
    values = np.round((hu.astype(np.float32) - stored.intercept) / stored.slope).astype(np.int16)
    if stored.padding is not None:
        axes = [np.linspace(-1, 1, n) for n in hu.shape[1:]]
        outside = axes[0][:, None] ** 2 + axes[1][None, :] ** 2 > 1.25
        values[:, outside] = stored.padding
    return values


def origin_mm(shape: tuple[int, ...], spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """Centre of the first voxel of a (z, y, x) volume in DICOM's world (x, y, z), rounded as the header states it."""
    z, y, x = (-(n - 1) / 2 * s for n, s in zip(shape, spacing_mm, strict=True))
    return round(x, 4), round(y - 20.0, 4), round(z - 140.0, 3)


def localizer(seed: int, visit: Visit, hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> bytes:
    """The scout: a coronal projection in a series of its own, which is no slice of the volume."""
    item = header(seed, visit, "CT", 1, "SCOUT AP")
    item.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    item.InstanceNumber, item.KVP, item.PatientPosition = "1", "120", "HFS"
    item.RescaleSlope, item.RescaleIntercept, item.RescaleType = "1", "-1024", "HU"
    item.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
    x, y, z = origin_mm(hu.shape, spacing_mm)
    top = z + (len(hu) - 1) * spacing_mm[0]
    item.ImagePositionPatient = [f"{x:.4f}", f"{y:.4f}", f"{top:.3f}"]
    projection = np.clip((hu[::-1].astype(np.float32) + 1000).mean(axis=1) - 200, -1024, 2000) + 1024
    add_pixels(item, projection.astype(np.int16), (spacing_mm[0], spacing_mm[2]))
    return to_bytes(item)


def radiograph(seed: int, visit: Visit, picture: np.ndarray, spacing_mm: float, modality: str, inverted: bool, implicit: bool) -> bytes:
    """One X-ray: `picture` is (rows, columns) in [0, 1], white is dense; 12 bits in 16. `inverted` stores it as MONOCHROME1."""
    item = header(seed, visit, modality, 1, "CHEST PA")
    item.ImageType, item.ViewPosition, item.InstanceNumber = ["ORIGINAL", "PRIMARY"], "PA", "1"
    item.WindowCenter, item.WindowWidth = "2048", "4096"
    values = np.round(np.clip(picture, 0, 1) * 4095).astype(np.uint16)
    add_pixels(item, 4095 - values if inverted else values, (spacing_mm, spacing_mm), bits=12)
    item.ImagerPixelSpacing = item.PixelSpacing
    if inverted:
        item.PhotometricInterpretation = "MONOCHROME1"
    return to_bytes(item, implicit)

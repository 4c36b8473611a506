"""The header fields that medcl looks at, and nothing else: a keep-list with a forgiving parser for each kind of value."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataset import Dataset

# keyword -> (tag, how its bytes are read). `text` and `number` are DICOM's character strings, `short` is US or SS.
TAGS: dict[str, tuple[int, str]] = {
    "SpecificCharacterSet": (0x00080005, "text"), "ImageType": (0x00080008, "text"),
    "SOPClassUID": (0x00080016, "text"), "SOPInstanceUID": (0x00080018, "text"),
    "StudyDate": (0x00080020, "text"), "SeriesDate": (0x00080021, "text"),
    "TimezoneOffsetFromUTC": (0x00080201, "text"), "SeriesTime": (0x00080031, "text"), "AcquisitionTime": (0x00080032, "text"),
    "ContentTime": (0x00080033, "text"), "AccessionNumber": (0x00080050, "text"), "Modality": (0x00080060, "text"),
    "Manufacturer": (0x00080070, "text"), "PresentationIntentType": (0x00080068, "text"), "ComplexImageComponent": (0x00089208, "text"),
    "InstitutionName": (0x00080080, "text"), "ReferringPhysicianName": (0x00080090, "text"),
    "PerformingPhysicianName": (0x00081050, "text"), "OperatorsName": (0x00081070, "text"),
    "NameOfPhysiciansReadingStudy": (0x00081060, "text"),
    "PatientName": (0x00100010, "text"), "PatientID": (0x00100020, "text"), "PatientBirthDate": (0x00100030, "text"),
    "PatientSex": (0x00100040, "text"), "OtherPatientIDs": (0x00101000, "text"), "PatientAge": (0x00101010, "text"),
    "PatientWeight": (0x00101030, "number"),
    "BodyPartExamined": (0x00180015, "text"), "SliceThickness": (0x00180050, "number"), "KVP": (0x00180060, "number"),
    "RepetitionTime": (0x00180080, "number"), "EchoTime": (0x00180081, "number"), "InversionTime": (0x00180082, "number"),
    "EchoNumbers": (0x00180086, "number"), "MagneticFieldStrength": (0x00180087, "number"), "FlipAngle": (0x00181314, "number"),
    "TriggerTime": (0x00181060, "number"), "GantryDetectorTilt": (0x00181120, "number"), "XRayTubeCurrent": (0x00181151, "number"),
    "ImagerPixelSpacing": (0x00181164, "number"), "ConvolutionKernel": (0x00181210, "text"), "SpacingBetweenSlices": (0x00180088, "number"),
    "DiffusionBValue": (0x00189087, "double"), "DiffusionGradientOrientation": (0x00189089, "double"),
    "ComplexPartGE": (0x0043102F, "short"),
    "StudyInstanceUID": (0x0020000D, "text"), "SeriesInstanceUID": (0x0020000E, "text"), "StudyID": (0x00200010, "text"),
    "AcquisitionNumber": (0x00200012, "number"), "InstanceNumber": (0x00200013, "number"), "ImagePositionPatient": (0x00200032, "number"),
    "ImageOrientationPatient": (0x00200037, "number"), "FrameOfReferenceUID": (0x00200052, "text"),
    "TemporalPositionIdentifier": (0x00200100, "number"),
    "SamplesPerPixel": (0x00280002, "short"), "PhotometricInterpretation": (0x00280004, "text"),
    "PlanarConfiguration": (0x00280006, "short"),
    "NumberOfFrames": (0x00280008, "number"), "Rows": (0x00280010, "short"), "Columns": (0x00280011, "short"),
    "PixelSpacing": (0x00280030, "number"), "BitsAllocated": (0x00280100, "short"), "BitsStored": (0x00280101, "short"),
    "HighBit": (0x00280102, "short"), "PixelRepresentation": (0x00280103, "short"), "PixelPaddingValue": (0x00280120, "short"),
    "BurnedInAnnotation": (0x00280301, "text"), "RescaleIntercept": (0x00281052, "number"), "RescaleSlope": (0x00281053, "number"),
    "RescaleType": (0x00281054, "text"), "LossyImageCompression": (0x00282110, "text"),
    "Units": (0x00541001, "text"), "SUVType": (0x00541006, "text"),
    "DecayCorrection": (0x00541102, "text"), "PresentationLUTShape": (0x20500020, "text"),
}  # fmt: skip
SEQUENCES: dict[str, int] = {
    "ModalityLUTSequence": 0x00283000,
    "RadiopharmaceuticalInformationSequence": 0x00540016,
    "SharedFunctionalGroupsSequence": 0x52009229,
    "PerFrameFunctionalGroupsSequence": 0x52009230,
}
PIXEL_TAGS = {0x7FE00010: "", 0x7FE00008: "float32", 0x7FE00009: "float64"}
WANTED = [*(tag for tag, _ in TAGS.values()), *SEQUENCES.values()]
_DELIMITERS = set(b"\\^=\r\n\t\f")  # where a name that changes alphabets begins with the first one again
_PADDING = " \0\r\n\t"
_CHARACTER_VRS = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}


class Fields:
    """The wanted fields of one data set (a file, or an item of a sequence). A field that is broken reads as absent."""

    def __init__(self, by_tag: Mapping[int, Any], file_class: str = "") -> None:
        """by_tag: elements as pydicom holds them until someone asks: nothing is parsed here. file_class: of the file's meta information."""
        self._by_tag, self.file_class = by_tag, file_class

    @classmethod
    def of(cls, dataset: Dataset) -> Fields:
        """The fields of pydicom's data set."""
        return cls({int(element.tag): element for element in dataset.values()})

    @cached_property
    def _dataset(self) -> Dataset:
        """For what only pydicom can decode."""
        return Dataset({element.tag: element for element in self._by_tag.values()})

    def text(self, keyword: str) -> str:
        """The first value, stripped; empty where absent."""
        found = self.texts(keyword)
        return found[0] if found else ""

    def texts(self, keyword: str) -> tuple[str, ...]:
        """All values, stripped."""
        element = self._by_tag.get(TAGS[keyword][0])
        if element is None:
            return ()
        content = element.value
        if isinstance(content, bytes):
            decoded = self._decoded(content).strip(_PADDING)
            return tuple([part.strip(_PADDING) for part in decoded.split("\\")]) if decoded else ()
        return () if content is None else tuple(str(part) for part in _listed(content))

    def _decoded(self, content: bytes) -> str:
        """UTF-8 where it is that, whatever the header says of itself; else what the header says, else Latin-1."""
        if b"\x1b" not in content:
            with suppress(UnicodeDecodeError):
                return content.decode("utf-8")
        element = self._by_tag.get(TAGS["SpecificCharacterSet"][0])
        said = _decoded(element.value) if element is not None and isinstance(element.value, bytes) else ""
        try:
            encodings = convert_encodings([part.strip(_PADDING) for part in said.split("\\")])
            return decode_bytes(content, encodings, _DELIMITERS) if said.strip(_PADDING) else _decoded(content)
        except (LookupError, ValueError):
            return _decoded(content)

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """All values as finite numbers; empty where one of them is not a number."""
        tag, kind = TAGS[keyword]
        element = self._by_tag.get(tag)
        if element is None:
            return ()
        content = element.value
        try:
            if isinstance(content, bytes):
                found = _parse(element, content, kind)
            else:
                found = () if content is None else tuple(float(part) for part in _listed(content))
        except (ValueError, TypeError, OverflowError):
            return ()
        return found if all(map(math.isfinite, found)) else ()

    def number(self, keyword: str, default: float | None = None) -> float | None:
        """The first value, `default` where absent or broken."""
        found = self.numbers(keyword)
        return found[0] if found else default

    def whole(self, keyword: str, default: int = 0) -> int:
        """The first value as a whole number."""
        found = self.number(keyword)
        return default if found is None else int(found)

    def has(self, keyword: str) -> bool:
        """Whether the field is there at all, broken or not."""
        return (TAGS[keyword][0] if keyword in TAGS else SEQUENCES[keyword]) in self._by_tag

    def items(self, keyword: str) -> list[Fields]:
        """The items of a sequence, by DICOM keyword."""
        try:
            return [Fields.of(item) for item in self._dataset.get(keyword) or ()]
        except Exception:  # pydicom raises many kinds on a broken sequence
            return []

    def raw(self, keyword: str) -> Any:
        """Any other value through pydicom, None where absent or broken."""
        try:
            return self._dataset.get(keyword)
        except Exception:  # pydicom raises many kinds on a broken value
            return None


def _parse(element: Any, content: bytes, kind: str) -> tuple[float, ...]:
    """The numbers in the undecoded bytes of an element."""
    vr = getattr(element, "VR", None)
    if kind == "number" or vr in _CHARACTER_VRS:
        words = [word.strip(" \0") for word in _decoded(content).split("\\")]
        return tuple([float(word) for word in words if word])
    order: Any = "little" if getattr(element, "is_little_endian", True) else "big"
    if kind == "double":
        count = len(content) // 8
        return struct.unpack(f"{'<' if order == 'little' else '>'}{count}d", content[: count * 8])
    signed = vr == "SS"
    return tuple([float(int.from_bytes(content[at : at + 2], order, signed=signed)) for at in range(0, len(content) - 1, 2)])


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _listed(content: Any) -> list[Any]:
    return [content] if isinstance(content, str) or not hasattr(content, "__iter__") else list(content)

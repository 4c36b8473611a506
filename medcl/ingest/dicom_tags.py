"""The header fields that medcl looks at, and nothing else: a keep-list with a forgiving parser for each kind of value."""

from __future__ import annotations

import math
import struct
from contextlib import suppress
from typing import Any

from pydicom.dataset import Dataset

# keyword -> (tag, how its bytes are read). `text` and `number` are DICOM's character strings, `short` is US or SS.
TAGS: dict[str, tuple[int, str]] = {
    "ImageType": (0x00080008, "text"), "SOPClassUID": (0x00080016, "text"), "SOPInstanceUID": (0x00080018, "text"),
    "StudyDate": (0x00080020, "text"), "SeriesDate": (0x00080021, "text"),
    "SeriesTime": (0x00080031, "text"), "AcquisitionTime": (0x00080032, "text"),
    "ContentTime": (0x00080033, "text"), "AccessionNumber": (0x00080050, "text"), "Modality": (0x00080060, "text"),
    "PresentationIntentType": (0x00080068, "text"), "ComplexImageComponent": (0x00089208, "text"),
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
WANTED: list[Any] = [*(tag for tag, _ in TAGS.values()), *SEQUENCES.values()]
_CHARACTER_VRS = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}


class Fields:
    """The wanted fields of one data set (a file, or an item of a sequence). A field that is broken reads as absent."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._elements: dict[int, Any] = {}
        for tag in list(dataset.keys()):
            # pydicom raises many kinds of error on a broken element; such a field reads as absent
            with suppress(Exception):
                self._elements[int(tag)] = dataset.get_item(tag)

    def text(self, keyword: str) -> str:
        """The first value, stripped; empty where absent."""
        found = self.texts(keyword)
        return found[0] if found else ""

    def texts(self, keyword: str) -> tuple[str, ...]:
        """All values, stripped."""
        content = self._content(TAGS[keyword][0])
        if isinstance(content, bytes):
            decoded = _decoded(content)
            return tuple(part.strip(" \0\r\n\t") for part in decoded.split("\\")) if decoded.strip(" \0") else ()
        return () if content is None else tuple(str(part) for part in _listed(content))

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """All values as finite numbers; empty where one of them is not a number."""
        kind = TAGS[keyword][1]
        content = self._content(TAGS[keyword][0])
        try:
            if isinstance(content, bytes):
                found = self._parse(content, kind, TAGS[keyword][0])
            else:
                found = () if content is None else tuple(float(part) for part in _listed(content))
        except (ValueError, TypeError, OverflowError):
            return ()
        return found if all(math.isfinite(number) for number in found) else ()

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
        return (TAGS[keyword][0] if keyword in TAGS else SEQUENCES[keyword]) in self._elements

    def items(self, keyword: str) -> list[Fields]:
        """The items of a sequence, by DICOM keyword."""
        try:
            return [Fields(item) for item in self.dataset.get(keyword) or ()]
        except Exception:  # pydicom raises many kinds on a broken sequence
            return []

    def raw(self, keyword: str) -> Any:
        """Any other value through pydicom, None where absent or broken."""
        try:
            return self.dataset.get(keyword)
        except Exception:  # pydicom raises many kinds on a broken value
            return None

    def _content(self, tag: int) -> Any:
        """Undecoded bytes where pydicom has not touched the element, else its value."""
        element = self._elements.get(tag)
        return None if element is None else element.value

    def _parse(self, content: bytes, kind: str, tag: int) -> tuple[float, ...]:
        element = self._elements[tag]
        order = "little" if getattr(element, "is_little_endian", True) else "big"
        vr = getattr(element, "VR", None)
        if kind == "number" or (vr in _CHARACTER_VRS and kind != "number"):
            words = _decoded(content).split("\\")
            return tuple(float(word.strip(" \0")) for word in words if word.strip(" \0"))
        if kind == "double":
            count = len(content) // 8
            return struct.unpack(f"{'<' if order == 'little' else '>'}{count}d", content[: count * 8])
        signed = vr == "SS"
        return tuple(float(int.from_bytes(content[at : at + 2], order, signed=signed)) for at in range(0, len(content) - 1, 2))  # type: ignore[arg-type]


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _listed(content: Any) -> list[Any]:
    return [content] if isinstance(content, str) or not hasattr(content, "__iter__") else list(content)

"""DICOM files to frames: plain files give one, enhanced multi-frame objects one per functional group."""

from __future__ import annotations

import math
from typing import Any

from medcl.ingest.dicom_header import Frame, Header, Patient, PixelLayout, check_layout, open_header, quiet_pydicom, why_not_an_image
from medcl.ingest.dicom_suv import suv_factor
from medcl.ingest.dicom_tags import Fields
from medcl.ingest.ledger import Refused
from medcl.ingest.privacy import cap_age
from medcl.ingest.records import modality_name
from medcl.ingest.settings import IngestConfig

VOLUME_MODALITIES = {"CT", "MR", "PT", "NM"}
PICTURE_MODALITIES = {"CR", "DX", "MG", "US", "XA", "RF", "IO", "PX"}
_DAMAGE = {"truncated", "pixel_length", "bad_header", "rescale_slope_zero", "rescale_invalid", "decode_failed", "too_large"}
_LOCALIZER_WORDS = {"LOCALIZER", "SCOUT", "SURVIEW", "TOPOGRAM"}
_DERIVED_WORDS = {
    "MPR", "CSA MPR", "PROJECTION IMAGE", "MIP", "MINIP", "CSA MIP", "AVERAGE", "SUBTRACT", "RCBF", "RCBV", "MTT", "TTP", "PERFUSION",
    "ADC", "FA", "TENSOR", "REFORMATTED", "VOLREN", "SCREEN SAVE", "CSA RESAMPLED",
}  # fmt: skip
_BODY_PARTS = (
    "HEAD", "BRAIN", "SKULL", "NECK", "CHEST", "THORAX", "LUNG", "HEART", "BREAST", "ABDOMEN", "LIVER", "PANCREAS", "KIDNEY", "PELVIS",
    "PROSTATE", "UTERUS", "SPINE", "CSPINE", "TSPINE", "LSPINE", "SHOULDER", "ELBOW", "WRIST", "HAND", "HIP", "KNEE", "ANKLE", "FOOT",
    "EXTREMITY", "WHOLEBODY",
)  # fmt: skip
_NUMBERS = {
    "slice_thickness_mm": "SliceThickness", "kvp": "KVP", "tube_current_ma": "XRayTubeCurrent", "repetition_time_ms": "RepetitionTime",
    "echo_time_ms": "EchoTime", "inversion_time_ms": "InversionTime", "flip_angle_deg": "FlipAngle",
    "field_strength_t": "MagneticFieldStrength",
}  # fmt: skip
_PEOPLE = ("PatientName", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy")


def read_frames(path: str, relative: str, config: IngestConfig) -> list[Frame]:
    """The frames of one DICOM file, without their pixels. Raises Refused with the code of why it is not used."""
    fields, pixels = open_header(path)
    with quiet_pydicom():
        reason = why_not_an_image(fields)
        if reason:
            raise Refused(reason)
        if pixels is None:
            raise Refused("no_pixel_data" if fields.text("SOPClassUID") else "unreadable")
        try:
            check_layout(pixels, config.budget_bytes)
            header = _header(path, relative, fields, pixels)
            _refuse_by_kind(header, config)
            if header.modality in PICTURE_MODALITIES:
                return [_plain_frame(header, fields, number) for number in range(pixels.frames)]
            return _volume_frames(header, fields)
        except Refused as refusal:
            refusal.series = fields.text("SeriesInstanceUID") if refusal.reason in _DAMAGE else ""
            raise


def _volume_frames(header: Header, fields: Fields) -> list[Frame]:
    # Converters leave functional groups in plain files too: a plain file's own position is what counts.
    if header.pixels.frames == 1 and fields.numbers("ImagePositionPatient"):
        return [_plain_frame(header, fields, 0)]
    if fields.has("PerFrameFunctionalGroupsSequence"):
        return _enhanced_frames(header, fields)
    if header.pixels.frames > 1:
        raise Refused("no_geometry", f"{header.pixels.frames} frames without functional groups")
    return [_plain_frame(header, fields, 0)]


def _header(path: str, relative: str, fields: Fields, pixels: PixelLayout) -> Header:
    study = fields.text("StudyInstanceUID")
    name, birth = fields.text("PatientName"), fields.text("PatientBirthDate")
    words = tuple(part for keyword in _PEOPLE for value in fields.texts(keyword) for part in value.replace("=", "^").split("^"))
    institution = fields.text("InstitutionName")
    patient = Patient(
        id=fields.text("PatientID"),
        name=name,
        birth_date=birth,
        study_date=fields.text("StudyDate"),
        study=study or f"{fields.text('StudyID')}/{fields.text('StudyDate')}",
        series=fields.text("SeriesInstanceUID"),
        accession=fields.text("AccessionNumber"),
        words=tuple(sorted({word for word in (*words, institution) if word})),
    )
    return Header(
        path=path,
        relative=relative,
        instance=fields.text("SOPInstanceUID"),
        sop_class=fields.text("SOPClassUID"),
        modality=_modality(fields),
        image_type=tuple(part.upper() for part in fields.texts("ImageType")),
        frame_of_reference=fields.text("FrameOfReferenceUID"),
        patient=patient,
        pixels=pixels,
        facts=_facts(fields),
        flags=_flags(fields),
    )


def _modality(fields: Fields) -> str:
    modality = fields.text("Modality").upper()
    return {"PET": "PT", "IVUS": "US", "RG": "CR", "DR": "DX"}.get(modality, modality)


def _facts(fields: Fields) -> dict[str, Any]:
    sequence = {name: round(value, 4) for name, keyword in _NUMBERS.items() if (value := fields.number(keyword)) is not None}
    sex = fields.text("PatientSex").upper()
    body = fields.text("BodyPartExamined").upper().replace(" ", "").replace("_", "")
    part = next((known for known in _BODY_PARTS if known == body), "") or next((known for known in _BODY_PARTS if known in body), "")
    return {
        "sequence": sequence,
        "sex": sex if sex in ("F", "M", "O") else "",
        "age_years": cap_age(_age(fields)),
        "body_part": part.lower(),
        "tilt_deg": fields.number("GantryDetectorTilt", 0.0),
        "hounsfield": fields.text("RescaleType").upper() in ("HU", "") and fields.has("RescaleSlope") and fields.has("RescaleIntercept"),
        "suv_factor": suv_factor(fields) if _modality(fields) == "PT" else None,
        "inverse": fields.text("PresentationLUTShape").upper() == "INVERSE",
        "padding": fields.whole("PixelPaddingValue") if fields.has("PixelPaddingValue") else None,
        "burned_in": fields.text("BurnedInAnnotation").upper() == "YES",
    }


def _age(fields: Fields) -> float | None:
    text = fields.text("PatientAge").upper()
    years = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
    if text[:-1].isdigit() and text[-1:] in years:
        return int(text[:-1]) / years[text[-1]]
    birth, study = fields.text("PatientBirthDate"), fields.text("StudyDate")
    if len(birth) == 8 and len(study) == 8 and birth.isdigit() and study.isdigit():
        days = [int(date[:4]) * 365.25 + int(date[4:6]) * 30.44 + int(date[6:]) for date in (birth, study)]
        return (days[1] - days[0]) / 365.25
    return None


def _flags(fields: Fields) -> tuple[str, ...]:
    flags = []
    if fields.text("LossyImageCompression") == "01":
        flags.append("lossy_compression")
    if fields.text("PresentationIntentType").upper() == "FOR PROCESSING":
        flags.append("for_processing")
    if not fields.text("PatientID"):
        flags.append("no_patient_id")
    return tuple(flags)


def _refuse_by_kind(header: Header, config: IngestConfig) -> None:
    """Raise Refused for images that are pictures of other images, name someone, or are of another modality."""
    words = set(header.image_type)
    if header.facts["burned_in"] and not config.keep_burned_in:
        raise Refused("burned_in_annotation")
    if header.modality not in VOLUME_MODALITIES | PICTURE_MODALITIES:
        raise Refused("unsupported_modality")
    if words & _LOCALIZER_WORDS and not config.keep_localizers:
        raise Refused("localizer")
    if "MOSAIC" in words:
        raise Refused("mosaic")
    if header.modality not in VOLUME_MODALITIES:
        return
    if not config.keep_derived and _is_derived(header):
        raise Refused("derived")
    if header.pixels.samples != 1 or not header.pixels.photometric.startswith("MONOCHROME"):
        raise Refused("colour")


def _is_derived(header: Header) -> bool:
    """DERIVED because something was computed. A lossy copy of an original is marked DERIVED too, and is let through."""
    kind = [*header.image_type, "", ""]
    if kind[1] == "SECONDARY" or set(kind) & _DERIVED_WORDS:
        return True
    return kind[0] == "DERIVED" and "lossy_compression" not in header.flags


def _plain_frame(header: Header, fields: Fields, number: int) -> Frame:
    slope, intercept = _rescale(fields)
    return Frame(
        header=header,
        number=number,
        position=_exactly(fields.numbers("ImagePositionPatient"), 3),
        orientation=_exactly(fields.numbers("ImageOrientationPatient"), 6),
        spacing=_spacing(fields, header.modality),
        slope=slope,
        intercept=intercept,
        image_type=header.image_type,
        echo=fields.number("EchoTime", 0.0) or 0.0,
        b_value=fields.number("DiffusionBValue", -1.0) or 0.0,
        times=tuple(
            fields.number(keyword, 0.0) or 0.0
            for keyword in ("TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime", "AcquisitionTime", "ContentTime")
        ),
        instance_number=fields.number("InstanceNumber", 0.0) or 0.0,
    )


def _spacing(fields: Fields, modality: str) -> tuple[float, ...]:
    spacing = _exactly(fields.numbers("PixelSpacing"), 2)
    if modality in PICTURE_MODALITIES and (not spacing or min(spacing) <= 0):
        spacing = _exactly(fields.numbers("ImagerPixelSpacing"), 2)
    return spacing if spacing and min(spacing) > 0 else ()


def _rescale(fields: Fields) -> tuple[float, float]:
    """Slope and intercept. Raises Refused where they are there and cannot be."""
    values = []
    for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        value = fields.number(keyword, default if not fields.has(keyword) or not fields.texts(keyword) else math.nan)
        if value is None or not math.isfinite(value) or abs(value) > 1e9:
            raise Refused("rescale_invalid")
        values.append(value)
    if values[0] == 0:
        raise Refused("rescale_slope_zero")
    return values[0], values[1]


def _exactly(numbers: tuple[float, ...], count: int) -> tuple[float, ...]:
    return numbers if len(numbers) == count else ()


def _enhanced_frames(header: Header, fields: Fields) -> list[Frame]:
    per_frame = fields.items("PerFrameFunctionalGroupsSequence")
    shared = fields.items("SharedFunctionalGroupsSequence")[:1]
    if len(per_frame) != header.pixels.frames:
        raise Refused("bad_header", f"{len(per_frame)} functional groups for {header.pixels.frames} frames")
    return [_enhanced_frame(header, number, [group, *shared]) for number, group in enumerate(per_frame)]


def _enhanced_frame(header: Header, number: int, groups: list[Fields]) -> Frame:
    def macro(keyword: str) -> Fields | None:
        return next((items[0] for group in groups if (items := group.items(keyword))), None)

    place, turn, measures = macro("PlanePositionSequence"), macro("PlaneOrientationSequence"), macro("PixelMeasuresSequence")
    scale, content, echo = macro("PixelValueTransformationSequence"), macro("FrameContentSequence"), macro("MREchoSequence")
    diffusion = macro("MRDiffusionSequence")
    if place is None or turn is None or measures is None:
        raise Refused("no_geometry", "functional groups without position, orientation or spacing")
    kind = macro("MRImageFrameTypeSequence") or macro("CTImageFrameTypeSequence") or macro("PETFrameTypeSequence")
    frame_type = _frame_type(kind) or header.image_type
    slope, intercept = _rescale(scale) if scale else (1.0, 0.0)
    return Frame(
        header=header,
        number=number,
        position=_exactly(place.numbers("ImagePositionPatient"), 3),
        orientation=_exactly(turn.numbers("ImageOrientationPatient"), 6),
        spacing=_spacing(measures, header.modality),
        slope=slope,
        intercept=intercept,
        image_type=frame_type,
        echo=_plain_number(echo, "EffectiveEchoTime"),
        b_value=_plain_number(diffusion, "DiffusionBValue") if diffusion else -1.0,
        stack=str(content.raw("StackID") or "") if content else "",
        times=(_plain_number(content, "TemporalPositionIndex"), _plain_number(content, "FrameAcquisitionNumber"), 0.0, 0.0, 0.0),
        instance_number=float(number),
    )


def _frame_type(kind: Fields | None) -> tuple[str, ...]:
    found = kind.raw("FrameType") if kind else None
    return tuple(str(part).upper() for part in found) if found else ()


def _plain_number(fields: Fields | None, keyword: str) -> float:
    try:
        value = float(fields.raw(keyword) or 0.0) if fields else 0.0
    except (TypeError, ValueError):
        return 0.0
    return value if math.isfinite(value) else 0.0


def modality_of(header: Header) -> str:
    """medcl's name for the header's modality."""
    return modality_name(header.modality)

"""DICOM files to frames: plain files give one, enhanced multi-frame objects one per functional group."""

from __future__ import annotations

import math
from typing import Any

from medcl.ingest.dicom_header import Frame, Header, Patient, PixelLayout, check_layout, open_header, quiet_pydicom, why_not_an_image
from medcl.ingest.dicom_mosaic import mosaic_frames
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
_MAKERS = {
    **{name: name for name in (
        "agfa", "bruker", "canon", "carestream", "esaote", "fujifilm", "ge", "hitachi", "hologic", "kodak", "konica", "mindray", "neusoft",
        "philips", "planmed", "samsung", "shimadzu", "siemens", "toshiba", "varian",
    )},
    "eastman": "kodak", "fuji": "fujifilm", "general": "ge", "uih": "united imaging", "united": "united imaging",
}  # fmt: skip
_TIMES = (
    "TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime", "InversionTime", "FlipAngle", "AcquisitionTime", "ContentTime",
)  # fmt: skip
_COMPLEX_PARTS_GE = {1: "PHASE", 2: "REAL", 3: "IMAGINARY"}
_PHASE_WORDS = {"P", "PHASE", "PHASE MAP", "VELOCITY", "VELOCITY MAP"}
_PEOPLE = ("PatientName", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy")


def read_frames(path: str, relative: str, config: IngestConfig) -> list[Frame]:
    """The frames of one DICOM file, without their pixels. Raises Refused with the code of why it is not used."""
    fields, pixels, is_cut = open_header(path)
    with quiet_pydicom():
        reason = why_not_an_image(fields)
        if reason:
            raise Refused(reason)
        if pixels is None:
            raise _no_pixels(fields, is_cut)
        try:
            check_layout(pixels, config.budget_bytes)
            header = _header(path, relative, fields, pixels)
            _refuse_by_kind(header, config)
            if header.modality in PICTURE_MODALITIES:
                return [_plain_frame(header, fields, number) for number in range(pixels.frames)]
            return _volume_frames(header, fields, config)
        except Refused as refusal:
            refusal.series = fields.text("SeriesInstanceUID") if refusal.reason in _DAMAGE else ""
            raise


def _no_pixels(fields: Fields, is_cut: bool) -> Refused:
    """Why an image has none: a file that was cut ends within an element, or before it says how large it is."""
    if not fields.text("SOPClassUID"):
        return Refused("unreadable")
    refusal = Refused("truncated" if is_cut or not fields.has("Rows") else "no_pixel_data", "no pixels")
    refusal.series = fields.text("SeriesInstanceUID")
    return refusal


def _volume_frames(header: Header, fields: Fields, config: IngestConfig) -> list[Frame]:
    # Converters leave functional groups in plain files too: a plain file's own position is what counts.
    own_position = header.pixels.frames == 1 and fields.numbers("ImagePositionPatient")
    if fields.has("PerFrameFunctionalGroupsSequence") and not own_position:
        return _enhanced_frames(header, fields, config)
    if header.pixels.frames > 1:
        raise Refused("no_geometry", f"{header.pixels.frames} frames without functional groups")
    plain = _plain_frame(header, fields, 0)
    return mosaic_frames(plain, fields) if "MOSAIC" in header.image_type else [plain]


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
        site=" ".join(institution.casefold().split()),
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
        "scanner": _maker(fields.text("Manufacturer")),
        "tilt_deg": fields.number("GantryDetectorTilt", 0.0),
        "hounsfield": fields.text("RescaleType").upper() in ("HU", "") and fields.has("RescaleSlope") and fields.has("RescaleIntercept"),
        "suv_factor": suv_factor(fields) if _modality(fields) == "PT" else None,
        "inverse": fields.text("PresentationLUTShape").upper() == "INVERSE",
        "padding": fields.whole("PixelPaddingValue") if fields.has("PixelPaddingValue") else None,
        "burned_in": _says_burned_in(fields),
    }


def _maker(text: str) -> str:
    """Who made the scanner, in one word of a closed list: what a hospital wrote there itself does not leave."""
    words = "".join(letter if letter.isalnum() else " " for letter in text.casefold()).split()
    return next((_MAKERS[word] for word in words if word in _MAKERS), "")


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


def _says_burned_in(fields: Fields) -> bool:
    return fields.text("BurnedInAnnotation").upper() == "YES"


def _flags(fields: Fields) -> tuple[str, ...]:
    flags = []
    if fields.text("LossyImageCompression") == "01":
        flags.append("lossy_compression")
    if fields.text("PresentationIntentType").upper() == "FOR PROCESSING":
        flags.append("for_processing")
    if not fields.text("PatientID"):
        flags.append("no_patient_id")
    if _says_burned_in(fields):
        flags.append("text_burned_in")
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
    if header.modality not in VOLUME_MODALITIES:
        return
    if not config.keep_derived and _is_derived(header.image_type, header.flags):
        raise Refused("derived")
    if header.pixels.samples != 1 or not header.pixels.photometric.startswith("MONOCHROME"):
        raise Refused("colour")


def _is_derived(image_type: tuple[str, ...], flags: tuple[str, ...]) -> bool:
    """DERIVED because something was computed. A lossy copy of an original is marked DERIVED too, and is let through."""
    kind = [*image_type, "", ""]
    if kind[1] == "SECONDARY" or set(kind) & _DERIVED_WORDS:
        return True
    return kind[0] == "DERIVED" and "lossy_compression" not in flags


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
        parameters=_parameters(fields),
        times=tuple(fields.number(keyword, 0.0) or 0.0 for keyword in _TIMES),
        instance_number=fields.number("InstanceNumber", 0.0) or 0.0,
    )


def _parameters(fields: Fields) -> tuple[str, ...]:
    """Echo number, part of a complex image, kernel, tube voltage, diffusion direction; as texts, which a journal keeps as they are."""
    part = _COMPLEX_PARTS_GE.get(fields.whole("ComplexPartGE"), "") if _modality(fields) == "MR" else ""
    return (
        str(fields.whole("EchoNumbers")),
        fields.text("ComplexImageComponent").upper() or part,
        str(fields.texts("ConvolutionKernel")),
        str(fields.number("KVP", 0.0)),
        _direction(fields),
    )


def _direction(fields: Fields | None) -> str:
    return str([round(number, 3) + 0.0 for number in fields.numbers("DiffusionGradientOrientation")] if fields else [])


def _spacing(fields: Fields, modality: str) -> tuple[float, ...]:
    spacing = _exactly(fields.numbers("PixelSpacing"), 2)
    if modality in PICTURE_MODALITIES and (not spacing or min(spacing) <= 0):
        spacing = _exactly(fields.numbers("ImagerPixelSpacing"), 2)
    return spacing if spacing and min(spacing) > 0 else ()


def _rescale(fields: Fields, must_be: bool = False) -> tuple[float, float]:
    """Slope and intercept. Raises Refused where they are there and cannot be, or (must_be) where one is not there."""
    values = []
    for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        is_absent = not must_be and (not fields.has(keyword) or not fields.texts(keyword))
        value = fields.number(keyword, default if is_absent else math.nan)
        if value is None or not math.isfinite(value) or abs(value) > 1e9:
            raise Refused("rescale_invalid")
        values.append(value)
    if values[0] == 0:
        raise Refused("rescale_slope_zero")
    return values[0], values[1]


def _exactly(numbers: tuple[float, ...], count: int) -> tuple[float, ...]:
    return numbers if len(numbers) == count else ()


def _enhanced_frames(header: Header, fields: Fields, config: IngestConfig) -> list[Frame]:
    per_frame = fields.items("PerFrameFunctionalGroupsSequence")
    shared = fields.items("SharedFunctionalGroupsSequence")[:1]
    if len(per_frame) != header.pixels.frames:
        raise Refused("bad_header", f"{len(per_frame)} functional groups for {header.pixels.frames} frames")
    groups = [_Groups([group, *shared]) for group in per_frame]
    if len({group.macro("PixelValueTransformationSequence") is None for group in groups}) > 1:
        raise Refused("inconsistent_headers", "some frames do not say how their values are scaled")
    # Values are HU where every frame says so in its own group.
    header.facts["hounsfield"] = all(group.is_hounsfield() for group in groups)
    frames = [_enhanced_frame(header, number, group) for number, group in enumerate(groups)]
    kept = [frame for frame in frames if config.keep_derived or not _is_derived(frame.image_type, header.flags)]
    if not kept:
        raise Refused("derived")
    return kept


class _Groups:
    """The functional groups of one frame: its own, then those that all frames share."""

    def __init__(self, groups: list[Fields]) -> None:
        self.groups = groups

    def macro(self, *keywords: str) -> Fields | None:
        """The first item of the first of these sequences that is there."""
        return next((items[0] for keyword in keywords for group in self.groups if (items := group.items(keyword))), None)

    def number(self, sequence: str, keyword: str, default: float = 0.0) -> float:
        """A number of a macro."""
        found = self.macro(sequence)
        try:
            value = float(found.raw(keyword) or 0.0) if found else default
        except (TypeError, ValueError):
            return default
        return value if math.isfinite(value) else default

    def is_hounsfield(self) -> bool:
        scale = self.macro("PixelValueTransformationSequence")
        return scale is not None and scale.text("RescaleType").upper() == "HU"

    def image_type(self) -> tuple[str, ...]:
        """The frame's own type, with which part of a complex image it is; empty where it has none."""
        kind = self.macro("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
        found = kind.raw("FrameType") if kind else None
        part = kind.text("ComplexImageComponent").upper() if kind else ""
        return (*(str(word).upper() for word in found), *([part] if part else [])) if found else ()

    def parameters(self) -> tuple[str, ...]:
        """What `_parameters` is to a plain file."""
        kernel, diffusion = self.macro("CTReconstructionSequence"), self.macro("MRDiffusionSequence")
        directions = diffusion.items("DiffusionGradientDirectionSequence") if diffusion else []
        return (
            str(kernel.texts("ConvolutionKernel") if kernel else ()),
            str(self.number("CTXRayDetailsSequence", "KVP")),
            _direction(directions[0] if directions else None),
        )

    def times(self) -> tuple[float, ...]:
        """What `_TIMES` are to a plain file."""
        return (
            self.number("FrameContentSequence", "TemporalPositionIndex"),
            self.number("TemporalPositionSequence", "TemporalPositionTimeOffset"),
            self.number("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
            self.number("FrameContentSequence", "FrameAcquisitionNumber"),
        )


def _enhanced_frame(header: Header, number: int, groups: _Groups) -> Frame:
    place, turn = groups.macro("PlanePositionSequence"), groups.macro("PlaneOrientationSequence")
    measures, content = groups.macro("PixelMeasuresSequence"), groups.macro("FrameContentSequence")
    if place is None or turn is None or measures is None:
        raise Refused("no_geometry", "functional groups without position, orientation or spacing")
    scale = groups.macro("PixelValueTransformationSequence")
    slope, intercept = _rescale(scale, must_be=True) if scale else (1.0, 0.0)
    position, orientation = _exactly(place.numbers("ImagePositionPatient"), 3), _exactly(turn.numbers("ImageOrientationPatient"), 6)
    spacing = _spacing(measures, header.modality)
    if not (position and orientation and spacing):
        # One frame that drops out would shorten the stack in silence.
        raise Refused("no_geometry", "a frame without position, orientation or spacing")
    return Frame(
        header=header,
        number=number,
        position=position,
        orientation=orientation,
        spacing=spacing,
        slope=slope,
        intercept=intercept,
        image_type=groups.image_type() or header.image_type,
        echo=groups.number("MREchoSequence", "EffectiveEchoTime"),
        b_value=groups.number("MRDiffusionSequence", "DiffusionBValue", -1.0),
        stack=str(content.raw("StackID") or "") if content else "",
        parameters=groups.parameters(),
        times=groups.times(),
        instance_number=float(number),
    )


def modality_of(header: Header) -> str:
    """medcl's name for the header's modality."""
    return modality_name(header.modality)


def shows_phase(frame: Frame) -> bool:
    """Whether the image is the phase (or velocity) of a complex one and not its magnitude."""
    return bool(_PHASE_WORDS & {*frame.image_type, *frame.parameters})

"""PET counts to standardised uptake values by body weight, where the header holds all that it takes."""

from __future__ import annotations

from medcl.ingest.dicom_tags import Fields


def suv_factor(fields: Fields) -> float | None:
    """What to multiply Bq/ml by to get SUV (g/ml, body weight); 1 where the units are already g/ml, None where unknown.

    QIBA's vendor-neutral rule: weight / (dose decayed from injection to the start of the series), for images whose
    decay was corrected to the start of the series (DecayCorrection START).
    """
    units = fields.text("Units").upper()
    if units == "GML":
        return 1.0
    weight_kg = fields.number("PatientWeight")
    if units != "BQML" or fields.text("DecayCorrection").upper() != "START" or not weight_kg or weight_kg <= 0:
        return None
    items = fields.items("RadiopharmaceuticalInformationSequence")
    if not items:
        return None
    dose_bq, half_life_s = _number(items[0].raw("RadionuclideTotalDose")), _number(items[0].raw("RadionuclideHalfLife"))
    injected = _seconds(str(items[0].raw("RadiopharmaceuticalStartTime") or ""))
    started = _seconds(fields.text("SeriesTime"))
    if not dose_bq or not half_life_s or injected is None or started is None or not 0 <= started - injected < 86_400:
        return None
    return weight_kg * 1000.0 / (dose_bq * 2.0 ** (-(started - injected) / half_life_s))


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if number > 0 else None


def _seconds(time: str) -> float | None:
    """A DICOM time (HHMMSS.ffffff) as seconds of the day."""
    if len(time) < 6 or not time[:6].isdigit():
        return None
    return int(time[:2]) * 3600 + int(time[2:4]) * 60 + float(time[4:])

"""PET counts to standardised uptake values by body weight, where the header holds all that it takes."""

from __future__ import annotations

from datetime import datetime, timedelta

from medcl.ingest.dicom_tags import Fields

# Outside of these a value is in another unit (grams, MBq, minutes) than DICOM asks for, and the factor would be wrong.
_WEIGHT_KG, _DOSE_BQ, _HALF_LIFE_S = (1.0, 400.0), (1e5, 2e10), (60.0, 1e7)
_LONGEST = timedelta(days=1)


def suv_factor(fields: Fields) -> float | None:
    """What to multiply Bq/ml by to get SUV (g/ml, body weight); 1 where the values are that already, None where unknown.

    QIBA's vendor-neutral rule: weight / (dose decayed from injection to the time that the image is corrected to). That
    is the start of the series (DecayCorrection START; only where the series does not start after its own images were
    acquired, as one does that was made later), or the injection itself (ADMIN).
    """
    units, correction = fields.text("Units").upper(), fields.text("DecayCorrection").upper()
    if units == "GML":
        return 1.0 if fields.text("SUVType").upper() in ("", "BW") else None
    items = fields.items("RadiopharmaceuticalInformationSequence")
    weight_kg = _within(fields.number("PatientWeight"), _WEIGHT_KG)
    if units != "BQML" or correction not in ("START", "ADMIN") or weight_kg is None or not items:
        return None
    dose_bq = _within(items[0].raw("RadionuclideTotalDose"), _DOSE_BQ)
    half_life_s = _within(items[0].raw("RadionuclideHalfLife"), _HALF_LIFE_S)
    waited = timedelta(0) if correction == "ADMIN" else _from_injection_to_start(fields, items[0])
    if dose_bq is None or half_life_s is None or waited is None or not timedelta(0) <= waited < _LONGEST:
        return None
    return weight_kg * 1000.0 / (dose_bq * 2.0 ** (-waited.total_seconds() / half_life_s))


def _within(value: object, limits: tuple[float, float]) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if limits[0] <= number <= limits[1] else None


def _from_injection_to_start(fields: Fields, item: Fields) -> timedelta | None:
    """Time from injection to the start of the series. An injection without a date was on the day of the series."""
    day = fields.text("SeriesDate") or fields.text("StudyDate")
    start = _moment(day, fields.text("SeriesTime"))
    acquired = _moment(day, fields.text("AcquisitionTime"))
    both = str(item.raw("RadiopharmaceuticalStartDateTime") or "").strip()
    here = fields.text("TimezoneOffsetFromUTC")
    injected = _moment_here(both, here) or _moment(both[:8] or day, str(item.raw("RadiopharmaceuticalStartTime") or ""))
    if start is None or injected is None or (acquired is not None and acquired < start):
        return None
    return start - injected


def _moment_here(both: str, here: str) -> datetime | None:
    """A DICOM date and time with or without an offset from UTC, on the clock of the series, whose offset is `here`.

    None where one of two offsets is not known: an hour more or less is a third of the dose of fluorine 18.
    """
    time, offset = both[8:], ""
    if time[-5:-4] in ("+", "-"):
        time, offset = time[:-5], time[-5:]
    moment = _moment(both[:8], time)
    if moment is None or not offset:
        return moment
    try:
        return (
            moment.replace(tzinfo=datetime.strptime(offset, "%z").tzinfo)
            .astimezone(datetime.strptime(here, "%z").tzinfo)
            .replace(tzinfo=None)
        )
    except ValueError:
        return None


def _moment(day: str, time: str) -> datetime | None:
    """A DICOM date (YYYYMMDD) and time (HHMMSS.ffffff) as one; None where they are none."""
    try:
        return datetime.strptime(day + time[:6], "%Y%m%d%H%M%S") + timedelta(seconds=float(time[6:13] or 0))
    except ValueError:
        return None

"""Every file met and what became of it, in stable codes that name no patient, path or value of a header."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["used", "skipped", "refused"]

# code -> (status, what it means and, where there is one, the way out). Codes are stable: other people's scripts count them.
REASONS: dict[str, tuple[Status, str]] = {
    "ok": ("used", "read into a volume or picture"),
    "mask": ("used", "a mask, attached to its image"),
    "table": ("used", "the reports or labels table"),
    "report": ("used", "a DICOM structured report, joined to its images"),
    # skipped: nothing wrong with the file, it only holds nothing for us
    "not_an_image": ("skipped", "not a DICOM, NIfTI, picture or npz file"),
    "empty_file": ("skipped", "the file has no bytes"),
    "same_file": ("skipped", "another name or link of a file already met"),
    "dicomdir": ("skipped", "a DICOM directory record; the images themselves are read"),
    "structured_report": ("skipped", "a DICOM structured report without text, or of none of the images here"),
    "radiotherapy_object": ("skipped", "a radiotherapy plan, structure set or dose"),
    "segmentation_object": ("skipped", "a DICOM segmentation object; give masks as NIfTI beside the image"),
    "presentation_state": ("skipped", "a presentation state"),
    "key_objects": ("skipped", "a key object selection"),
    "parametric_map": ("skipped", "a parametric map"),
    "non_image_object": ("skipped", "a DICOM object without pixels (waveform, PDF, raw data, ...)"),
    "duplicate_slice": ("skipped", "pixel-identical copy of a slice already used"),
    "duplicate_volume": ("skipped", "pixel-identical copy of a volume of the same patient"),
    "not_in_table": ("skipped", "a picture that the given table does not name"),
    "mask_without_image": ("skipped", "a mask whose image is not among the sources"),
    "second_mask": ("skipped", "the image already has a mask"),
    # refused, DICOM: what the object is
    "localizer": ("refused", "a localizer (scout, surview); set keep_localizers to use it"),
    "derived": ("refused", "a derived image (reformat, projection, map, phase); set keep_derived to use it"),
    "secondary_capture": ("refused", "a secondary capture: a screen shot may show names"),
    "burned_in_annotation": ("refused", "the header says that text is burned in; set keep_burned_in to use it"),
    "mosaic": ("refused", "a Siemens mosaic whose private header does not say how its slices lie"),
    "colour": ("refused", "colour pixels where grey values were expected"),
    "unsupported_modality": ("refused", "a modality that medcl does not read"),
    # refused, DICOM: geometry
    "no_geometry": ("refused", "no usable position, orientation or pixel spacing"),
    "single_slice": ("refused", "one slice of a volume modality, nothing to stack it with"),
    "too_few_slices": ("refused", "fewer slices than min_slices"),
    "missing_slices": ("refused", "a gap in the stack: slices are missing"),
    "variable_spacing": ("refused", "the distance between slices varies"),
    "shifted_slices": ("refused", "slices are shifted against each other in their plane"),
    "ambiguous_positions": ("refused", "several slices at one position and nothing that tells them apart"),
    "conflicting_copies": ("refused", "two files claim to be the same image and differ"),
    "gantry_tilt": ("refused", "gantry tilt; set tilt to correct or keep"),
    "inconsistent_headers": ("refused", "slices of one stack disagree on how their values are stored or scaled"),
    "stack_broken": ("refused", "another slice of its stack was refused, see there"),
    "self_check": ("refused", "a slice would be more than 0.1 mm away from where its header puts it"),
    # refused, DICOM: pixels
    "no_pixel_data": ("refused", "an image object without pixel data"),
    "truncated": ("refused", "the file ends before its pixels do"),
    "pixel_length": ("refused", "more pixel data than rows, columns and frames account for, or bytes after it that are no DICOM"),
    "bad_header": ("refused", "a header field that must be there is missing, not a number or absurd"),
    "rescale_slope_zero": ("refused", "a rescale slope of 0 would erase the image"),
    "rescale_invalid": ("refused", "a rescale slope or intercept that is not a finite number"),
    "bits_stored": ("refused", "values go on above the bits that the header says are stored"),
    "no_transfer_syntax": ("refused", "compressed pixels and no transfer syntax"),
    "transfer_syntax": ("refused", "a transfer syntax that medcl does not decode (video, say)"),
    "codec_missing": ("refused", "needs a codec: pip install 'medcl[codecs]'"),
    "decode_failed": ("refused", "the compressed pixels cannot be decoded"),
    "too_large": ("refused", "larger than budget_gib"),
    # refused, NIfTI, pictures, npz
    "corrupt_gzip": ("refused", "the gzip stream is damaged (its checksum fails)"),
    "analyze_format": ("refused", "Analyze 7.5 has no orientation; convert it to NIfTI"),
    "missing_pair": ("refused", "a .hdr without its .img, or the reverse"),
    "orientation_unknown": ("refused", "neither qform nor sform is set; set nifti_orientation to use the guess"),
    "orientation_conflict": ("refused", "qform and sform disagree; set nifti_orientation to choose one"),
    "bad_affine": ("refused", "the affine is singular or not finite"),
    "absurd_spacing": ("refused", "voxels smaller than 1 micrometre or larger than 100 mm"),
    "dimensions": ("refused", "not 3D (or 4D with time last)"),
    "complex_values": ("refused", "complex values"),
    "not_finite": ("refused", "NaN or infinite values; set not_finite to zero to keep it"),
    "blank": ("refused", "every voxel has the same value"),
    "mask_grid": ("refused", "the mask's grid is not that of any image beside it"),
    "mask_ambiguous": ("refused", "the mask fits several images beside it"),
    "mask_values": ("refused", "a mask must hold whole numbers"),
    "npz_layout": ("refused", "not a MedMNIST npz: expected train_images, train_labels, ..."),
    # refused, any
    "unreadable": ("refused", "the file cannot be read as what it claims to be"),
    "no_permission": ("refused", "no permission to read the file or folder"),
    "link_outside": ("refused", "a link that leads out of the sources; name its target as a source, too"),
    "decoder_died": ("refused", "reading it killed or stalled the reading process"),
    "internal": ("refused", "an unexpected failure while reading; please report it"),
}


class Refused(Exception):
    """A file or stack is not used. `reason` is a code of REASONS; `detail` may hold numbers, never text of the file."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise KeyError(f"unknown reason code '{reason}'")
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        # The series it belongs to and the file that is to blame, where known; private, never written.
        self.series = ""
        self.path = ""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one file, while its path is still known. Never written outside private/."""

    path: str
    reason: str
    detail: str = ""
    volume: str = ""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One file of the ledger. `path` is for the caller in the same process; it is not printed, and written in private/ alone."""

    file_key: str
    status: Status
    reason: str
    detail: str = ""
    volume_id: str = ""
    path: str = field(default="", repr=False, compare=False)


def entry(fate: Fate, file_key: str, volume_id: str = "") -> LedgerEntry:
    """Turn a fate into the row that may be written."""
    return LedgerEntry(file_key, REASONS[fate.reason][0], fate.reason, fate.detail, volume_id, fate.path)


def count_reasons(entries: Iterable[LedgerEntry], *statuses: Status) -> dict[str, int]:
    """Files per reason code, most frequent first, for the given statuses (all where none is given)."""
    counts = Counter(one.reason for one in entries if not statuses or one.status in statuses)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def explain_counts(counts: dict[str, int]) -> list[str]:
    """Lines for a person: count, code and meaning."""
    return [f"{number:>7}  {reason}: {REASONS[reason][1]}" for reason, number in counts.items()]

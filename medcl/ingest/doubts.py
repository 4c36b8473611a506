"""What the codes in a manifest's `flags` mean: doubts about scans that are used all the same, for a person to review."""

from __future__ import annotations

from collections.abc import Iterable

# Codes are stable: other people's scripts count them.
DOUBTS: dict[str, str] = {
    # who it shows, and where it is from
    "text_suspected": "something in the border looks like text; a name may be among it, so that no page shows the picture",
    "text_burned_in": "the header says that text is burned in, and keep_burned_in let it through; no page shows it",
    "no_patient_id": "the header names no patient",
    "series_lost_a_file": "a file of its series could not be read; what is left makes a whole volume by its positions",
    "duplicate_pixels": "another scan has the same pixels (duplicate_group)",
    "near_duplicate": "another scan looks nearly the same (near_duplicate_group)",
    "looks_like_labels": "at most 16 different whole numbers: a mask rather than an image?",
    # what the numbers are
    "modality_unknown": "nothing says what it shows; put modality into the settings",
    "modality_assumed": "nothing says what it shows; pictures are taken for X-rays unless modality says otherwise",
    "hu_doubtful": "a CT without values of air: are these Hounsfield units? units in the settings says so",
    "no_hounsfield_rescale": "a CT whose header has no rescaling to Hounsfield units",
    "rescale_varies": "a CT whose slices are rescaled differently, as no scanner does",
    "air_missing": "said to be in HU, and nothing is below -200: not rescaled, cut to a window, or a crop without air",
    "below_air": "said to be in HU, and more than 1% is below -1500, as padding around the scanner's circle is",
    "rescaled_twice": "said to be in HU, and air lies about -2000, tissue about -1000",
    "windowed": "said to be in HU, and many voxels hold the brightest value, as after cutting to a display window",
    "no_suv": "a PET whose header does not allow uptake values: counts in arbitrary units",
    "phase_image": "shows phase and not magnitude",
    "for_processing": "raw detector values, before the maker's own processing for display",
    "lossy_compression": "was compressed with loss",
    "not_finite_zeroed": "values that were no numbers are 0 now, as not_finite says",
    "colour_to_grey": "was in colour; the luminance is used",
    "reduced_to_8_bits": "colour of more than 8 bits; 8 are used",
    "transparent_parts": "has transparent parts, which are used as if they were not",
    "first_of_several_pages": "has several pages; the first is used",
    # where its voxels are
    "orientation_guessed": "the file does not say its orientation; nifti_orientation let the guess of the format through",
    "qform_differs": "qform and sform put the voxels elsewhere; the one used is what nifti_orientation prefers",
    "spacing_differs": "pixdim says another spacing than the matrix; the matrix is used",
    "spacing_unknown": "the size of a pixel is not said",
    "length_unit_converted": "lengths were in metres or micrometres, and are millimetres now",
    "length_unit_unknown": "the unit of length is not said; millimetres are assumed",
    "fourth_axis_unstated": "the fourth axis may be time or something else; each part is a volume of its own",
    "frame_of_reference_varies": "its slices name several frames of reference",
    "split_by_time": "the series held several volumes of one place; each is its own",
    "split_by_acquisition": "the series held several volumes of different places; each is its own",
    "gantry_tilt_corrected": "was taken with a tilted gantry, and resampled to a straight one",
    "sheared": "its axes are not at right angles",
}
_TEXT = {"text_suspected", "text_burned_in"}


def may_hold_text(flags: Iterable[str]) -> bool:
    """Whether a scan with these flags may name someone in its pixels, so that no page may show it."""
    return not _TEXT.isdisjoint(flags)

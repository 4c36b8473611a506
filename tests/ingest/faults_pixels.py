"""Faults of what the stored numbers mean, and every transfer syntax that an encoder at hand can write."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from tests.ingest.faults import Kind, Known, affine_of, fault, slab
from tests.ingest.scanner import base, change_to, item, phantom, put_pixels, save, series

Encode = Callable[[np.ndarray], bytes]
UNSIGNED = phantom().astype(np.uint16)


def smooth() -> np.ndarray:
    """(8, 32, 40) uint16 of 12 bits without noise, for lossy codecs."""
    z, y, x = np.mgrid[0:8, 0:32, 0:40]
    return (1500 + 1200 * np.sin(x / 9 + z / 4) * np.cos(y / 11)).astype(np.uint16)


def readable(name: str, pixels: np.ndarray | None = None, *, units: str = "", flags: tuple[str, ...] = (), **how: Any) -> None:
    fault(name, "readable", flags=flags, units=units)(lambda folder: [slab(folder, pixels, **how)])


def broken(name: str, *reasons: str, kind: Kind = "refuse", **how: Any) -> None:
    def write(folder: Path) -> list[Known]:
        series(folder, **how)
        return []

    fault(name, kind, *reasons)(write)


def stored_as(words: np.ndarray, bits_stored: int, high_bit: int | None = None, **fields: object) -> Callable[[Dataset, int], None]:
    """A change that stores these words instead, said to hold so many bits."""

    def change(dataset: Dataset, index: int) -> None:
        put_pixels(dataset, words[index], bits_stored)
        dataset.HighBit = bits_stored - 1 if high_bit is None else high_bit
        change_to(**fields)(dataset, index)

    return change


def encoded(syntax: str, encode: Encode, bits_stored: int = 16) -> Callable[[Dataset, int], None]:
    """A change that compresses the pixels."""

    def change(dataset: Dataset, _: int) -> None:
        kind = f"{'i' if dataset.PixelRepresentation else 'u'}{dataset.BitsAllocated // 8}"
        plane = np.frombuffer(dataset.PixelData, kind).reshape(dataset.Rows, dataset.Columns)
        dataset.PixelData = encapsulate([encode(plane)])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.BitsStored, dataset.HighBit = bits_stored, bits_stored - 1
        dataset.file_meta.TransferSyntaxUID = UID(syntax)

    return change


def through(module: str, function: str, **options: object) -> Encode:
    """An encoder of a package that is only imported when it encodes."""
    return lambda plane: bytes(getattr(importlib.import_module(module), function)(np.ascontiguousarray(plane), **options))


# How values are scaled
SLOPES = 1 + 0.25 * np.arange(8)
readable(
    "a slope and intercept of its own for every slice", flags=("rescale_varies",), real=phantom() * SLOPES[:, None, None] - 1000,
    change=lambda dataset, index: change_to(RescaleSlope=float(SLOPES[index]), RescaleIntercept=-1000)(dataset, index),
)  # fmt: skip
readable("a negative slope", real=-1.0 * phantom() + 500, change=change_to(RescaleSlope=-1, RescaleIntercept=500))
readable("a slope of 0.5", real=0.5 * phantom() - 1000, change=change_to(RescaleSlope=0.5, RescaleIntercept=-1000))
readable("MONOCHROME1", change=change_to(PhotometricInterpretation="MONOCHROME1"))
readable("MR without rescale", modality="MR", units="arbitrary")
readable("never rescaled to HU", flags=("air_missing",), real=1.0 * phantom(), change=change_to(RescaleIntercept=0))
readable("rescaled twice", flags=("rescaled_twice",), real=phantom() - 2048.0, change=change_to(RescaleIntercept=-2048))
broken("slope 0", "rescale_slope_zero", change=change_to(RescaleSlope=0))
broken("an intercept beyond all bounds", "rescale_invalid", change=change_to(RescaleIntercept="1e300"))
broken("every voxel the same", "blank", pixels=np.zeros((4, 20, 24), np.int16), kind="policy")


@fault("CT without rescale", "readable", flags=("no_hounsfield_rescale",), units="arbitrary")
def no_rescale(folder: Path) -> list[Known]:
    def change(dataset: Dataset, _: int) -> None:
        del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType

    return [slab(folder, real=1.0 * phantom(), change=change)]


@fault("a slope that is no number", "refuse", "rescale_invalid")
def slope_nan(folder: Path) -> list[Known]:
    series(folder, change=change_to(RescaleSlope="1.5"))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.5 ", b"NaN "))
    return []


@fault("a modality look-up table", "readable")
def look_up(folder: Path) -> list[Known]:
    pixels = UNSIGNED % 64
    lut = item(LUTDescriptor=[64, 0, 16], ModalityLUTType="HU", LUTData=np.array([1000 - 10 * k for k in range(64)], "<u2").tobytes())

    def change(dataset: Dataset, _: int) -> None:
        del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType
        dataset.ModalityLUTSequence = [lut]

    return [slab(folder, pixels, real=1000.0 - 10.0 * pixels, change=change)]


def pet(name: str, factor: float | None, waited_s: float = 3600, **fields: object) -> None:
    """PET in Bq/ml; factor: to SUV, None where the header does not say enough (or says what cannot be)."""
    dose, half_life = 350e6, 6586.2

    def change(dataset: Dataset, index: int) -> None:
        change_to(Units="BQML", DecayCorrection="START", PatientWeight=70, RescaleSlope=2.0 + index, RescaleIntercept=0)(dataset, index)
        tracer = item(RadionuclideTotalDose=dose, RadionuclideHalfLife=half_life, RadiopharmaceuticalStartTime="091112")
        dataset.RadiopharmaceuticalInformationSequence = [tracer]
        dataset.AcquisitionTime = "101112"
        change_to(**fields)(dataset, index)

    def write(folder: Path) -> list[Known]:
        series(folder, UNSIGNED, modality="PT", change=change)
        activity = UNSIGNED * (2.0 + np.arange(8))[:, None, None]
        if factor is None:
            return [Known(activity, affine_of())]
        to_suv = factor * 70_000 / (dose * 0.5 ** (waited_s / half_life))
        return [Known(activity * to_suv, affine_of(), also=(1 / to_suv,))]

    fault(name, "readable", units="arbitrary" if factor is None else "SUV")(write)


pet("PET to SUV, decay from injection to the start of the series", 1.0)
pet("PET to SUV, decay corrected to injection", 1.0, 0.0, DecayCorrection="ADMIN")
pet("PET without a weight", None, PatientWeight=None)
pet("PET of a series made after its acquisition", None, SeriesTime="111112")
pet("PET in counts", None, Units="CNTS")
pet("PET with the weight in grams", None, PatientWeight=70_000)


def injected(moment: str) -> list[Dataset]:
    """A tracer whose injection is said by day and time."""
    return [item(RadionuclideTotalDose=350e6, RadionuclideHalfLife=6586.2, RadiopharmaceuticalStartDateTime=moment)]


pet("PET with the day of the injection", 1.0, RadiopharmaceuticalInformationSequence=injected("20210304091112.00"))
pet(
    "PET with the injection in UTC",
    1.0,
    TimezoneOffsetFromUTC="+0100",
    RadiopharmaceuticalInformationSequence=injected("20210304081112+0000"),
)
pet("PET with an offset from UTC on one clock only", None, RadiopharmaceuticalInformationSequence=injected("20210304091112-0500"))

# Which bits are pixels
WORDS = UNSIGNED & 0x0FFF
readable("12 of 16 bits", WORDS, change=stored_as(WORDS, 12))
readable("noise above the stored bits", WORDS, change=stored_as(WORDS | (phantom(seed=5).astype(np.uint16) << 12), 12))
readable("an overlay in the pixel words", WORDS, change=stored_as(WORDS | ((WORDS > 1500) * np.uint16(0x8000)), 12))
readable("stored bits at the top of the word", WORDS, change=stored_as(WORDS << 4, 12, high_bit=15))
readable(
    "signed, 12 of 16 bits, sign not extended",
    phantom() - 1500,
    change=stored_as((phantom() - 1500).view(np.uint16) & 0x0FFF, 12, PixelRepresentation=1),
)
readable(
    "signed, 12 of 16 bits, noise above",
    phantom() - 1500,
    change=stored_as(((phantom() - 1500).view(np.uint16) & 0x0FFF) | 0xA000, 12, PixelRepresentation=1),
)
readable("signed 16 bits", (phantom() - 1000).astype(np.int16))
readable("unsigned 16 bits to the top", UNSIGNED * 20, modality="MR")
readable("8 bits", (UNSIGNED // 16).astype(np.uint8))
readable("32 bits", UNSIGNED.astype(np.uint32) * 70_000, modality="MR")
readable("padding value", np.where(phantom() < 60, -2000, phantom()).astype(np.int16), change=change_to(PixelPaddingValue=-2000))
broken("values go on above the stored bits", "bits_stored", "stack_broken", change=stored_as(smooth() * 9, 12))
broken(
    "signed values said to be unsigned 12 bits",
    "bits_stored",
    "stack_broken",
    change=stored_as((smooth().astype(np.int16) - 1500).view(np.uint16), 12),
)
broken("bits that cannot be", "bad_header", change=change_to(BitsAllocated=12))
broken("rows that cannot be", "bad_header", change=change_to(Rows=60000))
broken("fewer pixels than rows and columns say", "truncated", change=change_to(Rows=40))
broken("more pixels than rows and columns say", "pixel_length", change=change_to(Rows=10))
broken("one slice signed, the others not", "inconsistent_headers", pixels=phantom() + 60,
       change=lambda dataset, index: change_to(PixelRepresentation=int(index != 4))(dataset, index))  # fmt: skip


@fault("float pixels", "readable")
def floats(folder: Path) -> list[Known]:
    pixels = phantom() / 7

    def change(dataset: Dataset, index: int) -> None:
        dataset.FloatPixelData = pixels[index].astype("<f4").tobytes()
        dataset.BitsAllocated = 32
        del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation

    return [slab(folder, real=pixels.astype(np.float32).astype(np.float64), modality="MR", change=change)]


# How the file is written
readable("implicit VR", syntax="1.2.840.10008.1.2")
readable("big endian", syntax="1.2.840.10008.1.2.2")
readable("deflated", syntax="1.2.840.10008.1.2.1.99")
for ending, syntax in (("explicit VR", "1.2.840.10008.1.2.1"), ("implicit VR", "1.2.840.10008.1.2"), ("big endian", "1.2.840.10008.1.2.2")):
    readable(f"no preamble, {ending}", syntax=syntax, preamble=False)

JPEG, RLE = "1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5"
JPEG8 = ("imagecodecs", "jpeg8_encode")
readable("RLE", change=lambda dataset, _: dataset.compress(RLE))
readable("RLE, stored bits at the top of the word", WORDS,
         change=lambda dataset, index: [stored_as(WORDS << 4, 12, 15)(dataset, index), dataset.compress(RLE)])  # fmt: skip
readable("JPEG baseline, 8 bits", (smooth() // 16).astype(np.uint8), tolerance=4, change=encoded(JPEG + "50", through(*JPEG8, level=98), 8))
readable("JPEG extended, 12 bits", smooth(), tolerance=8, change=encoded(JPEG + "51", through(*JPEG8, level=98, bitspersample=12), 12))
for name, number, predictor in (("process 14", "57", 6), ("first order", "70", 1)):
    encode = through(*JPEG8, lossless=True, bitspersample=16, predictor=predictor)
    readable(f"JPEG lossless, {name}", UNSIGNED, change=encoded(JPEG + number, encode))
readable("JPEG lossless, 12 bits", WORDS, change=encoded(JPEG + "70", through(*JPEG8, lossless=True, bitspersample=12, predictor=1), 12))
readable("JPEG-LS", UNSIGNED, change=encoded(JPEG + "80", through("imagecodecs", "jpegls_encode")))
readable("JPEG-LS, near lossless", UNSIGNED, tolerance=3, change=encoded(JPEG + "81", through("imagecodecs", "jpegls_encode", level=3)))
readable("JPEG-LS, signed", phantom() - 500, change=lambda dataset, _: dataset.compress(JPEG + "80"))
readable("JPEG 2000", UNSIGNED, change=encoded(JPEG + "90", through("imagecodecs", "jpeg2k_encode", level=0, codecformat="j2k")))
readable("JPEG 2000, signed", phantom(8, 40, 48) - 500, change=encoded(JPEG + "90", through("openjpeg", "encode", codec_format=0)))
readable("JPEG 2000, signed pixels in an unsigned stream", phantom(8, 40, 48) - 500,
         change=encoded(JPEG + "90", lambda plane: through("openjpeg", "encode", codec_format=0)(plane.view(np.uint16))))  # fmt: skip
readable(
    "JPEG 2000, lossy",
    smooth(),
    tolerance=12,
    change=encoded(JPEG + "91", through("imagecodecs", "jpeg2k_encode", level=100, codecformat="j2k")),
)
readable("HTJ2K", UNSIGNED, change=encoded(JPEG + "201", through("imagecodecs", "htj2k_encode")))
readable("HTJ2K, any", UNSIGNED, change=encoded(JPEG + "203", through("imagecodecs", "htj2k_encode")))
broken("video", "transfer_syntax", "stack_broken", change=encoded(JPEG + "102", bytes))
broken("compressed pixels that are none", "decode_failed", "stack_broken", change=encoded(JPEG + "90", lambda plane: b"\x7f" * 200))


@fault("a slice cut short in the middle of the stack", "refuse", "truncated", "missing_slices")
def cut(folder: Path) -> list[Known]:
    series(folder)
    path = folder / "IM0003.dcm"
    path.write_bytes(path.read_bytes()[:-300])
    return []


@fault("the last slice cut short", "policy", "truncated", flags=("series_lost_a_file",))
def cut_last(folder: Path) -> list[Known]:
    known = slab(folder)
    path = folder / "IM0007.dcm"
    path.write_bytes(path.read_bytes()[:-300])
    return [Known(known.values[:7], known.affine)]


@fault("a compressed slice that is damaged", "refuse", "decode_failed", "stack_broken")
def damaged(folder: Path) -> list[Known]:
    series(folder, change=lambda dataset, _: dataset.compress(RLE))
    path = folder / "IM0003.dcm"
    path.write_bytes(path.read_bytes()[:-200] + b"\0" * 192 + b"\xfe\xff\xdd\xe0\0\0\0\0")
    return []


def frames(name: str, modality: str) -> None:
    """A multi-frame file whose frames are pictures."""

    def write(folder: Path) -> list[Known]:
        dataset = base(modality, "MRN0001", "2.25.500", "2.25.500.1")
        pixels = (UNSIGNED[:3] // 16).astype(np.uint8)
        put_pixels(dataset, pixels)
        dataset.NumberOfFrames, dataset.PixelSpacing = 3, [0.9, 0.8]
        save(dataset, folder / "cine")
        affine = np.diag([0.8, 0.9, 1.0, 1.0])
        return [Known(plane[None].astype(np.float64), affine) for plane in pixels]

    fault(name, "picture", units="display")(write)


frames("an ultrasound loop", "US")
frames("an angiogram", "XA")

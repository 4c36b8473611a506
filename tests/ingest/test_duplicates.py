"""The same scan in another guise is found, other scans are not, and a million hashes are not compared pair by pair."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medcl.foundation.types import Kind, Volume
from medcl.ingest import open_data
from medcl.ingest.duplicates import MOST_DIFFERING, groups_of_near, near_any, near_hash, near_pairs
from medcl.ingest.run import ingest
from medcl.ingest.settings import SplitConfig
from medcl.ingest.split import split_patients
from tests.ingest.scanner import series


def scan(seed: int, shape: tuple[int, ...] = (60, 56, 40)) -> np.ndarray:
    """A smooth body of its own, 0 to 1000."""
    rough = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(rough, [side / 14 for side in shape])
    return (1000 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


def hash_of(array: np.ndarray, kind: Kind = "volume", affine: np.ndarray | None = None) -> str:
    array = array if array.ndim == 3 else array[:, :, None]
    return near_hash(Volume(array, np.eye(4) if affine is None else affine, "mr", "arbitrary", kind))


def differing(one: str, other: str) -> int:
    return (int(one[1:], 16) ^ int(other[1:], 16)).bit_count()


def guises(array: np.ndarray) -> dict[str, np.ndarray]:
    trimmed = tuple(slice(round(0.01 * side), side - round(0.01 * side)) for side in array.shape)
    return {
        "kernel": ndimage.gaussian_filter(array, 0.8),
        "window": np.rint(np.clip((array - 100) / 800, 0, 1) * 255),
        "scale": array * 2.7 - 1024,
        "gamma": array**0.7,
        "noise": array + np.random.default_rng(1).normal(0, 30, array.shape),
        "resampled": ndimage.zoom(array, 0.75, order=1),
        "cropped": array[trimmed],
        "bytes": np.rint(array / 4).astype(np.uint8),
    }


@pytest.mark.parametrize("kind", ["volume", "picture"])
def test_guises_are_near_and_others_are_not(kind: Kind) -> None:
    shape = (60, 56, 40) if kind == "volume" else (200, 180)
    most = MOST_DIFFERING[kind[0]]
    scans = [scan(seed, shape) for seed in range(6)]
    hashes = [hash_of(one, kind) for one in scans]
    assert all(len(one) == 65 and one[0] == kind[0] for one in hashes)
    for one, own in zip(scans, hashes, strict=True):
        found = {name: differing(own, hash_of(other, kind)) for name, other in guises(one).items()}
        assert max(found.values()) <= most, found
    assert min(differing(a, b) for place, a in enumerate(hashes) for b in hashes[:place]) > 1.5 * most


def test_axes_in_another_order_are_the_same_scan() -> None:
    array = scan(0)
    turned = array.transpose(2, 0, 1)[:, ::-1]
    affine = np.zeros((4, 4))
    affine[[2, 0, 1, 3], [0, 1, 2, 3]] = (1, -1, 1, 1)
    affine[0, 3] = array.shape[0] - 1
    assert hash_of(turned, affine=affine) == hash_of(array)


def test_jpeg_is_near() -> None:
    array = np.rint(scan(3, (200, 180)) / 4).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(array).save(stream, "JPEG", quality=30)
    assert differing(hash_of(array, "picture"), hash_of(np.asarray(Image.open(stream)), "picture")) <= MOST_DIFFERING["p"]


@pytest.mark.parametrize("shape", [(28, 28), (31, 200), (64, 19, 19), (64, 64, 7)])
def test_too_little_to_tell_by(shape: tuple[int, ...]) -> None:
    assert hash_of(scan(0, shape), "picture" if len(shape) == 2 else "volume") == ""


def test_one_value_has_no_hash() -> None:
    assert hash_of(np.zeros((40, 40, 40), np.uint8)) == hash_of(np.zeros((40, 40), np.float32), "picture") == ""


def made_hashes(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["v" + rng.bytes(32).hex() for _ in range(count)]


def turned(value: str, bits: int, rng: np.random.Generator) -> str:
    number = int(value[1:], 16)
    for bit in rng.permutation(256)[:bits]:
        number ^= 1 << int(bit)
    return f"v{number:064x}"


@pytest.mark.parametrize("others", [1000, 20_000])
def test_pairs_among_few_and_many(others: int) -> None:
    rng = np.random.default_rng(1)
    hashes = made_hashes(others)
    planted = [turned(hashes[place], 1 + place % 20, rng) for place in range(100)]
    pairs = near_pairs([*hashes, *planted, "", "", "p" + hashes[0][1:]])
    expected = {(place, others + place) for place in range(100)}
    found = {(int(a), int(b)) for a, b in pairs}
    assert found <= expected
    assert len(found) == 100 if others <= 8192 else len(found) >= 97


def test_any_near_one_compares_all() -> None:
    rng = np.random.default_rng(2)
    corpus = made_hashes(500)
    asked = [turned(corpus[3], 30, rng), turned(corpus[4], 31, rng), "", made_hashes(1, 9)[0]]
    assert near_any(asked, corpus).tolist() == [True, False, False, False]
    assert near_any(asked, []).tolist() == [False] * 4


def test_groups_are_chains_of_different_series() -> None:
    rng = np.random.default_rng(3)
    one, two, three, four = made_hashes(4)
    middle = turned(one, 25, rng)
    near = [two, one, middle, turned(middle, 25, rng), three, turned(three, 2, rng), four, four, ""]
    exact = ["g", "b", "c", "a", "d", "e", "f", "f", "h"]
    series = ["1", "2", "3", "4", "5", "5", "6", "7", "8"]
    groups = groups_of_near(near, exact, series)
    assert groups == {1: 1, 2: 1, 3: 1}
    order = rng.permutation(len(near))
    again = groups_of_near(*([values[place] for place in order] for values in (near, exact, series)))
    assert {int(order[place]): number for place, number in again.items()} == groups


def test_near_duplicates_never_part() -> None:
    patients, hashes = [f"p{number}" for number in range(60)], [f"{number:02d}" for number in range(60)]
    near = {number: 1 + number % 20 for number in range(40)}
    parts = split_patients(patients, hashes, [""] * 60, SplitConfig(val=0.3, test=0.3), near)
    assert len(set(parts)) == 3
    for group in range(1, 21):
        assert len({parts[number] for number, own in near.items() if own == group}) == 1


def test_the_manifest_names_them(tmp_path: Path) -> None:
    """One scan of two patients, once with another kernel; a third patient has another scan."""
    for name, array in {"a": scan(0), "b": ndimage.gaussian_filter(scan(0), 0.7), "c": scan(1)}.items():
        pixels = np.rint(array.transpose(2, 1, 0)).astype(np.int16)
        series(tmp_path / "in" / name, pixels, patient=f"P{name}", uid=f"2.25.{ord(name)}", modality="MR")
    ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    manifest = open_data(tmp_path / "out").manifest.sort_values("near_duplicate_group")
    assert manifest["near_duplicate_group"].tolist() == [0, 1, 1]
    assert ["near_duplicate" in flags for flags in manifest["flags"]] == [False, True, True]
    assert manifest["split"].iloc[1] == manifest["split"].iloc[2]
    assert (manifest["duplicate_group"] == 0).all()

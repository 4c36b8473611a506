"""What a file is called, how often it is there and who reads it changes nothing: the same manifest and store to the byte."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from medcl.ingest.run import ingest
from medcl.store.prepare import prepare
from medcl.store.recipe import BUILT_IN
from tests.ingest.scanner import base, change_to, phantom, put_pixels, save, series
from tests.ingest.test_ingest_run import KEY, every_byte


def cohort(folder: Path) -> Path:
    """CT, one of them twice under other instance numbers, a time series, equal pixels of two patients, X-rays."""
    for number in range(4):
        series(folder / f"ct{number}", phantom(4, seed=number % 3), patient=f"P{number}", uid=f"2.25.{number}")
    series(folder / "again", phantom(4), patient="P0", uid="2.25.77")
    for time in (1, 2):

        def change(dataset, index, time=time) -> None:
            dataset.SOPInstanceUID = f"2.25.8.{time}.{index}"
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.AcquisitionNumber = dataset.TemporalPositionIdentifier = time

        series(folder / f"time{time}", phantom(4, seed=10 + time), patient="P7", uid="2.25.8", modality="MR", change=change)
    for number in range(3):
        dataset = base("DX", f"P{number}", f"2.25.5{number}", f"2.25.5{number}.1")
        put_pixels(dataset, np.random.default_rng(number % 2).integers(0, 255, (30, 40), dtype=np.uint8))
        save(dataset, folder / "xray" / f"x{number}.dcm")
    scout = change_to(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    series(folder / "scout", phantom(2, seed=9), patient="P0", uid="2.25.3", change=scout)
    return folder


def shuffled(source: Path, target: Path) -> Path:
    """Every file under a name that says nothing, in one of three folders, in another order."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for place, turn in enumerate(np.random.default_rng(0).permutation(len(files))):
        to = target / f"{place % 3}" / f"{len(files) - place:05d}"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[int(turn)], to)
    return target


def with_copies(source: Path, target: Path) -> Path:
    """Everything twice, and once more as links."""
    shutil.copytree(source, target / "b")
    shutil.copytree(source, target / "a")
    for path in sorted((target / "b").rglob("*")):
        if path.is_file():
            link = target / "0" / path.relative_to(target / "b")
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path, link)
    return target


def made(source: Path, out: Path, reading: int = 0, preparing: int = 1) -> dict[str, bytes]:
    ingest(source, out / "data", jobs=reading, key=KEY)
    recipe = BUILT_IN["ct"].model_copy(update={"spacing_mm": (2.0, 2.0, 2.0)})
    prepare(out / "data", out / "store", recipe, jobs=preparing)
    found = {f"store/{name}": content for name, content in every_byte(out / "store").items()}
    return found | {"manifest": (out / "data" / "manifest.parquet").read_bytes()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The cohort, and what comes of it as it lies."""
    folder = tmp_path_factory.mktemp("plain")
    source = cohort(folder / "in")
    return source, made(source, folder / "out")


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    assert one.keys() == other.keys() and len(one) == 7
    return [name for name in one if one[name] != other[name]]


def test_shuffled_names(plain: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    assert differing(plain[1], made(shuffled(plain[0], tmp_path / "in"), tmp_path / "out")) == []


def test_copies_and_links(plain: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    # only the store's card differs: it names the DATA folder's card, which counts the files met
    assert differing(plain[1], made(with_copies(plain[0], tmp_path / "in"), tmp_path / "out", reading=2)) == ["store/card.json"]


@pytest.mark.slow
def test_eight_workers(plain: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    assert differing(plain[1], made(plain[0], tmp_path / "out", reading=8, preparing=8)) == []

"""Reading boxes: the same values whatever box, thread or process, and damage is an error."""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import blosc2
import numpy as np
import pytest

from medcl.foundation.errors import DataError, UserError
from medcl.foundation.progress import Silent
from medcl.foundation.types import Volume
from medcl.store import array_file, arrays
from medcl.store.prepare import prepare_data
from medcl.store.recipe import BUILT_IN
from medcl.store.volume_store import VolumeStore
from tests.store.made_data import MadeData

LIBRARY = array_file.library
MR = BUILT_IN["mr"].model_copy(update={"spacing_mm": None})


@pytest.fixture(scope="module", params=["library", "python"], autouse=True)
def decoder(request: pytest.FixtureRequest) -> Iterator[str]:
    """Everything here holds with blosc2's C library, and where only its Python calls are there."""
    if request.param == "library" and array_file.library() is None:
        pytest.skip("this blosc2 brings no library")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "python":
            patch.setattr(array_file, "library", lambda: None)
        yield request.param


@pytest.fixture(scope="module")
def folder(decoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One volume of its own file, two pooled ones."""
    rng = np.random.default_rng(0)
    shapes = ((90, 80, 170), (20, 21, 22), (23, 20, 9))
    volumes = {
        f"v{n}": Volume(rng.normal(100, 20, shape), np.diag([1.0, 2.0, 3.0, 1.0]), "mr", "arbitrary") for n, shape in enumerate(shapes)
    }
    masks = {"m": Volume(rng.integers(0, 4, shapes[0]), np.diag([1.0, 2.0, 3.0, 1.0]), "mr", "arbitrary")}
    import pandas as pd

    data = MadeData(volumes, masks, pd.DataFrame({"volume_id": ["v0"], "mask_id": ["m"]}))
    out = tmp_path_factory.mktemp("made") / "store"
    prepare_data(data, "hash", out, MR, jobs=1, progress=Silent())
    return out


def test_this_machine_decodes_in_many_threads() -> None:
    """Linux wheels of the pinned blosc2 bring the library: without it a loader's threads would wait for one another."""
    assert sys.platform != "linux" or LIBRARY() is not None


def test_a_chunk_is_what_lies_in_the_file(folder: Path) -> None:
    path = folder / VolumeStore(folder).index["file"].iat[0]
    opened = array_file.ArrayFile(path)
    whole = path.read_bytes()
    assert opened.shape == (90, 80, 170) and opened.chunks == (64, 64, 160)
    assert all(bytes(opened.chunk(number)) in whole for number in range(8))


def test_a_chunk_of_nothing_is_verified_too(tmp_path: Path) -> None:
    """blosc2 does not write chunks of zeros: it makes them up when they are asked for."""
    array = np.zeros((70, 70, 40), np.int16)
    array[66:, 66:] = 5
    _, checksums, _ = arrays.write_array(tmp_path / "mostly nothing", array)
    reader = arrays.ArrayReader(tmp_path)
    assert np.array_equal(reader.read("mostly nothing", ((0, 70), (0, 70), (0, 40)), checksums), array)
    with pytest.raises(DataError, match="part 0 is not what was written"):
        arrays.ArrayReader(tmp_path).read("mostly nothing", ((0, 1), (0, 1), (0, 1)), [checksums[0] + 1, *checksums[1:]])


def test_what_is_no_file_of_blosc2s_is_an_error(folder: Path, tmp_path: Path) -> None:
    whole = (folder / VolumeStore(folder).index["file"].iat[0]).read_bytes()
    for name, content in (("empty", b""), ("text", b"no array " * 40), ("cut", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: (cannot be opened|damaged)"):
            arrays.ArrayReader(tmp_path).read(name, ((80, 90), (70, 80), (150, 170)))


def random_box(rng: np.random.Generator, shape: tuple[int, ...]) -> arrays.Box:
    edges = [sorted(rng.choice(length + 1, 2, replace=False).tolist()) for length in shape]
    return (edges[0][0], edges[0][1]), (edges[1][0], edges[1][1]), (edges[2][0], edges[2][1])


def test_every_box_is_a_part_of_the_whole(folder: Path) -> None:
    store, rng = VolumeStore(folder), np.random.default_rng(1)
    for row in range(len(store)):
        whole, mask = store.read(row), store.mask(row)
        for _ in range(20):
            box = random_box(rng, store.shape(row))
            part = store.read(row, box)
            cut = tuple(slice(*limits) for limits in box)
            assert np.array_equal(part.array, whole.array[cut]) and part.array.dtype == np.float32
            assert part.affine @ [0, 0, 0, 1] == pytest.approx(whole.affine @ [*(start for start, _ in box), 1])
            if mask is not None:
                part_mask = store.mask(row, box)
                assert part_mask is not None and np.array_equal(part_mask, mask[cut])


def test_integers_and_their_scaling_give_the_values(folder: Path) -> None:
    store = VolumeStore(folder)
    raw, slope, intercept = store.read_raw(0)
    assert raw.dtype == np.int16 and (slope, intercept) == store.scaling(0)
    assert np.array_equal(raw.astype(np.float32) * np.float32(slope) + np.float32(intercept), store.read(0).array)


@pytest.mark.parametrize("box", [((0, 91), (0, 5), (0, 5)), ((-1, 5), (0, 5), (0, 5)), ((5, 5), (0, 5), (0, 5))])
def test_box_outside_the_array_is_refused(folder: Path, box: arrays.Box) -> None:
    with pytest.raises(ValueError, match="not inside row 0's shape"):
        VolumeStore(folder).read(0, box)


def test_threads_read_the_same(folder: Path) -> None:
    store, rng = VolumeStore(folder), np.random.default_rng(2)
    jobs = [(row, random_box(rng, store.shape(row))) for row in rng.integers(0, 3, 120).tolist()]
    alone = [store.read_raw(row, box)[0] for row, box in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: store.read_raw(*job)[0], jobs))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_pickles_as_its_path(folder: Path) -> None:
    store = VolumeStore(folder)
    store.read(0)
    packed = pickle.dumps(store)
    assert len(packed) < 1000 and np.array_equal(pickle.loads(packed).read(1).array, store.read(1).array)


def test_files_kept_open_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_OPEN_FILES", 1)
    store = VolumeStore(folder)
    for _ in range(3):
        assert all(store.read(row).array.shape == store.shape(row) for row in range(3))
    assert len(store._arrays._open) == 1


def test_compression_is_the_chosen_one_and_never_delta(folder: Path) -> None:
    name = VolumeStore(folder).index["file"].iat[0]
    handle = blosc2.open(str(folder / name), mode="r")
    assert handle.chunks == (64, 64, 160) and handle.blocks == (16, 16, 32)
    assert handle.cparams.codec == blosc2.Codec.LZ4 and blosc2.Filter.DELTA not in handle.cparams.filters
    assert blosc2.Filter.SHUFFLE in handle.cparams.filters


def damaged(folder: Path, name: str, at: int, length: int) -> VolumeStore:
    """A copy of the store with some bytes of one file changed."""
    copy = folder.parent / f"damaged-{name.replace('/', '-')}-{at}"
    shutil.copytree(folder, copy)
    content = bytearray((copy / name).read_bytes())
    content[at : at + length] = bytes(byte ^ 0x10 for byte in content[at : at + length])
    (copy / name).write_bytes(content)
    return VolumeStore(copy)


def test_only_touched_chunks_are_decoded_and_a_rotten_one_is_an_error(folder: Path) -> None:
    """Damage far away from the box goes unnoticed, for its chunk is never touched; damage in it names row, volume and file."""
    clean = VolumeStore(folder)
    name = clean.index["file"].iat[0]
    store = damaged(folder, name, at=(folder / name).stat().st_size * 3 // 4, length=1)
    box = ((0, 10), (0, 10), (0, 10))
    assert np.array_equal(store.read(0, box).array, clean.read(0, box).array)
    with pytest.raises(DataError, match=rf"^row 0 \(volume v0\): .*{name}: damaged \(part \d+ is not what was written: the checksum"):
        store.read(0)


@pytest.mark.parametrize("row", [1, 2])
def test_one_changed_bit_anywhere_is_never_a_scan(folder: Path, row: int) -> None:
    clean = VolumeStore(folder)
    index = clean.index.iloc[row]
    for at in np.linspace(index["offset"] + 40, index["offset"] + index["nbytes"] - 1, 7).astype(int):
        store = damaged(folder, index["file"], int(at), 1)
        with pytest.raises(DataError, match=rf"^row {row} \(volume v{row}\): .*damaged"):
            store.read(row)
        assert np.array_equal(store.read(3 - row).array, clean.read(3 - row).array), "its neighbours are whole"


@pytest.mark.parametrize("prefix", ["", "mask_"])
def test_one_changed_bit_outside_the_chunks_is_an_error(folder: Path, prefix: str) -> None:
    """blosc2 reads other values, and no error, where its header's sizes of chunks or its list of chunks have changed."""
    clean = VolumeStore(folder)
    name, (head, tail, _) = clean.index[f"{prefix}file"].iat[0], clean.index[f"{prefix}frame"].iat[0]
    size = (folder / name).stat().st_size
    assert 0 < head < 300 and 0 < tail < 300
    for at in (0, 11, 39, 124, 133, head - 1, size - tail, size - tail // 2, size - 1):
        store = damaged(folder, name, at, 1)
        with pytest.raises(DataError, match=rf"^row 0 \(volume v0\): .*{name}: cannot be opened \(its header is not what was written"):
            store.read(0) if not prefix else store.mask(0)


@pytest.mark.parametrize("place", ["__init__", "read", "chunk"])
def test_whatever_blosc2_raises_is_damage(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def broken(*_: object) -> None:
        raise KeyError("b2nd")

    monkeypatch.setattr(array_file.ArrayFile, place, broken)
    with pytest.raises(DataError, match=r"arrays/0000000\.b2nd: (cannot be opened|damaged) \('b2nd'\)"):
        VolumeStore(folder).read(0)


def test_a_chunk_is_verified_once_for_each_time_its_file_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = arrays.zlib.crc32
    monkeypatch.setattr(arrays.zlib, "crc32", lambda packed, *more: seen.append(len(packed)) or real(packed, *more))
    store = VolumeStore(folder)
    for _ in range(3):
        store.read(0, ((0, 64), (0, 64), (0, 160)))
        store.read(1)
    assert len(seen) == 4 and seen[0] + seen[1] == sum(store.index["frame"].iat[0][:2]), "what lies before and after the chunks first"
    store.read(0)
    assert len(seen) == 3 + len(store.index["checksums"].iat[0]) == 3 + 8


def test_a_store_without_checksums_is_read_as_it_is(folder: Path) -> None:
    copy = folder.parent / "old"
    shutil.copytree(folder, copy)
    VolumeStore(folder).index.drop(columns=["checksums", "mask_checksums", "frame", "mask_frame"]).to_parquet(copy / "index.parquet")
    old, new = VolumeStore(copy), VolumeStore(folder)
    assert all(np.array_equal(old.read(row).array, new.read(row).array) for row in range(3))
    assert np.array_equal(old.mask(0), new.mask(0))  # type: ignore[arg-type]


def test_folder_without_a_card_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="not whole"):
        VolumeStore(tmp_path)


def test_missing_array_file_is_a_data_error(folder: Path) -> None:
    copy = folder.parent / "missing"
    shutil.copytree(folder, copy)
    (copy / VolumeStore(copy).index["file"].iat[0]).unlink()
    with pytest.raises(DataError, match="prepare it again"):
        VolumeStore(copy).read(0)


@pytest.mark.parametrize(("free", "said"), [(1000, OSError), (10**9, RuntimeError)])
def test_a_full_disk_is_said(free: int, said: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """blosc2 says that something went wrong, and not what."""

    def fails(*_, **__):
        raise RuntimeError("Error while creating the NDArray")

    monkeypatch.setattr(arrays, "_blosc2", SimpleNamespace(asarray=fails))
    monkeypatch.setattr(arrays, "_compression", lambda array: {})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(said, match="No space left" if said is OSError else "NDArray"):
        arrays.write_array(tmp_path / "a.b2nd", np.zeros((64, 64, 64), np.int16))
    assert not any(tmp_path.iterdir())

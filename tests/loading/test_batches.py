from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
import torch

from medcl.encoders import tokenizer
from medcl.foundation import distributed
from medcl.foundation.errors import DataError, MedclError, UserError
from medcl.foundation.types import Batch
from medcl.loading.batches import Batches
from medcl.loading.texts import ReportTexts
from tests.conftest import ROOT
from tests.loading.made_pictures import CountingStore, Growing, KeyedMaker

CPU = torch.device("cpu")
WAYS = {"by workers": {}, "on a device": {"device": CPU}, "on a device, by processes": {"device": CPU, "processes": True}}
every_way = pytest.mark.parametrize("way", list(WAYS.values()), ids=list(WAYS))


def _batches(num_items: int = 10, size: tuple[int, ...] = (4, 3, 2), fails: int | None = None, **settings) -> Batches:
    few = {"num_views": 2, "world_batch": 4, "seed": 0, "workers": 2, **settings}
    return Batches(CountingStore(num_items), KeyedMaker(size, fails), **few)


def _copy(batch: Batch) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in (*batch.views, batch.item, batch.patient)]


def test_shapes_and_codes() -> None:
    batch = _batches().at(0)
    assert [view.shape for view in batch.views] == [(4, 1, 4, 3, 2)] * 2
    assert batch.views[0].dtype == torch.float32 and batch.item.dtype == batch.patient.dtype == torch.int64
    assert torch.equal(batch.views[0].flatten(1).floor().mode(dim=1).values.long(), batch.item)
    assert torch.equal(batch.patient, batch.item // 2)
    assert not torch.equal(*batch.views)


def test_pictures_come_as_rows_and_columns() -> None:
    class Gradient(KeyedMaker):
        def render(self, store, row, parameters, out):
            assert out.shape == (5, 3, 1)  # x = columns, y = rows
            out[...] = np.arange(5)[:, None, None]
            return out

    batch = Batches(CountingStore(4), Gradient((3, 5)), num_views=1, world_batch=2, seed=0).at(0)
    assert batch.views[0].shape == (2, 1, 3, 5)
    assert batch.views[0][0, 0, 0].tolist() == [0, 1, 2, 3, 4]


@every_way
@pytest.mark.parametrize("workers", [0, 1, 5])
def test_any_number_of_workers_makes_the_same_batches_from_any_step_on(workers: int, way: dict) -> None:
    wanted = [_copy(_batches().at(step)) for step in range(9)]
    workers = min(workers, 2) if "processes" in way else workers
    for start in (0, 4):
        found = [_copy(batch) for batch in _batches(workers=workers, **way).iterate(start, 9)]
        assert len(found) == 9 - start
        for first, second in zip(found, wanted[start:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_ranks_share_the_world_batch_without_gap_or_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _batches().at(3)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(_batches().at(3))
    assert torch.equal(torch.cat([part.views[1] for part in parts]), whole.views[1])
    assert torch.equal(torch.cat([part.item for part in parts]), whole.item)
    with pytest.raises(UserError, match="world_batch: 5 items cannot be shared by 2"):
        _batches(world_batch=5)


def test_only_the_given_rows_are_used() -> None:
    batches = _batches(rows=[2, 3, 7])
    seen = {int(item) for step in range(6) for item in batches.at(step).item}
    assert seen == {2, 3, 7}
    with pytest.raises(UserError, match="empty"):
        _batches(rows=[])


def test_an_item_met_twice_in_a_batch_has_views_of_its_own() -> None:
    batch = _batches(num_items=2, world_batch=6).at(0)
    for item in (0, 1):
        views = batch.views[0][batch.item == item]
        assert len(views) == 3 and len({float(view.sum()) for view in views}) == 3


@every_way
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_item_is_named_with_its_step(workers: int, way: dict) -> None:
    batches = _batches(fails=6, workers=workers, **way)
    step = next(step for step in range(10) if 6 in batches.rows_at(step))
    come = []
    with pytest.raises(DataError, match=rf"step {step}: row 6 of the store \(volume v6\).*chunk is damaged"):
        for _ in batches.iterate(0, 10):
            come.append(len(come))
    assert come == list(range(step)), "the steps before it are whole"


@every_way
@pytest.mark.parametrize("workers", [0, 3])
def test_a_broken_item_may_be_skipped_but_is_named_and_never_replaced_in_silence(workers: int, way: dict) -> None:
    said: list[str] = []
    batches = _batches(fails=6, workers=workers, rows=[2, 6, 8], world_batch=3, on_unreadable=said.append, **way)
    found = [_copy(batch) for batch in batches.iterate(0, 4)]
    assert [sorted(items.tolist()) for *_, items, _ in found] == [[2, 8, 8]] * 4, "the next row stands where row 6 stood, and says so"
    assert len(said) == 1 and "row 6 of the store (volume v6)" in said[0] and "chunk is damaged" in said[0]
    assert list(batches.skipped) == [6]
    for first, _, items, patients in found:
        twins = first[items == 8]
        assert not torch.equal(twins[0], twins[1]) and torch.equal(patients, items // 2)
    again = _batches(fails=6, rows=[2, 6, 8], world_batch=3, on_unreadable=said.append).at(3)
    assert all(torch.equal(a, b) for a, b in zip(_copy(again), found[3], strict=True)), "a restart skips alike"


def test_nothing_readable_is_an_error_even_where_rows_may_be_skipped() -> None:
    batches = _batches(fails=6, rows=[6], world_batch=1, on_unreadable=lambda _: None)
    with pytest.raises(DataError, match=r"none of 1 rows can be read.*row 6 of the store"):
        batches.at(0)


def test_texts_and_targets_belong_to_their_items() -> None:
    texts = [f"Report number {row} says so." for row in range(10)]
    words = tokenizer.train(texts, 300)
    batch = _batches(texts=ReportTexts(texts, words, 24), targets=np.arange(10.0)).at(1)
    assert batch.text is not None and batch.target is not None
    for row, (item, ids) in enumerate(zip(batch.item.tolist(), batch.text.ids, strict=True)):
        assert f"number {item} " in words.decode(ids.tolist())
        assert float(batch.target[row]) == item
    with pytest.raises(UserError, match=r"1 of 10 scans have no report text \(store rows \[9\]"):
        _batches(texts=ReportTexts([*texts[:9], ""], words, 24))


def test_a_device_without_memory_is_named_with_its_step() -> None:
    class Full(KeyedMaker):
        def render_batch(self, raw, device):
            raise torch.OutOfMemoryError("CUDA out of memory")

    batches = Batches(CountingStore(4), Full((4, 3, 2)), num_views=2, world_batch=2, seed=0, device=torch.device("cpu"))
    with pytest.raises(UserError, match=r"step 3: out of memory on cpu while its views were computed; lower training.world_batch"):
        batches.at(3)


@every_way
def test_leaving_early_ends_the_workers(way: dict) -> None:
    before = threading.active_count(), _children()
    steps = _batches(**way).iterate(0, 1000)
    next(steps)
    assert len(_children() - before[1]) == (2 if "processes" in way else 0)
    steps.close()
    assert (threading.active_count(), _children()) == before


def _children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def test_a_reader_that_dies_is_named() -> None:
    before = _children()
    steps = _batches(**WAYS["on a device, by processes"]).iterate(0, 1000)
    next(steps)
    os.kill(min(_children() - before), signal.SIGKILL)
    with pytest.raises(MedclError, match=r"reader process 0 of this run was killed \(SIGKILL\).*lower training.workers"):
        for _ in steps:
            pass
    assert _children() == before


def test_readers_end_with_the_run_however_it_ends() -> None:
    begin = "from tests.loading.test_batches import WAYS, _batches"
    program = f"{begin}\nfor batch in _batches(**list(WAYS.values())[2]).iterate(0, 10**9): print(flush=True)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline()
        readers = psutil.Process(process.pid).children()
        process.kill()
    assert len(readers) == 2
    _, alive = psutil.wait_procs(readers, timeout=20)
    assert not alive


def test_memory_shared_with_readers_grows_with_what_they_read() -> None:
    batches = Batches(CountingStore(4), Growing((1, 1, 1)), num_views=1, world_batch=4, seed=0, workers=2, device=CPU, processes=True)
    sizes = [batch.views[0].flatten().tolist() == batch.item.tolist() for batch in batches.iterate(0, 12)]
    assert sizes == [True] * 12


@pytest.mark.parametrize("known", ["in a function", "in a script"])
def test_a_step_that_readers_cannot_find_is_refused_with_the_way_out(known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(KeyedMaker):
        pass

    if known == "in a script":
        Own.__module__, Own.__qualname__ = "__main__", "Own"
        monkeypatch.setattr(sys.modules["__main__"], "Own", Own, raising=False)
    settings = {"num_views": 1, "world_batch": 2, "seed": 0, "workers": 1}
    with pytest.raises(UserError, match=r"Own.*define your step in a module of its own, or set training.workers to 0"):
        Batches(CountingStore(4), Own((4, 3, 2)), device=CPU, processes=True, **settings).at(0)

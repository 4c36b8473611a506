"""The fuzzer: whatever is done to a scan, ingest refuses it with a code or reads what its bytes say, quickly and in little memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from medcl.ingest import read_scans
from medcl.ingest.workers import Workers
from tests.ingest.judging import CONFIG, Verdict, died, is_intact, judge, try_out
from tests.ingest.mutants import COUNT, SEEDS, Mutant, mutants, seeds


def verdicts(some: Sequence[Mutant]) -> list[Verdict]:
    """All in one child: whatever kills it is found out, and costs that mutant alone."""
    with Workers(1, most_bytes=16 * 2**30) as workers:
        return [verdict for _, verdict in workers.work(try_out, some, died)]


def problems(found: Sequence[Verdict]) -> list[tuple[str, tuple[str, ...], str]]:
    return [(one.name, one.reasons, one.problem) for one in found if one.problem]


def test_whole_seeds_are_read_as_their_bytes_say() -> None:
    assert {seed.name: is_intact(seed) for seed in seeds()} == dict.fromkeys((seed.name for seed in seeds()), "")


def test_mutants_end_right_or_refused() -> None:
    found = verdicts(mutants(SEEDS[0])[::3])
    assert problems(found) == []
    assert len(found) >= 150
    assert len({reason for one in found for reason in one.reasons}) >= 15


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", SEEDS)
def test_all_mutants_end_right_or_refused(seed: int) -> None:
    found = verdicts(mutants(seed))
    assert problems(found) == []
    assert len(found) == COUNT


def test_mutants_are_the_same_every_time_and_of_every_way() -> None:
    one, other = mutants(SEEDS[1], 200), mutants(SEEDS[1], 200)
    assert [mutant.files for mutant in one] == [mutant.files for mutant in other]
    assert len({mutant.name.rsplit("-", 1)[1] for mutant in one[20:]}) >= 14
    assert {mutant.seed.name for mutant in one} == {seed.name for seed in seeds()}


@pytest.mark.parametrize("name", ["nifti", "ct-explicit", "x-ray-plain"])
def test_the_judge_notices_one_wrong_voxel_and_a_wrong_place(name: str, tmp_path) -> None:
    seed = next(one for one in seeds() if one.name == name)
    whole = Mutant(name, seed, seed.files)
    reading = read_scans(whole.write(tmp_path / "in"), CONFIG)
    assert judge(whole, reading.volumes, reading.ledger) == ""
    (volume,) = reading.volumes
    wrong = volume.array.copy()
    wrong[3, 4, 0] += 1
    assert "wrong" in judge(whole, [replace(volume, array=wrong)], reading.ledger)
    moved = volume.affine + np.array([[0, 0, 0, 0.5], *[[0] * 4] * 3])
    if seed.kind != "picture":
        assert "wrong" in judge(whole, [replace(volume, affine=moved)], reading.ledger)
    assert judge(whole, [], reading.ledger) != ""
    assert "ledger" in judge(whole, reading.volumes, reading.ledger[1:])

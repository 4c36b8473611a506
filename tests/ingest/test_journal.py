"""A killed ingest goes on, the next one reads only what is new, and neither can be told from a fresh one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pytest

from medcl.foundation.errors import UserError
from medcl.ingest.headers import brief_of, frames_of, read_headers
from medcl.ingest.journal import JOURNAL, Journal, key_of
from medcl.ingest.plain import from_text, to_text
from medcl.ingest.readers import Unit, UnitResult, read_unit
from medcl.ingest.records import Identity
from medcl.ingest.run import ingest
from medcl.ingest.settings import IngestConfig
from medcl.ingest.sources import survey
from tests.ingest.scanner import phantom, series
from tests.ingest.test_ingest_run import KEY, every_byte
from tests.ingest.test_nifti import mask_of, write

Item = TypeVar("Item")
ROOT = Path(__file__).resolve().parents[2]
PATIENTS = 6


class Count:
    """Counts what is really read; kills this process after `deadly` items of one stage."""

    def __init__(self, stage: str = "", deadly: int = -1) -> None:
        self.stage, self.deadly = stage, deadly
        self.done: Counter[str] = Counter()

    def say(self, message: str) -> None:
        """Nothing."""

    def track(self, items: Iterable[Item], total: int, what: str, done: int = 0) -> Iterator[Item]:
        """The items, counted."""
        for item in items:
            if (what, self.done[what]) == (self.stage, self.deadly):
                os.kill(os.getpid(), signal.SIGKILL)
            if what.startswith("reading"):
                self.done[what] += 1
            yield item


def cohort(folder: Path) -> Path:
    for number in range(PATIENTS):
        series(folder / f"p{number}", phantom(4, seed=number), patient=f"P{number}", uid=f"2.25.{number}")
    write(folder / "mr" / "scan.nii.gz")
    write(folder / "mr" / "scan_mask.nii.gz", mask_of())
    (folder / "notes.txt").write_text("hello")
    return folder


def killed(source: Path, out: Path, stage: str, after: int) -> None:
    code = (
        "import sys; from tests.ingest.test_journal import Count, KEY; from medcl.ingest.run import ingest;"
        "ingest(sys.argv[1], sys.argv[2], jobs=0, key=KEY, progress=Count(sys.argv[3], int(sys.argv[4])))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(source), str(out), stage, str(after)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def run(source: Path, out: Path, jobs: int = 0) -> Counter[str]:
    count = Count()
    ingest(source, out, jobs=jobs, key=KEY, progress=count)
    return count.done


@pytest.mark.parametrize(("stage", "after", "left"), [("reading headers", 0, 8), ("reading volumes", 3, 5), ("reading volumes", 7, 1)])
def test_killed_at_any_moment_it_goes_on(tmp_path: Path, stage: str, after: int, left: int) -> None:
    source = cohort(tmp_path / "in")
    run(source, tmp_path / "whole")
    killed(source, tmp_path / "torn", stage, after)
    assert not (tmp_path / "torn" / "card.json").exists()
    with open(tmp_path / "torn" / "private" / JOURNAL, "ab") as journal:
        journal.write(b"0badc0de + 12")  # the line that was being written when the power went
    done = run(source, tmp_path / "torn")
    # What was under way when it died is the only thing that is read again.
    assert done["reading volumes"] in (left, left + 1)
    assert ("reading headers" in done) == (stage == "reading headers")
    assert every_byte(tmp_path / "torn") == every_byte(tmp_path / "whole")
    assert run(source, tmp_path / "torn", jobs=2) == {}
    assert every_byte(tmp_path / "torn") == every_byte(tmp_path / "whole")


def test_only_new_and_changed_files_are_read_and_removed_ones_leave(tmp_path: Path) -> None:
    source = cohort(tmp_path / "in")
    run(source, tmp_path / "out")
    series(source / "new", phantom(4, seed=9), patient="P9", uid="2.25.9")
    shutil.rmtree(source / "p0")
    changed = source / "p1" / "IM0002.dcm"
    content = bytearray(changed.read_bytes())
    content[-5] ^= 1
    changed.write_bytes(content)
    os.utime(changed, ns=(0, 1))
    done = run(source, tmp_path / "out")
    assert done == {"reading headers": 1, "reading volumes": 2}
    run(source, tmp_path / "fresh")
    assert every_byte(tmp_path / "out") == every_byte(tmp_path / "fresh")
    journal = (tmp_path / "out" / "private" / JOURNAL).read_text()
    assert "2.25.9" in journal and "/p0/" not in journal
    assert len(pd.read_parquet(tmp_path / "out" / "ledger.parquet")) == 4 * PATIENTS + 3


def test_other_settings_read_everything_anew(tmp_path: Path) -> None:
    source = cohort(tmp_path / "in")
    run(source, tmp_path / "out")
    count = Count()
    ingest(source, tmp_path / "out", jobs=0, key=KEY, settings=IngestConfig(split={"seed": 3}), progress=count)  # type: ignore[arg-type]
    assert count.done == {}
    ingest(source, tmp_path / "out", jobs=0, key=KEY, settings=IngestConfig(min_slices=3), progress=count)
    assert count.done == {"reading headers": 1, "reading volumes": 8}


def test_what_may_end_otherwise_is_tried_again(tmp_path: Path) -> None:
    source = cohort(tmp_path / "in")
    (source / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + bytes(500))
    run(source, tmp_path / "out")
    assert run(source, tmp_path / "out") == {"reading headers": 1}


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", "x"), pytest.raises(UserError, match="another medcl is writing this folder"):
        Journal(tmp_path / "j", "x")


def test_a_damaged_line_ends_what_is_believed(tmp_path: Path) -> None:
    keys = [key_of(name) for name in "abc"]
    with Journal(tmp_path / "j", "x") as journal:
        for key in keys:
            journal.put(key, f"[{key}]")
        journal.put(key_of("d"), "[]", keep=False)
        assert [journal.get(key) for key in keys] == [f"[{key}]" for key in keys]
    content = (tmp_path / "j").read_bytes()
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600
    (tmp_path / "j").write_bytes(content.replace(f"[{keys[1]}]".encode(), f"[{keys[2]}]".encode()))
    with Journal(tmp_path / "j", "x") as journal:
        assert [key in journal for key in (*keys, key_of("d"))] == [True, False, False, False]
        journal.put(keys[2], "[2]")
        assert journal.get(keys[2]) == "[2]"
    with Journal(tmp_path / "j", "y") as journal:
        assert keys[0] not in journal


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    source = cohort(tmp_path / "in")
    met = [one for one in survey([source]).files if "p1" in one.path]
    texts = read_headers(met, IngestConfig())
    frames = frames_of(texts)
    assert [frame.position[2] for frame in frames] == [30.0, 32.5, 35.0, 37.5]
    assert brief_of(texts[0]).series == "2.25.1" and not brief_of(texts[0]).picture
    result = read_unit(Unit("dicom_group", tuple(met), tuple(texts)), IngestConfig())
    again = from_text(UnitResult, to_text(result))
    np.testing.assert_array_equal(again.outcome.scans[0].affine, result.outcome.scans[0].affine)
    assert repr(again) == repr(result)
    strange = Identity("\udcff\ud800 \n\t", names=("é", ""))
    assert from_text(Identity, to_text(strange)) == strange and to_text(strange).isascii()

"""460 damaged scans, three times, through one joint `medcl ingest` each (and one by one): nothing silent, no crash, no hang, no flood.

python benchmarks/ingest_mutants.py [--seeds 20260101 20260102 20260103] [--alone] [--out reports/ingest/mutants.md]

The mutants are those of tests/ingest/mutants.py; what came of each is judged by a plain reading of its bytes that shares no library with
medcl (tests/ingest/plain_reading.py). In the joint run every mutant is a patient of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medcl.foundation.types import Volume
from medcl.ingest import LedgerEntry, open_data
from medcl.ingest.data import Data
from medcl.ingest.manifest import SOURCES, read_table
from medcl.ingest.privacy import Hasher
from medcl.ingest.workers import Workers
from tests.ingest.judging import CONFIG, died, judge, try_out
from tests.ingest.mutants import SEEDS, Mutant, mutants

ROOT = Path(__file__).resolve().parents[1]
_MOST_BYTES = 16 * 2**30
_HEADER = (
    "seed", "files", "ledger rows", "exit", "silent or wrong", "killed a child", "s", "peak MiB of a child", "slowest alone, CPU s",
    "most memory alone, MiB",
)  # fmt: skip


def main() -> None:
    """Measure, print, and write the table after each seed."""
    parser = argparse.ArgumentParser(description="Damaged scans through medcl ingest.")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--alone", action="store_true", help="Then each mutant by itself.")
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    rows: list[Sequence[object]] = []
    reasons: Counter[str] = Counter()
    problems: list[str] = []
    text = ""
    for seed in said.seeds:
        some = [_as_patient(mutant, number) for number, mutant in enumerate(mutants(seed))]
        joint = _joint(some, reasons, problems)
        rows.append((seed, *joint, *(_alone(some, problems) if said.alone else ("-", "-"))))
        text = _table(rows, reasons, problems)
        if said.out is not None:
            said.out.parent.mkdir(parents=True, exist_ok=True)
            said.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def _alone(some: Sequence[Mutant], problems: list[str]) -> tuple[str, str]:
    """Every mutant by itself in one child: the most processor seconds and the most memory."""
    with Workers(1, _MOST_BYTES) as workers:
        found = [verdict for _, verdict in workers.work(try_out, some, died)]
    problems += [f"{one.name}, alone: {one.problem} ({', '.join(one.reasons)})" for one in found if one.problem]
    return f"{max(one.seconds for one in found):.1f}", f"{max(one.mib for one in found):.0f}"


def _as_patient(mutant: Mutant, number: int) -> Mutant:
    """The mutant under a patient's id of its own, as far as its bytes show one."""

    def renamed(content: bytes) -> bytes:
        return content.replace(b"MRN0001", b"M%06d" % number)

    seed = replace(mutant.seed, files={name: renamed(content) for name, content in mutant.seed.files.items()})
    return Mutant(mutant.name, seed, {name: renamed(content) for name, content in mutant.files.items()})


def _joint(some: Sequence[Mutant], reasons: Counter[str], problems: list[str]) -> tuple[object, ...]:
    """One `medcl ingest` over all of them: files, ledger rows, exit code, wrong ones, dead children, seconds, peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for number, mutant in enumerate(some):
            mutant.write(home / "in" / f"{number:04d}")
        (home / "settings.yaml").write_text(yaml.safe_dump(CONFIG.model_dump(mode="json", exclude_defaults=True)))
        start = time.perf_counter()
        line = [sys.executable, "-m", "medcl", "ingest", "in", "--out", "out", "--settings", "settings.yaml", "--jobs", "2", "--quiet"]
        run = subprocess.Popen(line, cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT)})
        peak = _watch(run)
        seconds = time.perf_counter() - start
        files = sum(len(mutant.files) for mutant in some)
        if run.returncode:
            problems.append(f"the joint ingest ended with {run.returncode}")
            return files, 0, run.returncode, "?", "?", f"{seconds:.0f}", f"{peak:.0f}"
        data = open_data(home / "out")
        found = _judged(data, some, home / "in")
        problems += found
        reasons.update(data.ledger["reason"])
        dead = int((data.ledger["reason"] == "decoder_died").sum())
        return files, len(data.ledger), 0, len(found), dead, f"{seconds:.0f}", f"{peak:.0f}"


def _watch(run: subprocess.Popen[bytes]) -> float:
    """Wait for a command; the largest peak (MiB) of any process it started, itself left out."""
    peaks = [0.0]

    def look() -> None:
        while run.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess, OSError):  # children come and go
                for child in psutil.Process(run.pid).children(recursive=True):
                    status = Path(f"/proc/{child.pid}/status").read_text()
                    peaks.append(next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0))
            time.sleep(0.02)

    watcher = threading.Thread(target=look)
    watcher.start()
    run.wait()
    watcher.join()
    return max(peaks)


def _judged(data: Data, some: Sequence[Mutant], source: Path) -> list[str]:
    """What is wrong with the mutants' outcomes in a DATA folder."""
    hasher = Hasher((data.folder / "private" / "key").read_bytes())
    reason_of = dict(zip(data.ledger["file_key"], data.ledger["reason"], strict=True))
    volumes: dict[str, list[Volume]] = defaultdict(list)
    times = dict(zip(data.manifest["volume_id"], data.manifest["time_index"], strict=True))
    sources = read_table(data.folder / SOURCES)
    for item, paths in sorted(zip(sources["item_id"], sources["paths"], strict=True), key=lambda pair: times.get(pair[0], 0)):
        volumes[Path(paths[0]).parent.name].append(data.volume(item))
    wrong = []
    for number, mutant in enumerate(some):
        folder = source / f"{number:04d}"
        paths = [str(folder / name) for name in mutant.files]
        entries = [LedgerEntry(key, "used", reason_of[key], path=path) for path in paths if (key := hasher("file", path)) in reason_of]
        problem = judge(mutant, volumes[folder.name], entries)
        wrong += [f"{mutant.name}, in the joint run: {problem}"] if problem else []
    return wrong


def _table(rows: Sequence[Sequence[object]], reasons: Counter[str], problems: Sequence[str]) -> str:
    lines = [
        "# Damaged scans through medcl ingest",
        "",
        "Made by `benchmarks/ingest_mutants.py`: truncation, flipped bits, absurd fields, swapped tags, huge lengths, nested",
        "sequences, gzip, deflate and codec bombs upon 18 small scans. One joint `medcl ingest --jobs 2` per seed; with `--alone` then",
        "each mutant by itself in one child. *Silent or wrong*: not refused, and not what a plain reading of the bytes says. Memory",
        "alone: beyond what the process held before.",
        "",
        f"| {' | '.join(_HEADER)} |",
        "|---" * len(_HEADER) + "|",
        *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows),
        "",
        "## What became of the files of the joint runs",
        "",
        "| reason | files |",
        "|---|---|",
        *(f"| {reason} | {count} |" for reason, count in reasons.most_common()),
    ]
    return "\n".join([*lines, *(["", "## Problems", "", *(f"- {problem}" for problem in problems)] if problems else [])])


if __name__ == "__main__":
    main()

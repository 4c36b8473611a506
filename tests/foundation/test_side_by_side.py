"""Worker processes end with their parent."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLED = """
import multiprocessing, os, signal, time
from concurrent.futures import ProcessPoolExecutor
from medcl.foundation.side_by_side import begin_child

if __name__ == "__main__":
    context = multiprocessing.get_context("{start}")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=begin_child)
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 60)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_a_child_ends_with_its_killed_parent(tmp_path: Path, start: str) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(start=start))
    parent = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    child = int(parent.stdout)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _is_alive(child):
        time.sleep(0.05)
    assert not _is_alive(child)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"

"""Worker processes end with their parent."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
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


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    """Python runs such a script again in every process that it starts, which ends there."""
    for number in range(3):
        array = np.random.default_rng(number).integers(0, 99, (4, 4, 4)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{number}.nii.gz")  # type: ignore[attr-defined]
    script = tmp_path / "script.py"
    call = f"ingest({str(tmp_path)!r}, {str(tmp_path / 'out')!r}, settings=IngestConfig(modality='mr'), jobs=2)"
    begin = f"import sys; sys.path[:] = {sys.path!r}\nfrom medcl.ingest.run import ingest\nfrom medcl.ingest.settings import IngestConfig\n"
    script.write_text(begin + call)
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert found.returncode == 1
    assert "UserError: processes to work in ended as they began" in found.stderr and '`if __name__ == "__main__":`' in found.stderr
    assert "decoder_died: " not in found.stderr and not (tmp_path / "out" / "manifest.parquet").exists()
    script.write_text(f"{begin}if __name__ == '__main__': {call}")
    assert subprocess.run([sys.executable, script], timeout=120).returncode == 0

"""Memory that was freed is there for the next array."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medcl.foundation import memory

_PAGES = """
import resource
import numpy as np
from medcl.foundation.memory import keep_freed

def fetched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones({megabytes} * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if {keep}:
    keep_freed()
fetched()
print(fetched())
"""


def _fetched_again(keep: bool, megabytes: int) -> int:
    """Pages that the system hands out for an array as large as the one just freed."""
    code = _PAGES.format(keep=keep, megabytes=megabytes)
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_freed_array_of_a_scan_is_used_again_and_a_huge_one_given_back() -> None:
    assert _fetched_again(False, 100) > 20
    assert _fetched_again(True, 100) < 10
    assert _fetched_again(True, 1100) > 20


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "win32")
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    memory.keep_freed()

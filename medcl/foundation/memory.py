"""How a process keeps memory."""

from __future__ import annotations

import ctypes
import sys

_KEPT_BYTES = 2**30
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # <malloc.h>


def keep_freed() -> None:
    """Keep up to 1 GiB of what this process frees for its next arrays, with glibc; elsewhere nothing changes.

    By default glibc gives every array of over 32 MiB back to the system, which hands it out again page by page, each filled with
    zeros: a tenth of the time of preparing a CT (reports/store/prepare_speed.md). For processes that are medcl's own: the command
    line and its workers.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        # An older glibc refuses a threshold above 32 MiB: then no array is asked for by itself, however large.
        if not mallopt(_MMAP_THRESHOLD, _KEPT_BYTES):
            mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)

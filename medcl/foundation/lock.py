"""One process at a time writes a folder: it holds a file of it, and the system lets go of the file however the process ends."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from medcl.foundation.errors import UserError
from medcl.foundation.files import PARTIAL, make_folder

LOCK = ".lock"


def hold(file: IO[Any], folder: Path) -> None:
    """Hold an open file until it is closed. Raises UserError naming the folder where another holds it.

    Some file systems of clusters keep no locks; there the file counts as held.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{folder}: another medcl is writing this folder; wait for it, or take another --out") from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK):
            raise


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's `.lock`, which is empty and stays there. Raises UserError where another process does."""
    make_folder(folder)
    with open(folder / LOCK, "ab") as file:
        hold(file, folder)
        yield


def holds_anything(folder: Path) -> bool:
    """Whether there is more in a folder than its lock and what a kill left of a file that was being written."""
    return folder.is_dir() and bool({*folder.iterdir()} - {folder / LOCK, *folder.glob(PARTIAL)})

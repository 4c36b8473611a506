"""What every command does alike: progress, the answer, `--json`, and how each failure ends."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from medcl.foundation.errors import MedclError
from medcl.foundation.progress import Bar, Lines, Progress, Silent

# Rooms that see raw headers or report texts.
_PRIVATE_ROOMS = ("medcl/ingest/", "medcl/loading/texts", "medcl/encoders/tokenizer")


class Conversation:
    """A context manager around a command. `progress` is for long functions; `done` gives the answer.

    Exits as contract.md says: the error's own code, 130 after Ctrl-C, 1 with a traceback in a private file for a bug.
    loads: whether the command begins by `loading`.
    """

    def __init__(self, command: str, as_json: bool, quiet: bool, loads: bool = False) -> None:
        self.command = command
        self.as_json = as_json
        self.quiet = quiet
        self.progress: Progress = Silent() if quiet else Bar() if sys.stderr.isatty() else Lines()
        self._stdout, self._python_stdout = -1, sys.stdout
        self._code = 0
        if loads:
            self.loading()

    def __enter__(self) -> Conversation:
        if self.as_json:  # libraries print, some from C: only the one object may reach the real stdout
            sys.stdout.flush()
            self._stdout, self._python_stdout = os.dup(1), sys.stdout
            os.dup2(2, 1)
            sys.stdout = sys.stderr
        return self

    def loading(self) -> None:
        """Say on a terminal why nothing happens for some seconds: the command is about to import torch and MONAI."""
        if isinstance(self.progress, Bar):
            self.progress.say(f"{self.command}: loading torch and MONAI")

    def done(self, lines: Iterable[str], result: Mapping[str, Any], next: str, code: int = 0) -> None:
        """Give the answer. No lines: another process of the same job speaks. code: what the command returns."""
        lines = list(lines)
        if not lines:
            return
        self._code = code
        self._put_json({"ok": code == 0, "exit": code, "result": dict(result), "next": next})
        if not self.quiet:
            for line in [*lines, f"Next: {next}"]:
                print(line, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is not None and not isinstance(error, SystemExit):
                code, message = _explain(error, self.command)
                self._put_json({"ok": False, "exit": code, "error": message})
                print(message, file=sys.stderr, flush=True)
                raise SystemExit(code) from None
            if self._code:
                raise SystemExit(self._code)
        finally:
            if self.as_json:
                sys.stdout = self._python_stdout
                os.dup2(self._stdout, 1)
                os.close(self._stdout)

    def _put_json(self, content: dict[str, Any]) -> None:
        if self.as_json:
            text = json.dumps({"command": self.command, **content}, default=str, ensure_ascii=False)
            os.write(self._stdout, (text + "\n").encode())


def _explain(error: BaseException, command: str) -> tuple[int, str]:
    """The exit code and the one message of a failure."""
    if isinstance(error, MedclError):
        return error.exit_code, f"{command}: {error}"
    if isinstance(error, KeyboardInterrupt):
        return 130, f"{command}: interrupted; what was finished is kept, the same command goes on"
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return 2, f"{command}: out of memory; make it smaller: training.world_batch, views.size or --jobs (training.pieces keeps the batch)"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
        return 2, f"{command}: {error.filename or 'writing'}: {error.strerror}; choose another --out, or make room there"
    where, shown = _write_traceback(error)
    return 1, f"{command}: unexpected failure, a bug in medcl: {shown}\nThe traceback is in {where}; please send it with your report."


def _write_traceback(error: BaseException) -> tuple[str, str]:
    """Write where it happened, without values of variables; returns the file's path and the error in one line.

    Rooms that see identifiers (raw headers, report texts) may have them in the message of an exception, so with one
    of them on the way the messages are left out too. What went wrong in another process tells its way in its message.
    """
    import tempfile
    import traceback

    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    frames = [traceback.extract_tb(link.__traceback__) for link in chain]
    way = [frame.filename for stack in frames for frame in stack] + [str(link) for link in chain]
    private = any(room in place.replace(os.sep, "/") for place in way for room in _PRIVATE_ROOMS)
    titles = [type(link).__name__ if private else f"{type(link).__name__}: {link}" for link in chain]
    descriptor, path = tempfile.mkstemp(prefix="medcl-", suffix=".traceback.txt")  # mode 0600
    with open(descriptor, "w", encoding="utf-8") as handle:
        for title, stack in reversed(list(zip(titles, frames, strict=True))):
            handle.writelines([*stack.format(), f"{title}\n\n"])
    return path, titles[0]

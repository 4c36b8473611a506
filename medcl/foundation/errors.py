"""The four ways a command can end other than well, each with its exit code."""

from __future__ import annotations


class MedclError(Exception):
    """Something went wrong that we know how to explain; `exit_code` is what the process returns."""

    exit_code = 1


class UserError(MedclError):
    """What the user gave is wrong. The message names file, field, value and the way out. No traceback."""

    exit_code = 2


class DataError(MedclError):
    """The data failed: nothing usable, an audit breached, a leak between splits found."""

    exit_code = 3


class Stopped(MedclError):
    """Stopped by a signal or a time limit with everything saved; the same command goes on."""

    exit_code = 75

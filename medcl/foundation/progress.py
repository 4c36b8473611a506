"""Telling a person how far a long job is: a bar on a terminal, plain lines elsewhere, silence when asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """What long functions accept. They never print by themselves."""

    def say(self, message: str) -> None:
        """One line for the person."""
        ...

    def track(self, items: Iterable[Item], total: int, what: str, done: int = 0) -> Iterator[Item]:
        """Pass the items through, showing how many of `total` are done; `done` were done before."""
        ...


class Silent:
    """Says nothing; the default of library functions."""

    def say(self, message: str) -> None:
        """Nothing."""

    def track(self, items: Iterable[Item], total: int, what: str, done: int = 0) -> Iterator[Item]:
        """The items, unchanged."""
        yield from items


class Lines:
    """Plain lines on stderr, at most one every `every_s` seconds: for logs and batch systems."""

    def __init__(self, every_s: float = 10.0) -> None:
        self.every_s = every_s

    def say(self, message: str) -> None:
        """Print one line on stderr."""
        print(message, file=sys.stderr, flush=True)

    def track(self, items: Iterable[Item], total: int, what: str, done: int = 0) -> Iterator[Item]:
        """Pass the items through; print count, rate and time left now and then."""
        start = last = time.monotonic()
        count = done
        for count, item in enumerate(items, start=done + 1):
            yield item
            now = time.monotonic()
            if now - last >= self.every_s:
                rate = (count - done) / (now - start)
                self.say(f"{what}: {count}/{total}, {rate:.1f}/s, {_clock((total - count) / rate)} left")
                last = now
        if count - done:
            self.say(f"{what}: {count}/{total} in {_clock(time.monotonic() - start)}")


class Bar:
    """A bar with rate and time left on a terminal's stderr."""

    def say(self, message: str) -> None:
        """Print one line on stderr."""
        print(message, file=sys.stderr, flush=True)

    def track(self, items: Iterable[Item], total: int, what: str, done: int = 0) -> Iterator[Item]:
        """Pass the items through, moving the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with RichProgress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total, completed=done)
            for item in items:
                yield item
                bar.advance(task)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"

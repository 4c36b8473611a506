"""What a task asks of a case, and how each mode learns it and says it: one file for each kind, all read alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from medcl.evaluation.scores import Outcome

Say = Callable[[np.ndarray], np.ndarray]  # features (n, dim) -> what is said (n, width)


@dataclass(frozen=True)
class Fitted:
    """What one fit gives: what it said of the test cases, what validation chose, and with which score."""

    outcome: Outcome
    choice: dict[str, float | str]
    validation: float


@dataclass(frozen=True)
class Colouring:
    """By what cases are coloured in pictures of them. name: empty where the task's own label says it; code: (cases,) place in `values`,
    -1 where it is not known.
    """

    name: str
    values: tuple[str, ...]
    code: np.ndarray


class Target(Protocol):
    """The labels of a study's cases, and what learns them.

    `rows` are labelled cases, `part` those that something is said of; both are numbers of cases. What is said is an array
    (cases, width), and means what `outcome` makes of it.
    """

    @property
    def label(self) -> np.ndarray:
        """One row for each case; what a batch carries as its target."""
        ...

    @property
    def width(self) -> int:
        """How many numbers are said of a case."""
        ...

    def groups(self, part: np.ndarray | None = None) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """What draws from `part` (None: from all cases) are stratified by, and the words for it: see `Cases`."""
        ...

    def lacks(self, part: np.ndarray) -> str:
        """What these cases would need for a score of them to be defined, in words; empty where they have it."""
        ...

    def colourings(self) -> tuple[Colouring, ...]:
        """What maps and sheets of the cases show; the first says most."""
        ...

    def vote(self, bank: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
        """What the nearest labelled neighbours say. bank: their embeddings, in the order of `rows`."""
        ...

    def probes(self, features: np.ndarray, rows: np.ndarray) -> Iterable[tuple[float, Say]]:
        """A linear model for each strength. features: (rows, dim), standardised."""
        ...

    def loss(self, rows: np.ndarray, balanced: bool) -> nn.Module:
        """(outputs (batch, width), target) -> scalar. balanced: rare classes weigh as much as common ones."""
        ...

    def activate(self, outputs: Tensor) -> Tensor:
        """Outputs of a head (n, width) -> what is said."""
        ...

    def restored(self, said: np.ndarray, rows: np.ndarray, balanced: bool) -> np.ndarray:
        """Undo what the loss of these rows did to the scale of what is said: shares of the classes, mean and spread."""
        ...

    def outcome(self, said: np.ndarray, rows: np.ndarray, part: np.ndarray) -> Outcome:
        """What was said of `part` by what learned from `rows`, with the truth."""
        ...

    def judge(self, said: np.ndarray, rows: np.ndarray, part: np.ndarray) -> tuple[float, float]:
        """How good that is: the score that chooses, and what decides between equals; higher is better."""
        ...


def choose(candidates: Iterable[tuple[float, Say]], judge: Callable[[Say], tuple[float, float]]) -> tuple[float, Say, float]:
    """The candidate that is judged best, the first among equals: (strength, what says it, score)."""
    best: Any = None
    for strength, say in candidates:
        judged = judge(say)
        if best is None or judged > best[0]:
            best = judged, strength, say
    return best[1], best[2], best[0][0]


def in_words(grid: Iterable[float]) -> str:
    """What was tried, for the table of results: `0.001 0.0001`."""
    return " ".join(f"{value:g}" for value in grid)


def defined(value: float, otherwise: float) -> float:
    """A score that chooses must be a number: `otherwise` where it is undefined."""
    return otherwise if np.isnan(value) else float(value)


def once(outcome: Outcome) -> dict[str, float]:
    """Every score of an outcome, all cases counting once."""
    return {name: float(value[0]) for name, value in outcome.table().scores(np.ones((1, outcome.num_cases))).items()}

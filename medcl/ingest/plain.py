"""Records to JSON and back by their type hints: what a journal keeps can be read, and reading it runs nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

Record = TypeVar("Record")
Turn = Callable[[Any], Any]


def to_text(record: Any) -> str:
    """A dataclass of dataclasses, tuples, lists, sets, dicts, arrays and plain values as JSON on one line, ASCII only.

    A dataclass becomes the list of its fields, so the reader must have the same ones: see `schema_of`.
    """
    return json.dumps(_turns(type(record))[0](record), separators=(",", ":"), default=_plain_number)


def from_text(kind: type[Record], text: str) -> Record:
    """The record that `to_text` wrote; equal strings become one object. Raises ValueError for another text."""
    return _turns(kind)[1](json.loads(text))


@lru_cache(maxsize=256)
def schema_of(kind: Any) -> str:
    """All fields and types below a record, as text: it changes where `from_text` would read an older text wrongly."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        name: str = getattr(kind, "__name__", "")
        return f"{name}({', '.join(f'{one.name}: {schema_of(hints[one.name])}' for one in fields(kind))})"
    inside = ", ".join(schema_of(one) for one in get_args(kind) if not isinstance(one, str | int))
    return f"{getattr(kind, '__name__', kind)}[{inside}]"


def _plain_number(value: Any) -> Any:
    return value.item()  # a numpy scalar; anything else has no `item` and fails here


@lru_cache(maxsize=256)
def _turns(kind: Any) -> tuple[Turn, Turn]:
    """How a type becomes plain, and back."""
    if kind is str:
        return _same, sys.intern
    if is_dataclass(kind):
        return _of_dataclass(kind)
    if kind is np.ndarray:
        return _from_array, _to_array
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (tuple, list, set):
        return _of_sequence(origin, inside)
    if origin is dict and inside[1] is not Any:
        there, back = _turns(inside[1])
        return (lambda value: {key: there(one) for key, one in value.items()}), (
            lambda plain: {key: back(one) for key, one in plain.items()}
        )
    others = [one for one in inside if one is not NoneType]
    if len(others) == 1 and len(inside) == 2:  # X | None
        there, back = _turns(others[0])
        return (lambda value: None if value is None else there(value)), (lambda plain: None if plain is None else back(plain))
    return _same, _same


def _of_dataclass(kind: Any) -> tuple[Turn, Turn]:
    hints = get_type_hints(kind)
    names = [one.name for one in fields(kind)]
    pairs = [_turns(hints[name]) for name in names]
    there = [(name, turn) for name, (turn, _) in zip(names, pairs, strict=True)]
    back = [turn for _, turn in pairs]

    def read(plain: list[Any]) -> Any:
        return kind(*[turn(one) for turn, one in zip(back, plain, strict=True)])

    return (lambda record: [turn(getattr(record, name)) for name, turn in there]), read


def _of_sequence(origin: Any, inside: Sequence[Any]) -> tuple[Turn, Turn]:
    """tuple[X, ...], list[X], set[X] of one type; tuple[X, Y, Z] with a type for each place."""
    if origin is tuple and Ellipsis not in inside:
        pairs = [_turns(one) for one in inside]
        return (
            lambda value: [there(one) for (there, _), one in zip(pairs, value, strict=True)],
            lambda plain: tuple(back(one) for (_, back), one in zip(pairs, plain, strict=True)),
        )
    there, back = _turns(inside[0])
    order = sorted if origin is set else iter
    if there is _same and back is _same:
        return (lambda value: list(order(value))), origin
    return (lambda value: [there(one) for one in order(value)]), (lambda plain: origin([back(one) for one in plain]))


def _same(value: Any) -> Any:
    return value


def _from_array(array: np.ndarray) -> list[Any]:
    return [array.dtype.str, list(array.shape), array.ravel().tolist()]


def _to_array(plain: list[Any]) -> np.ndarray:
    kind, shape, values = plain
    return np.array(values, dtype=kind).reshape(shape)

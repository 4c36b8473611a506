"""Files that are whole or absent: atomic writes, hashes, and the card that is written last."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import medcl
from medcl.foundation.errors import UserError

CARD = "card.json"
SCHEMA_VERSION = 1
PARTIAL = ".*.partial"  # what a kill leaves of a file that was being written


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary sibling of `path`, flush it to disk, then move it into place in one step.

    Raises UserError where a folder is in the way, or a file where a folder is to be.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the name of a file, in it or elsewhere")
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        write(partial)
        with open(partial, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, unless they are there. Raises UserError where a file is in the way or none can be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder}: there is a file where a folder is to be; choose another --out") from None
    except FileNotFoundError:
        raise UserError(f"{folder}: no folder can be made here; choose another --out") from None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    write_whole(path, lambda partial: _discard(partial.write_text(text, encoding="utf-8")))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole or not at all."""
    write_whole(path, lambda partial: _discard(partial.write_bytes(content)))


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all, keys in the order given. NaN and infinity are refused."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises UserError naming the file where it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); restore it or make the folder again") from None


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_of_files(root: Path, names: Iterable[str]) -> str:
    """One SHA-256 over the names and contents of several files of a folder, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}\0{sha256_of_file(root / name)}\n".encode())
    return digest.hexdigest()


def write_card(
    folder: Path, kind: str, *, inputs: Mapping[str, str], settings: Any, counts: Mapping[str, int], **more: Any
) -> dict[str, Any]:
    """Write `card.json`, the mark that the folder is whole. Call it last.

    kind: data, store, run, backbone or study. inputs: name -> hash of what the folder was made from. more: what the
    kind adds. Returns the card.
    """
    card = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "code_version": medcl.__version__,
        "inputs": dict(inputs),
        "settings": settings,
        "counts": dict(counts),
        **more,
    }
    write_json(Path(folder) / CARD, card)
    return card


def read_card(folder: Path, *kinds: str) -> dict[str, Any]:
    """Read a folder's card; a folder without one is not whole and is refused.

    Raises UserError where the folder or its card is missing, or its kind is none of `kinds`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a {' or '.join(kinds)} folder")
    if not (folder / CARD).is_file():
        raise UserError(f"{folder}: has no {CARD}, so it is not whole; run the command that makes it again, it goes on where it stopped")
    card = read_json(folder / CARD)
    if not isinstance(card, dict) or card.get("kind") not in kinds:
        found = card.get("kind") if isinstance(card, dict) else type(card).__name__
        raise UserError(f"{folder}: expected a {' or '.join(kinds)} folder, found '{found}'")
    if card.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{folder}: written with schema {card.get('schema_version')}, this medcl reads {SCHEMA_VERSION}; make it again")
    return card


def hash_of_folder(folder: Path) -> str:
    """The hash by which a later stage names this folder: that of its card."""
    return sha256_of_file(Path(folder) / CARD)


def safe_csv_cell(text: str) -> str:
    """Quote a cell that a spreadsheet would run as a formula."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk, so that a rename outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(_: object) -> None:
    return None

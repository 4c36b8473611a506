"""`medcl export`: one door for every target; writes beside the place, proves, then moves the whole folder in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from medcl.export.backbone import Backbone, check_seal, find_backbone, load_backbone, replace_folder, write_sealed_card
from medcl.export.proof import Proof
from medcl.foundation.errors import UserError
from medcl.foundation.files import CARD, hash_of_folder, read_card, sha256_of_file
from medcl.foundation.progress import Progress, Silent

GROUP = "medcl.exports"
# Each module has `write(backbone, source, folder) -> Proof` and NEXT, what the person does with the folder. One with OPTIONS takes
# those as keywords. Other packages add modules through entry points of the group.
TARGETS: Mapping[str, str] = {
    "backbone": "medcl.export.backbone",
    "onnx": "medcl.export.onnx",
    "monai": "medcl.export.monai",
    "nnunet": "medcl.export.nnunet",
    "huggingface": "medcl.export.huggingface",
}


@dataclass(frozen=True)
class Exported:
    """What an export did: the folder, the proof, and the lines that say both."""

    folder: Path
    proof: dict[str, Any]
    lines: list[str]
    next: str


def targets() -> dict[str, str]:
    """Every target, those of other packages too: name -> module. None of them takes the place of one that is here."""
    return {**TARGETS, **{entry.name: entry.value for entry in entry_points(group=GROUP) if entry.name not in TARGETS}}


def export(run: str | Path, to: str, out: str | Path, progress: Progress | None = None, **options: Any) -> Exported:
    """Write the backbone of a RUN (or a backbone folder) for other software, load it back there and compare.

    to: a key of `targets()`. options: what the target's module names in OPTIONS; None is as good as absent. Raises UserError for a target
    that cannot take this encoder (with the reason) or a folder in use, MedclError where what was loaded back does not answer as the
    backbone does; nothing is written then.
    """
    progress = progress or Silent()
    out = Path(out)
    known = targets()
    if to not in known:
        raise UserError(f"--to {to}: expected one of {', '.join(known)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: exists and is not empty; name a new folder, or remove this one")
    place = Path(os.path.abspath(out))
    if place == Path.cwd():
        raise UserError(f"--out {out}: is the folder that you are in; name a new folder in it, or elsewhere")
    folder = find_backbone(run)
    backbone = load_backbone(folder)
    module = import_module(known[to])
    given = _options(module, to, options)
    progress.say(f"writing {to} and loading it back")
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        proof = module.write(backbone, folder, partial, **given)
        _seal(partial, folder, backbone, {"to": to} | {name: Path(value).name for name, value in given.items()}, proof)
        replace_folder(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    warnings = [f"note: {warning}" for warning in proof.warnings]
    return Exported(out, proof.to_card(), [f"{to}: {out}", proof.line(), *warnings], module.NEXT.format(out=out))


def check_export(folder: str | Path) -> Exported:
    """Verify a folder that `export` wrote: every file its card names, by SHA-256, no file more, weights that can be parsed.

    Raises UserError naming the file that is missing, altered or was added.
    """
    folder = Path(folder)
    card = read_card(folder, "export", "backbone")
    if card["kind"] == "backbone":
        backbone = load_backbone(folder)
        _refuse_others(folder, card["files"])
        return Exported(folder, backbone.card["proof"], [f"{folder}: a whole backbone of {backbone.dim} numbers"], "")
    check_seal(folder, card, again="export again")
    _refuse_others(folder, card["files"])
    for name, digest in card["files"].items():
        if sha256_of_file(folder / name) != digest:
            raise UserError(f"{folder / name}: altered since the export (its SHA-256 is not the card's); export again")
    return Exported(folder, card["proof"], [f"{folder}: {len(card['files'])} files as the card says", _line(card["proof"])], "")


def _refuse_others(folder: Path, files: Mapping[str, str]) -> None:
    """Raise UserError where the folder holds a file more or less than its card names."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {CARD}
    for name in sorted(present ^ set(files)):
        way = "delete the __pycache__ that running it left" if "__pycache__/" in name else "export again"
        raise UserError(f"{folder / name}: {'added' if name in present else 'missing'} since the export; {way}")


def _line(proof: Mapping[str, Any]) -> str:
    return Proof(**{**proof, "warnings": tuple(proof["warnings"])}).line()


def _options(module: Any, to: str, options: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in getattr(module, "OPTIONS", ()):
            raise UserError(f"--{name}: --to {to} takes no such option; leave it out")
    return given


def _seal(partial: Path, source: Path, backbone: Backbone, settings: Mapping[str, Any], proof: Proof) -> None:
    """Write the export's card; the copy of a backbone keeps its own."""
    if (partial / CARD).exists():
        return
    files = sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file())
    names = ("cohort", "contract", "encoder", "method", "training", "views", "licence", "metrics", "must_not_be_used_for")
    kept = {key: backbone.card[key] for key in names if key in backbone.card}
    write_sealed_card(
        partial,
        "export",
        {
            "inputs": {**backbone.card["inputs"], "backbone": hash_of_folder(source)},
            "settings": dict(settings),
            "counts": {**backbone.card["counts"], "files": len(files), "tensors": proof.loaded},
            "proof": proof.to_card(),
            "files": {name: sha256_of_file(partial / name) for name in files},
            **kept,
        },
    )

"""`medcl export`: one door for every target; writes beside the place, proves, then moves the whole folder in."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from medcl.export.backbone import Backbone, find_backbone, load_backbone, replace_folder
from medcl.export.proof import Proof
from medcl.foundation.errors import UserError
from medcl.foundation.files import CARD, hash_of_folder, sha256_of_file, write_card
from medcl.foundation.progress import Progress, Silent

# Each module has `write(backbone, source, folder) -> Proof` and NEXT, what the person does with the folder.
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


def export(run: str | Path, to: str, out: str | Path, progress: Progress | None = None) -> Exported:
    """Write the backbone of a RUN (or a backbone folder) for other software, load it back there and compare.

    to: a key of TARGETS. Raises UserError for a target that cannot take this encoder (with the reason) or a folder in
    use, MedclError where what was loaded back does not answer as the backbone does; nothing is written then.
    """
    progress = progress or Silent()
    out = Path(out)
    if to not in TARGETS:
        raise UserError(f"--to {to}: expected one of {', '.join(TARGETS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: exists and is not empty; name a new folder, or remove this one")
    folder = find_backbone(run)
    backbone = load_backbone(folder)
    module = import_module(TARGETS[to])
    progress.say(f"writing {to} and loading it back")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        proof = module.write(backbone, folder, partial)
        _seal(partial, folder, backbone, to, proof)
        replace_folder(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(out, proof.to_card(), [f"{to}: {out}", proof.line()], module.NEXT.format(out=out))


def _seal(partial: Path, source: Path, backbone: Backbone, to: str, proof: Proof) -> None:
    """Write the export's card; the copy of a backbone keeps its own."""
    if (partial / CARD).exists():
        return
    files = sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file())
    kept = {key: backbone.card[key] for key in ("contract", "encoder", "method", "training", "views", "licence", "metrics")}
    write_card(
        partial,
        "export",
        inputs={"backbone": hash_of_folder(source)},
        settings={"to": to},
        counts={"files": len(files), "tensors": proof.loaded},
        proof=proof.to_card(),
        files={name: sha256_of_file(partial / name) for name in files},
        **kept,
    )

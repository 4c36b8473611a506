"""What this machine has, what is missing, and how to get it; reads versions without importing what is slow."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

GIB = 1024**3
EXTRAS = {
    "codecs": "compressed DICOM (JPEG, JPEG-LS, JPEG 2000)",
    "onnx": "medcl export --to onnx",
    "bundle": "MONAI's own checks of a bundle (python -m monai.bundle)",
    "dask": "ingest, prepare and evaluate on a cluster (--dask)",
    "mlflow": "figures of a run on an MLflow server (watch.mlflow)",
    "wandb": "figures of a run for Weights & Biases (watch.wandb)",
}
# Nobody needs them who has no such server: never what to do next.
TRACKERS = ("mlflow", "wandb")


@dataclass(frozen=True)
class Finding:
    """One thing looked at. status: `ok`, `missing` (something optional) or `broken` (medcl does not work without it)."""

    name: str
    status: str
    found: str
    way_out: str = ""


@dataclass(frozen=True)
class Examination:
    """All findings, and the lines that say them."""

    findings: list[dict[str, Any]]
    lines: list[str]
    next: str
    healthy: bool


def examine(folder: Path = Path()) -> Examination:
    """Look at Python, packages, codecs, devices, memory and disk. `folder`: where data would be written."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _extras,
        _devices,
        _numba_cache,
        _store_reads,
        lambda: _room(folder),
    )
    findings = [finding for check in checks for finding in check()]
    broken = [finding for finding in findings if finding.status == "broken"]
    missing = [finding for finding in findings if finding.status == "missing" and finding.way_out and finding.name not in TRACKERS]
    first = next(iter(broken + missing), None)
    follow = first.way_out if first else "medcl demo"
    return Examination([asdict(finding) for finding in findings], [_line(finding) for finding in findings], follow, not broken)


def _line(finding: Finding) -> str:
    out = f"  ->  {finding.way_out}" if finding.way_out else ""
    return f"{finding.status:8} {finding.name:18} {finding.found}{out}"


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        "python",
        "ok" if good else "broken",
        f"{platform.python_version()} on {platform.platform()}",
        "" if good else "install Python 3.11+",
    )


def _packages() -> Iterator[Finding]:
    """Every package that `pip install medcl` brings."""
    for requirement, extra in _requirements():
        if not extra:
            problem = _problem(requirement)
            yield Finding(
                _name(requirement), "broken" if problem else "ok", problem or str(_version(_name(requirement))), _pip(requirement, problem)
            )


def _extras() -> Iterator[Finding]:
    for extra, gives in EXTRAS.items():
        wanted = [requirement for requirement, of in _requirements() if of == extra]
        problems = [f"{_name(requirement)} {problem}" for requirement in wanted if (problem := _problem(requirement))]
        if problems:
            yield Finding(extra, "missing", f"{', '.join(problems)}: no {gives}", f"pip install 'medcl[{extra}]'")
        elif wanted:
            yield Finding(extra, "ok", f"{gives}: {', '.join(f'{_name(each)} {_version(_name(each))}' for each in wanted)}")


def _devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("cores", "ok", f"{cores} for this process")
    if _version("torch") is None:
        return
    import torch

    if not torch.cuda.is_available():
        hint = "" if torch.version.cuda is None else "check the driver with nvidia-smi"
        built = (
            "torch is built without CUDA" if torch.version.cuda is None else f"torch is built for CUDA {torch.version.cuda}, no GPU answers"
        )
        yield Finding("gpu", "missing", f"none ({built}): training runs on the CPU", hint)
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp32 only"
        yield Finding(f"gpu {number}", "ok", f"{properties.name}, {properties.total_memory / GIB:.0f} GiB, {precision}")
        yield _gpu_views(number)


def _gpu_views(number: int) -> Finding:
    """What is compiled on a GPU wants a C compiler beside it; without one views are the same, and take longer."""
    import torch

    from medcl.views.device_noise import kernel_on

    if kernel_on(torch.device("cuda", number)):
        return Finding(f"gpu {number} views", "ok", "noise by a kernel of its own")
    return Finding(
        f"gpu {number} views", "missing", "Triton cannot compile here: noise takes longer", "install a C compiler (apt install gcc)"
    )


def _numba_cache() -> Iterator[Finding]:
    """Compiled kernels are kept beside the package, or else in the home folder; with neither they cannot be kept."""
    places = [Path(__file__).parent, Path.home()]
    kept = any(os.access(place, os.W_OK) for place in places)
    way_out = "" if kept else "set NUMBA_CACHE_DIR to a folder that can be written"
    yield Finding("kernels", "ok" if kept else "missing", "compiled once and kept" if kept else "nowhere to keep compiled kernels", way_out)


def _store_reads() -> Iterator[Finding]:
    """Without libblosc2 the threads of a loader wait for one another while they decode."""
    if _version("blosc2") is None:
        return
    from medcl.store.array_file import library

    if library() is None:
        yield Finding("store reads", "missing", "blosc2's library is not there: one thread at a time", "pip install --upgrade blosc2")
    else:
        yield Finding("store reads", "ok", "several threads at a time")


def _room(folder: Path) -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB if hasattr(os, "sysconf") else 0.0
    enough = memory >= 6
    yield Finding("memory", "ok" if enough else "missing", f"{memory:.0f} GiB", "" if enough else "medcl demo wants 6 GiB")
    for name, place in (("disk", folder), ("temporary", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(place).free / GIB
        writable = os.access(place, os.W_OK)
        good = free >= 2 and writable
        found = f"{free:.0f} GiB free in {place.resolve()}" if writable else f"{place.resolve()} cannot be written"
        yield Finding(name, "ok" if good else "missing", found, "" if good else "work in another folder, or make room")


def _requirements() -> list[tuple[str, str]]:
    """What medcl's own metadata asks for: (requirement, extra or "")."""
    try:
        listed = requires("medcl") or []
    except PackageNotFoundError:
        return [("medcl", "")]
    found = [(line.split(";")[0].strip(), re.search(r"extra == ['\"](\w+)", line)) for line in listed]
    return [(requirement, extra[1] if extra else "") for requirement, extra in found]


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0]


def _problem(requirement: str) -> str:
    """Why the installed package does not satisfy the requirement, or nothing."""
    found = _version(_name(requirement))
    if found is None:
        return "not installed"
    for sign, bound in re.findall(r"(>=|<)\s*([\d.]+)", requirement):
        if (_numbers(found) >= _numbers(bound)) != (sign == ">="):
            return f"{found} does not fit {sign}{bound}"
    return ""


def _pip(requirement: str, problem: str) -> str:
    return f"pip install '{requirement}'" if problem else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0]))

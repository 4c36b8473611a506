"""The house's caps and names: what keeps every file readable."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

from medcl.foundation.config import Settings

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("medcl/**/*.py"), *ROOT.glob("datasets/**/*.py"), *ROOT.glob("benchmarks/*.py")])
FORBIDDEN_NAMES = {"utils", "util", "misc", "helpers", "helper", "common", "manager"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_short_and_opens_with_a_sentence(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= 400, f"{path.name} has {lines} lines; split it by what it does"
    assert ast.get_docstring(ast.parse(text)), f"{path.name} has no opening sentence"
    assert not FORBIDDEN_NAMES & set(path.stem.split("_")), f"{path.name}: a file is named by what it holds"
    assert not re.search(r"_v\d+$", path.stem), f"{path.name}: no version suffixes"


@pytest.mark.parametrize("path", sorted(ROOT.glob("medcl/methods/*.py")), ids=lambda path: path.name)
def test_method_files_fit_in_the_head(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 150


def _settings_classes() -> list[type[Settings]]:
    for path in ROOT.glob("medcl/**/*.py"):
        if path.stem != "__main__":
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    found, todo = [], [Settings]
    while todo:
        children = todo.pop().__subclasses__()
        todo += children
        found += [child for child in children if child.__module__.startswith("medcl.")]
    return found


def test_settings_classes_are_small_and_live_beside_what_they_build() -> None:
    classes = _settings_classes()
    assert len(classes) > 10
    too_big = {cls.__name__: len(cls.model_fields) for cls in classes if len(cls.model_fields) > 15}
    assert not too_big


def test_public_functions_say_what_they_do() -> None:
    silent = []
    for path in ROOT.glob("medcl/**/*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not silent, "\n".join(silent)


def test_inheritance_is_one_level_deep() -> None:
    """A class of ours may extend one of ours only where that one is a base by contract (Settings, Method, Encoder, Step)."""
    contracts = {"Settings", "Method", "Encoder", "Step", "MedclError", "Protocol"}
    ours: dict[str, str] = {}
    for path in ROOT.glob("medcl/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    if isinstance(base, ast.Name):
                        ours[node.name] = base.id
    too_deep = [f"{child}({base})" for child, base in ours.items() if base in ours and base not in contracts and ours[base] in ours]
    assert not too_deep


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("medcl/**/*.py")}
    assert folders | {"made_cohort"} == listed


def test_nothing_reads_the_environment_but_launch() -> None:
    """The command line says one thing to OpenMP, before torch is loaded."""
    readers = []
    for path in ROOT.glob("medcl/**/*.py"):
        text = path.read_text(encoding="utf-8")
        allowed = 2 if path.name == "cli.py" and "GOMP_SPINCOUNT" in text else 0
        if path.name != "launch.py" and len(re.findall(r"os\.(environ|getenv)", text)) > allowed:
            readers.append(str(path.relative_to(ROOT)))
    assert not readers


def test_settings_are_frozen_everywhere() -> None:
    for cls in _settings_classes():
        assert cls.model_config.get("frozen") and cls.model_config.get("extra") == "forbid", cls.__name__
        assert inspect.getdoc(cls), f"{cls.__name__} has no docstring"

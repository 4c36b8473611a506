"""The map is the front page: the README's tree is the real tree."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _tree_in_readme() -> set[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("<!-- tree -->")[1].split("```")[1]
    paths, stack = set(), []
    for line in block.splitlines():
        match = re.match(r"^( *)(\S+)(\s{2,}\S.*)?$", line)
        if not match:
            continue
        depth, name = len(match[1]) // 2, match[2]
        stack = [*stack[:depth], name.rstrip("/")]
        if name.endswith(".py"):
            assert match[3], f"README tree: {name} has no line of its own"
            paths.add("/".join(stack))
    return paths


def test_readme_tree_is_the_real_tree() -> None:
    real = {path.relative_to(ROOT).as_posix() for path in (ROOT / "medcl").rglob("*.py") if path.name != "__init__.py"}
    shown = {path for path in _tree_in_readme() if path.startswith("medcl/")}
    assert shown - real == set(), "the README shows files that are not there"
    assert real - shown == set(), "files that the README does not show"

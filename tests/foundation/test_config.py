from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from medcl.foundation import config
from medcl.foundation.config import Settings
from medcl.foundation.errors import UserError


class Circle(Settings):
    """A choice."""

    name: Literal["circle"] = "circle"
    radius_mm: float = 1.0


class Square(Settings):
    """Another choice."""

    name: Literal["square"] = "square"
    side_mm: float


class Drawing(Settings):
    """What a YAML file holds."""

    shape: config.union_of("medcl.tests.none", Circle, Square)  # type: ignore[valid-type]
    num_steps: int = 10


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_base_is_laid_under_and_overrides_over(tmp_path: Path) -> None:
    _write(tmp_path, "base.yaml", "shape: {name: circle, radius_mm: 2}\nnum_steps: 5\n")
    path = _write(tmp_path, "top.yaml", "base: base.yaml\nshape: {radius_mm: 3}\n")
    drawing = config.load(Drawing, path, ["num_steps=7"])
    assert drawing == Drawing(shape=Circle(radius_mm=3), num_steps=7)
    other = config.load(Drawing, path, {"shape": {"name": "square", "side_mm": 4}})
    assert other.shape == Square(side_mm=4)


def test_settings_survive_their_yaml(tmp_path: Path) -> None:
    drawing = Drawing(shape=Square(side_mm=4.5))
    path = _write(tmp_path, "d.yaml", config.to_yaml(drawing))
    assert config.load(Drawing, path) == drawing


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Circle().radius_mm = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shape: {name: circle, radius: 2}", "unknown key 'shape.radius': did you mean 'radius_mm'?"),
        ("shape: {name: circle}\nnum_stps: 2", "unknown key 'num_stps': did you mean 'num_steps'?"),
        ("shape: {name: circle}\nxyz: 2", "unknown key 'xyz': legal keys: num_steps, shape"),
        ("shape: {name: square}", "'shape.side_mm' is missing"),
        ("shape: {name: star}", "'shape': Input tag 'star'"),
        ("shape: {name: circle, radius_mm: wide}", "'shape.radius_mm': Input should be a valid number"),
        ("num_steps: 3", "'shape' is missing"),
        ("[1, 2]", "expected `key: value` lines, found list"),
        ("shape: {name: circle", "not readable as YAML"),
        ("base: top.yaml\nshape: {name: circle}", "only one level"),
        ("shape: {name: circle}\nnum_steps: 2\nshape: {name: circle, radius_mm: 2}", "the key 'shape' comes twice"),
        ("x: !!python/object/apply:os.system ['true']", "not readable as YAML"),
    ],
)
def test_a_mistake_is_named_with_its_way_out(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path, "top.yaml", text)
    with pytest.raises(UserError) as caught:
        config.load(Drawing, path)
    assert message in str(caught.value)
    assert "top.yaml" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("override", ["num_steps", "=3", "num_steps={", "shape={name: circle, name: square}"])
def test_a_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    path = _write(tmp_path, "top.yaml", "shape: {name: circle}")
    with pytest.raises(UserError, match="override"):
        config.load(Drawing, path, [override])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: no such settings file"):
        config.load(Drawing, tmp_path / "absent.yaml")

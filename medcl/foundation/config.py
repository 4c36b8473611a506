"""Frozen settings: how YAML becomes checked, immutable objects, and how a mistake in it is explained."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medcl.foundation.errors import UserError
from medcl.foundation.plugins import load_plugins


class Settings(BaseModel):
    """Base of every settings class: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


SettingsType = TypeVar("SettingsType", bound=Settings)


def union_of(group: str, *built_in: type[Settings]) -> Any:
    """The discriminated union (by `name`) of the built-in settings and those other packages add.

    `group` is a Python entry-point group such as `medcl.methods`; each entry names a Settings class. Raises UserError where two have
    one name.
    """
    classes = [*built_in, *load_plugins(group)]
    if len(classes) == 1:
        return classes[0]
    names: dict[str, type[Settings]] = {}
    for one in classes:
        other = names.setdefault(one.model_fields["name"].default, one)
        if other is not one:
            places = f"{other.__module__}.{other.__name__} and {one.__module__}.{one.__name__}"
            raise UserError(f"{group}: '{one.model_fields['name'].default}' names both {places}; uninstall the package of one")
    return Annotated[reduce(lambda a, b: a | b, classes), Field(discriminator="name")]


class _OnceEach(yaml.SafeLoader):
    """Refuses a key that comes twice, of which yaml itself would drop the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping's contents."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' comes twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file safely; `base: other.yaml` (relative to the file) is laid under it, one level deep."""
    path = Path(path)
    content = _read_mapping(path)
    base = content.pop("base", None)
    if base is None:
        return content
    below = _read_mapping(path.parent / str(base))
    if "base" in below:
        raise UserError(f"{path}: base '{base}' has a base of its own; only one level is allowed")
    return lay_over(below, content)


def _read_mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such settings file")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _OnceEach)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected `key: value` lines, found {type(content).__name__}")
    return content


def lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested mappings; `above` wins. A changed `name` replaces the whole mapping, not parts of it."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("name", old.get("name")) == old.get("name"):
            merged[key] = lay_over(old, value)
        else:
            merged[key] = value
    return merged


def apply_overrides(content: Mapping[str, Any], overrides: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Lay `key.path=value` overrides (values are YAML) over the content, before validation."""
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(_split_override, overrides)
    result = dict(content)
    for key_path, value in pairs:
        *parents, last = key_path.split(".")
        node = result
        for parent in parents:
            child = node.get(parent)
            node[parent] = dict(child) if isinstance(child, dict) else {}
            node = node[parent]
        node[last] = value
    return result


def _split_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"override '{text}': expected key.path=value, for example training.num_steps=1000")
    try:
        return key, yaml.load(value, _OnceEach)
    except yaml.YAMLError:
        raise UserError(f"override '{text}': the value is not readable as YAML") from None


def validate(cls: type[SettingsType], content: Mapping[str, Any], source: str) -> SettingsType:
    """Build settings from a mapping; every mistake is named with its key and the way out. `source`: file name."""
    try:
        return cls.model_validate(dict(content))
    except ValidationError as error:
        lines = [_explain(cls, item) for item in error.errors()]
        raise UserError("\n".join(f"{source}: {line}" for line in dict.fromkeys(lines))) from None


def load(cls: type[SettingsType], path: Path | str, overrides: Iterable[str] | Mapping[str, Any] = ()) -> SettingsType:
    """Read YAML, lay the overrides over it, validate."""
    return validate(cls, apply_overrides(read_yaml(path), overrides), str(path))


def to_yaml(settings: Settings) -> str:
    """The fully resolved settings as YAML that `load` reads back to an equal object."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _explain(cls: type[Settings], error: Any) -> str:
    location = [part for part in error["loc"] if isinstance(part, str)]
    if error["type"] == "extra_forbidden":
        return _explain_unknown_key(cls, location)
    key = ".".join(_keys_only(cls, error["loc"])) or "settings"
    if error["type"] == "missing":
        return f"'{key}' is missing"
    message = error["msg"].removeprefix("Value error, ")
    value = error.get("input")
    shown = f" (got {value!r})" if isinstance(value, str | int | float | bool | list | tuple | None) else ""
    return f"'{key}': {message}{shown}"


def _explain_unknown_key(cls: type[Settings], location: list[str]) -> str:
    key = ".".join(_keys_only(cls, location))
    owner = _settings_at(cls, location[:-1])
    legal = sorted(owner.model_fields) if owner else []
    close = difflib.get_close_matches(location[-1], legal, n=1, cutoff=0.6)
    hint = f"did you mean '{close[0]}'?" if close else f"legal keys: {', '.join(legal)}"
    return f"unknown key '{key}': {hint}"


def _keys_only(cls: type[Settings], location: Iterable[Any]) -> list[str]:
    """Drop the tags that pydantic puts into a location for discriminated unions."""
    keys: list[str] = []
    candidates: list[type[Settings]] = [cls]
    for part in location:
        tags = {_tag(candidate) for candidate in candidates}
        if len(candidates) > 1 and part in tags:
            candidates = [candidate for candidate in candidates if _tag(candidate) == part]
            continue
        keys.append(str(part))
        fields = [candidate.model_fields[part] for candidate in candidates if part in candidate.model_fields]
        if fields:
            candidates = list(_settings_in(fields[0].annotation))
    return keys


def _settings_at(cls: type[Settings], location: Iterable[str]) -> type[Settings] | None:
    candidates: list[type[Settings]] = [cls]
    for part in location:
        tagged = [candidate for candidate in candidates if _tag(candidate) == part]
        if len(candidates) > 1 and tagged:
            candidates = tagged
            continue
        fields = [candidate.model_fields[part] for candidate in candidates if part in candidate.model_fields]
        if fields:
            candidates = list(_settings_in(fields[0].annotation))
    return candidates[0] if candidates else None


def _tag(cls: type[Settings]) -> str | None:
    field = cls.model_fields.get("name")
    values = typing.get_args(field.annotation) if field else ()
    return values[0] if values else None


def _settings_in(annotation: Any) -> Iterable[type[Settings]]:
    """Every Settings class that an annotation mentions, looking into unions, containers and Annotated."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, Settings):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _settings_in(argument)

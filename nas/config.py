"""YAML to data classes: every key checked, every error with its file and line.

A configuration is a tree of frozen data classes. `load` reads a YAML file into one; an unknown key, a missing one or
a value of the wrong type is one line that names the file, the line, the field and what was expected.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from nas.errors import ConfigError, suggestion
from nas.files import read_text

T = TypeVar("T")


class Marked(dict):
    """A mapping out of YAML that remembers which line each key stands on (`lines`) and its own (`line`)."""

    lines: dict[str, int]
    line: int


class _Loader(yaml.SafeLoader):
    pass


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> Marked:
    mapping = Marked()
    mapping.line = node.start_mark.line + 1
    mapping.lines = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if key in mapping:
            raise yaml.MarkedYAMLError(problem=f"'{key}' is given twice", problem_mark=key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
        mapping.lines[key] = line
    return mapping


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def read_yaml(path: str | Path, what: str) -> Marked:
    """The top-level mapping of a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something else than a mapping.
    """
    try:
        value = yaml.load(read_text(path, what), _Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, Marked):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {type(value).__name__}")
    return value


def load(cls: type[T], path: str | Path, what: str) -> T:
    """Read the YAML file at `path` into the data class `cls`."""
    return build(cls, read_yaml(path, what), str(path))


def build(cls: type[T], mapping: Any, where: str, field: str = "") -> T:
    """Build the data class `cls` from a mapping, recursively.

    Args:
        cls: a data class whose annotations are plain types, `X | None`, tuples, dicts or data classes.
        mapping: what YAML gave for it.
        where: the file's name, for errors.
        field: the dotted path to this mapping inside the file, for errors.

    Raises:
        ConfigError: an unknown or missing key or a value of the wrong type.
    """
    if not isinstance(mapping, dict):
        raise ConfigError(f"{where}: {field}: expected a mapping, found {mapping!r}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in mapping:
        if key not in known:
            raise ConfigError(f"{at(where, mapping, key)}: unknown key '{_join(field, key)}'{suggestion(key, known)}")
    missing = [n for n, f in known.items() if n not in mapping and _required(f)]
    if missing:
        raise ConfigError(f"{at(where, mapping)}: missing key '{_join(field, missing[0])}'")
    values = {
        key: convert(hints[key], value, at(where, mapping, key), _join(field, key)) for key, value in mapping.items()
    }
    try:
        return cls(**values)
    except ConfigError as error:  # a data class's own check: say where it was written
        raise type(error)(f"{at(where, mapping)}: {error}") from None


def convert(kind: Any, value: Any, where: str, field: str) -> Any:
    """`value` as the annotated type `kind`, or a ConfigError that names `where` and `field`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return convert(next(a for a in args if a is not type(None)), value, where, field)
    if dataclasses.is_dataclass(kind):
        return build(kind, value, where.rsplit(":", 1)[0], field)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: {field}: expected a list, found {value!r}")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(convert(args[0], v, where, f"{field}[{i}]") for i, v in enumerate(value))
        if len(args) != len(value):
            raise ConfigError(f"{where}: {field}: expected {len(args)} values, found {len(value)}")
        return tuple(convert(a, v, where, f"{field}[{i}]") for i, (a, v) in enumerate(zip(args, value)))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {field}: expected a mapping, found {value!r}")
        return {k: convert(args[1], v, where, f"{field}.{k}") for k, v in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if kind is float and isinstance(value, str):  # YAML reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is not kind:
        raise ConfigError(f"{where}: {field}: expected {kind.__name__}, found {value!r}")
    return value


def at(where: str, mapping: Any, key: Any = None) -> str:
    """`file:line` of a mapping that came out of YAML, or of one of its keys."""
    if not isinstance(mapping, Marked):
        return where
    return f"{where}:{mapping.lines.get(key, mapping.line)}"


def _join(field: str, key: Any) -> str:
    return f"{field}.{key}" if field else str(key)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING

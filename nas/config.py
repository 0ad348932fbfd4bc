"""Build configuration data classes from YAML and JSON, with type and range checks and line-numbered errors.

A configuration is a tree of frozen data classes. `load` reads one from a YAML file, `load_json` from a JSON file, and
`build` from a mapping. For an unknown or missing key, a value of the wrong type or a number out of range, the one-line
error names the file, the line (of YAML), the field and the expected value.

The range of a number is part of its type::

    steps: AtLeast1 = 1000
    dropout: Annotated[float, Range(0, 1)] = 0.1
    memory_mb: Annotated[float, Range(0, unknown=True)]     # NaN allowed

Without a range, a number must be finite and an integer must fit 64 bits. `nas.ranges.check_range` in `__post_init__`
also checks objects that are created in Python.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from nas.errors import ConfigError, shown, suggestion
from nas.files import read_json
from nas.ranges import Range
from nas.yaml_files import Marked, read_yaml

T = TypeVar("T")


AtLeast0 = Annotated[int, Range(0)]
AtLeast1 = Annotated[int, Range(1)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
AnyNumber = Annotated[float, Range(unknown=True, infinite=True)]
"""For results, which may be NaN or infinite."""


def load(cls: type[T], path: str | Path, what: str) -> T:
    """Read the YAML file at `path` into the data class `cls`."""
    return build(cls, read_yaml(path, what), str(path))


def load_json(cls: type[T], path: str | Path, what: str, ignore_unknown: bool = False) -> T:
    """Read the JSON file at `path` into the data class `cls`; `ignore_unknown` as in `build`."""
    return build(cls, read_json(path, what, dict), str(path), ignore_unknown=ignore_unknown)


def build(cls: type[T], mapping: Any, where: str, field: str = "", ignore_unknown: bool = False) -> T:
    """Build the data class `cls` from a mapping, recursively.

    Args:
        cls: a data class whose annotations are plain types, `Any`, `Literal`, `X | None`, tuples, lists, dicts or data
            classes; a number's may be `Annotated` with a `Range`.
        mapping: the parsed YAML or JSON.
        where: the file's name, for errors.
        field: the dotted path to this mapping inside the file, for errors.
        ignore_unknown: skip keys that `cls` does not have, for files that other programs write.

    Raises:
        ConfigError: an unknown or missing key, a value of the wrong type, or a number out of range.
    """
    return _build(cls, mapping, _Place(where, None, field), ignore_unknown)


def renamed(old: str, **options: Any) -> Any:
    """A data class field whose key was `old` in earlier versions; `options` are those of `dataclasses.field`."""
    return dataclasses.field(metadata={"old": old}, **options)


def keyed(key: str, **options: Any) -> Any:
    """A data class field whose key in files is not its name, such as a keyword of Python."""
    return dataclasses.field(metadata={"key": key}, **options)


def at(where: str, mapping: Any, key: Any = None) -> str:
    """`file:line` of a mapping from YAML, or of one of its keys."""
    if not isinstance(mapping, Marked):
        return where
    return f"{where}:{mapping.lines.get(key, mapping.line)}"


@dataclasses.dataclass(frozen=True)
class _Place:
    """The position of a value: its file, its line if known, and the dotted path of the field."""

    file: str
    line: int | None
    field: str

    def inside(self, outer: Any, key: Any) -> _Place:
        """The place of a key of the mapping `outer`, or of an index of the list `outer`."""
        lines = outer.lines if isinstance(outer, Marked) else {}
        name = f"[{key}]" if isinstance(outer, list | tuple) else f".{key_text(key)}"
        return _Place(self.file, lines.get(key, self.line), (self.field + name).removeprefix("."))

    def error(self, problem: str, mapping: Any = None) -> ConfigError:
        line = mapping.line if isinstance(mapping, Marked) else self.line
        file = f"{self.file}:{line}" if line is not None else self.file
        return ConfigError(": ".join(part for part in (file, self.field, problem) if part))

    def error_of_key(self, problem: str, mapping: Any) -> ConfigError:
        """An error that names the field by itself."""
        return _Place(self.file, self.line, "").error(problem, mapping)


def _build(cls: type[T], mapping: Any, place: _Place, ignore_unknown: bool) -> T:
    if isinstance(mapping, cls):
        return mapping
    if not isinstance(mapping, dict):
        raise place.error(f"expected a mapping, found {shown(mapping)}")
    hints = _hints(cls)
    known = {f.metadata.get("key", f.name): f for f in dataclasses.fields(cls) if f.init}
    old_names = {f.metadata["old"]: f.name for f in known.values() if "old" in f.metadata}
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        inside = place.inside(mapping, key)
        name = key if key in known else old_names.get(key, key)
        if name in values:
            old = known[name].metadata["old"]
            raise inside.error_of_key(f"'{old}' is the old name of '{name}'; keep only '{name}'", None)
        if name in known:
            values[name] = _convert(hints[known[name].name], value, inside, ignore_unknown)
        elif not ignore_unknown:
            raise inside.error_of_key(f"unknown key '{inside.field}'{suggestion(key_text(key), known)}", None)
    missing = [n for n, f in known.items() if n not in values and _required(f)]
    if missing:
        raise place.error_of_key(f"missing key '{place.inside({}, missing[0]).field}'", mapping)
    try:
        return cls(**{known[name].name: value for name, value in values.items()})
    except ConfigError as error:  # raised by the data class's own check: add the position
        raise type(error)(str(place.error_of_key(str(error), mapping))) from None


def _convert(kind: Any, value: Any, place: _Place, ignore_unknown: bool, limits: Range | None = None) -> Any:
    """`value` as the annotated type `kind`, or a ConfigError that names its place."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        ranges = [mark for mark in args[1:] if isinstance(mark, Range)]
        return _convert(args[0], value, place, ignore_unknown, ranges[0] if ranges else limits)
    if origin is Literal:
        if not any(value is arg or (type(value) is type(arg) and value == arg) for arg in args):
            if isinstance(value, str):
                raise place.error(f"unknown value {shown(value)}{suggestion(value, map(str, args))}")
            raise place.error(f"expected one of {', '.join(map(str, args))}, found {shown(value)}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(args, value, place, ignore_unknown, limits)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, place, ignore_unknown)
    if origin in (tuple, list, Sequence):
        return _list(origin, args, value, place, ignore_unknown, limits)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise place.error(f"expected a mapping, found {shown(value)}")
        return {
            _key(args[0], k, place.inside(value, k)): _convert(
                args[1], v, place.inside(value, k), ignore_unknown, limits
            )
            for k, v in value.items()
        }
    return _plain(kind, value, place, limits)


def _list(origin: Any, args: tuple, value: Any, place: _Place, ignore_unknown: bool, limits: Range | None) -> Any:
    if not isinstance(value, list | tuple):
        raise place.error(f"expected a list, found {shown(value)}")
    kinds = [args[0]] * len(value)
    if origin is tuple and args[-1] is not Ellipsis:
        if len(args) != len(value):
            raise place.error(f"expected {len(args)} values, found {len(value)}")
        kinds = args
    values = [
        _convert(k, v, place.inside(value, i), ignore_unknown, limits) for i, (k, v) in enumerate(zip(kinds, value))
    ]
    return values if origin is list else tuple(values)


def _one_of(kinds: tuple, value: Any, place: _Place, ignore_unknown: bool, limits: Range | None) -> Any:
    """The value as the first of several types that accepts it; the first type's error if none does."""
    if value is None and type(None) in kinds:
        return None
    first_error = None
    for kind in kinds:
        if kind is not type(None):
            try:
                return _convert(kind, value, place, ignore_unknown, limits)
            except ConfigError as error:
                first_error = first_error or error
    raise first_error


def _key(kind: Any, key: Any, place: _Place) -> Any:
    """A mapping's key; YAML parses some unquoted names as numbers or `True`."""
    if kind is str and type(key) is int:
        return str(key)
    if kind is str and not isinstance(key, str):
        raise place.error(f"the key {shown(key)} is not text; put it in quotes")
    return _convert(kind, key, place, False)


def _plain(kind: Any, value: Any, place: _Place, limits: Range | None) -> Any:
    if kind is float and isinstance(value, str) and len(value) < 40:  # YAML reads 1e-4 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind is float and type(value) is int and abs(value) < 2**64:
        value = float(value)
    if kind is str and isinstance(value, str):
        value = str(value)  # of a subclass too, such as torch.__version__
    if not (type(value) is kind if kind in (bool, int, float, str) else isinstance(value, kind)):
        hint = "; put it in quotes" if kind is str and type(value) in (bool, int, float) else ""
        raise place.error(f"expected {kind.__name__}, found {shown(value)}{hint}")
    if kind in (int, float) and (violation := (limits or Range()).violation(value)):
        raise place.error(violation)
    return value


def key_text(key: Any) -> str:
    """A key for an error message."""
    return key[:80] if isinstance(key, str) else shown(key)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING

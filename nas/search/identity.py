"""Identities of evaluators and costs, by which a study refuses scores that are not comparable."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

from nas.files import short_hash
from nas.search.problem import Problem


def evaluator_identity(evaluator: Callable[..., Any]) -> str:
    """One line that differs between evaluators that may score differently, and is the same in every process.

    It is the evaluator's attribute `identity` (a string) if it has one; otherwise its type with a hash of a function's
    code and the plain values in its closure, or of a data class's fields. Paths and other objects count by their type
    alone, so that folders may be moved.
    """
    own = getattr(evaluator, "identity", None)
    if isinstance(own, str):
        return own
    return f"{_name(evaluator)} {short_hash(_plain(evaluator, 0))}"


def costs_identity(problem: Problem) -> str:
    """A hash of the costs of all choices on every device, of the budget and of the constraints."""
    digest = hashlib.sha256()
    for device in problem.devices:
        digest.update(device.name.encode())
        arrays = (device.latency_ms, device.params, device.weights_mb, device.peak_mb, device.base, device.limits)
        for array in arrays:
            digest.update(array.round(9).tobytes())
    digest.update(str(problem.budget).encode())
    digest.update(str(problem.constraints).encode())
    return digest.hexdigest()[:12]


def _name(thing: Any) -> str:
    if isinstance(thing, functools.partial):
        return _name(thing.func)
    if isinstance(thing, FunctionType | MethodType | type):
        return thing.__qualname__
    return type(thing).__qualname__


def _plain(value: Any, depth: int) -> Any:
    """A JSON value that identifies `value`."""
    own = getattr(value, "identity", None) if depth else None
    if isinstance(own, str):
        return own
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path) or depth > 8:
        return type(value).__name__
    if isinstance(value, tuple | frozenset):
        items = [_plain(item, depth + 1) for item in value]
        return sorted(map(str, items)) if isinstance(value, frozenset) else items
    if isinstance(value, functools.partial):
        return [_plain(part, depth + 1) for part in (value.func, value.args, *sorted(value.keywords.items()))]
    if isinstance(value, MethodType):
        return [value.__qualname__, _plain(value.__self__, depth + 1)]
    if isinstance(value, FunctionType):
        around = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        given = (*(value.__defaults__ or ()), *sorted((value.__kwdefaults__ or {}).items()))
        return [value.__qualname__, _code(value.__code__), [_plain(item, depth + 1) for item in (*around, *given)]]
    if isinstance(value, type):
        return value.__qualname__
    if dataclasses.is_dataclass(value):
        fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return [_name(value), [[name, _plain(_as_tuple(field), depth + 1)] for name, field in fields]]
    return _name(value)


def _as_tuple(value: Any) -> Any:
    """Dicts and lists of a data class as tuples, which count; those in a closure may be a cache and do not."""
    if isinstance(value, dict):
        return tuple(sorted(((repr(key), _as_tuple(item)) for key, item in value.items()), key=lambda pair: pair[0]))
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list | tuple) else value


def _code(code: CodeType) -> list[Any]:
    """A function's bytecode, constants and names, without line numbers."""
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts if not _is_docstring(c, code)]
    return [code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames)]


def _is_docstring(constant: Any, code: CodeType) -> bool:
    return isinstance(constant, str) and code.co_consts[:1] == (constant,) and len(constant.split()) > 2


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True

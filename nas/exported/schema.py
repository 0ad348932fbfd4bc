"""Generate the JSON Schema of `export.json` from its data classes."""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

from nas.exported.app import SCHEMA_VERSION, Manifest

SCHEMA = Path(__file__).with_name("export.schema.json")
"""The shipped schema; a test checks that it equals `schema()`."""

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema() -> dict[str, Any]:
    """The schema, JSON Schema draft 2020-12. Unknown keys are allowed, since later versions may add some."""
    definitions: dict[str, Any] = {}
    entry = _of(Manifest, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "export.json",
        "description": "The contents of an export folder: one entry for each exported format.",
        "type": "object",
        "properties": {
            "schema_version": {"const": SCHEMA_VERSION},
            **{name: entry for name in ("coreml", "litert", "recipe", "web")},
        },
        "required": ["schema_version"],
        "$defs": definitions,
    }


def write() -> Path:
    """Update the shipped schema and return its path."""
    SCHEMA.write_text(json.dumps(schema(), indent=2) + "\n")
    return SCHEMA


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return {}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(arg, definitions) for arg in args]}
    if origin is tuple:
        return {"type": "array", "items": _of(args[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(args[1], definitions)}
    if kind.__name__ not in definitions:
        definitions[kind.__name__] = {}  # placeholder that ends recursion
        definitions[kind.__name__] = _object(kind, definitions)
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _object(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    required = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return {
        "type": "object",
        "description": inspect.getdoc(kind),
        "properties": {f.name: _of(hints[f.name], definitions) for f in fields},
        "required": required,
    }

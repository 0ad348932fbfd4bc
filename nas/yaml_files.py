"""Read YAML files safely: mappings of names to strings, numbers, lists and mappings, with line numbers for errors.

Anchors and merge keys (`<<: *base`) are supported; tags other than the plain ones are rejected, and dates are strings.
Documents that expand to excessive size (nested anchors, deep nesting) are rejected before they are built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nas.errors import ConfigError, shown
from nas.files import MAX_DEPTH, has_half_pair, read_text

MAX_VALUES = 20_000
"""Largest number of values in a file; values that anchors repeat count each time."""

MAX_BYTES = 1_000_000


class Marked(dict):
    """A mapping from YAML with the line number of each key (`lines`) and its own (`line`)."""

    lines: dict[str, int]
    line: int


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits on the expanded size of the document."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.extent: dict[
            int, tuple[int, int]
        ] = {}  # of each finished node: values in it, and how deep they are nested

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _refused(f"nested more than {MAX_DEPTH} deep", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self.extent:
                raise _refused(f"*{event.anchor[:40]} contains itself", event)
            return node
        inner = [self.extent[id(child)] for child in _children(node)]
        values, depth = 1 + sum(v for v, _ in inner), 1 + max((d for _, d in inner), default=0)
        if values > MAX_VALUES:
            raise _refused(f"more than {MAX_VALUES} values, once its anchors are followed", event)
        if depth > MAX_DEPTH:
            raise _refused(f"nested more than {MAX_DEPTH} deep, once its anchors are followed", event)
        self.extent[id(node)] = values, depth
        return node

    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        text = super().construct_scalar(node)
        if has_half_pair(text):
            raise _refused("it has half of a surrogate pair (\\ud800 to \\udfff); write the whole character", node)
        return text

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception:  # the tag does not match the value: `!!int x`, `!!bool x`, an integer of 5000 digits
            kind = node.tag.rpartition(":")[2]
            text = shown(node.value) if isinstance(node, yaml.ScalarNode) else f"a {node.id}"
            raise _refused(f"{text} cannot be read as {kind}", node) from None


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refused(problem: str, node: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


_MERGE = "tag:yaml.org,2002:merge"


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> Marked:
    if not isinstance(node, yaml.MappingNode):
        raise _refused(f"expected a mapping, found a {node.id}", node)
    own, merged = Marked(), Marked()
    own.line, own.lines, merged.lines = node.start_mark.line + 1, {}, {}
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE:
            for base in _bases(loader, value_node):
                for key in base.keys() - merged.keys():
                    merged[key], merged.lines[key] = base[key], base.lines[key]
            continue
        if not isinstance(key_node, yaml.ScalarNode):
            raise _refused(f"a {key_node.id} cannot be a key", key_node)
        key = loader.construct_object(key_node, deep=True)
        if key in own:
            raise _refused(f"'{key}' is given twice", key_node)
        own[key], own.lines[key] = loader.construct_object(value_node, deep=True), key_node.start_mark.line + 1
    for key in [key for key in merged if key not in own]:
        own[key], own.lines[key] = merged[key], merged.lines[key]
    return own


def _bases(loader: _Loader, node: yaml.Node) -> list[Marked]:
    """The mappings that `<<` merges; the first that has a key gives its value."""
    value = loader.construct_object(node, deep=True)
    bases = value if isinstance(value, list) else [value]
    if not all(isinstance(base, Marked) for base in bases):
        raise _refused("<< takes a mapping, or a list of them", node)
    return bases


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in _Loader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _PLAIN
}


def read_yaml(path: str | Path, what: str) -> Marked:
    """The top-level mapping of a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML or not a mapping, has a repeated key, or exceeds the size limits.
    """
    text = read_text(path, what)
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(text) / 1e6:.1f} MB, too large for the {what} file")
    try:
        loader = _Loader(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {_one_line(error.problem)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.reason}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid YAML: nested too deeply") from None
    if not isinstance(value, Marked):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {shown(value)}")
    return value


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:200]

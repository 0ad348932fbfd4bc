"""Parse all Swift files of a folder, and fail at syntax errors. Usage: `python parse_swift.py FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import tree_sitter_swift
from tree_sitter import Language, Node, Parser


def faults(node: Node) -> Iterator[Node]:
    """The nodes that are not Swift."""
    if node.type == "ERROR" or node.is_missing:
        yield node
        return
    for child in node.children:
        yield from faults(child)


if __name__ == "__main__":
    parser, wrong, files = Parser(Language(tree_sitter_swift.language())), 0, sorted(Path(sys.argv[1]).rglob("*.swift"))
    for path in files:
        for node in faults(parser.parse(path.read_bytes()).root_node):
            print(f"{path}:{node.start_point[0] + 1}: syntax error: {node.text.decode()[:80]!r}")
            wrong += 1
    print(f"{len(files)} files, {wrong} syntax errors")
    sys.exit(1 if wrong or not files else 0)

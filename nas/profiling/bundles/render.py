"""Write a module and the library modules that it imports as one file that does not need the library."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path


def render_script(module: str) -> str:
    """The source of a module with the source of every `nas` module that it imports, directly or not, in front of it.

    A module that is used in this way imports names of `nas` only at its top, as `from nas.x import name`, and defines no
    top-level name that another of the modules defines.

    Args:
        module: dotted name, such as `nas.profiling.bundles.script`; its docstring becomes the docstring of the file.
    """
    imports: dict[str, set[str]] = {}
    bodies: dict[str, str] = {}
    _add(module, imports, bodies)
    docstring = ast.get_docstring(ast.parse(_source(module)), clean=False)
    future = "from __future__ import annotations"
    rest = [f"import {name}" for name in sorted(imports) if not imports[name]]
    rest += [f"from {name} import {', '.join(sorted(names))}" for name, names in sorted(imports.items()) if names]
    sections = [f"\n# From {name}.\n\n{body}" for name, body in bodies.items()]
    return "\n\n".join([f'"""{docstring}"""\n\n{future}', "\n".join(rest) + "\n", *sections]).rstrip() + "\n"


def _add(module: str, imports: dict[str, set[str]], bodies: dict[str, str]) -> None:
    """Collect the imports and the bodies of a module, those of the modules that it imports first."""
    if module in bodies:
        return
    source = _source(module)
    tree = ast.parse(source)
    removed: set[int] = set()
    if ast.get_docstring(tree) is not None:
        removed.update(range(tree.body[0].lineno, tree.body[0].end_lineno + 1))
    for node in tree.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        removed.update(range(node.lineno, node.end_lineno + 1))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "nas":
            _add(node.module, imports, bodies)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                imports.setdefault(alias.name, set())
        elif node.module != "__future__":
            imports.setdefault(node.module, set()).update(alias.name for alias in node.names)
    lines = [line for number, line in enumerate(source.splitlines(), 1) if number not in removed]
    bodies[module] = "\n".join(lines).strip() + "\n"


def _source(module: str) -> str:
    return Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")

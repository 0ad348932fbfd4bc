"""Writes the API reference, a page a module, out of the docstrings: `python docs/reference.py OUT` (`make docs`)."""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path

import pdoc

import nas


def modules() -> list[str]:
    """Every module of the library, but for what runs as a program or inside a child process."""
    found = [name for _, name, _ in pkgutil.walk_packages(nas.__path__, "nas.")]
    return ["nas", *(name for name in found if not name.endswith(("__main__", "_child")))]


def main(out: Path) -> None:
    for module in (nas, nas.search):  # their names are loaded at first use; pdoc shows what is there
        for name in module.__all__:
            setattr(module, name, getattr(module, name))
    pdoc.render.configure(docformat="google", footer_text=f"nas {nas.__version__}")
    pdoc.pdoc(*modules(), output_directory=out)
    print(out / "index.html")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/reference.py OUT")
    main(Path(sys.argv[1]))

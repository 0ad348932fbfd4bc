"""Writes the API reference, one page per module, from the docstrings: `python docs/reference.py OUT`."""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path

import pdoc

import nas


def modules() -> list[str]:
    """Every module of the library, except those that run as a program or in a child process."""
    names = [name for _, name, _ in pkgutil.walk_packages(nas.__path__, "nas.")]
    return ["nas", *(name for name in names if not name.endswith(("__main__", "_child")))]


def main(out: Path) -> None:
    for module in (nas, nas.search):  # their names are imported lazily; pdoc shows loaded ones
        for name in module.__all__:
            setattr(module, name, getattr(module, name))
    pdoc.render.configure(docformat="google", footer_text=f"nas {nas.__version__}")
    pdoc.pdoc(*modules(), output_directory=out)
    print(out / "index.html")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/reference.py OUT")
    main(Path(sys.argv[1]))

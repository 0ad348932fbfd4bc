"""The house of the design: who may import whom, and what a light command may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nas"
GROUND = {
    "errors",
    "files",
    "locks",
    "config",
    "progress",
    "ranges",
    "csv_files",
    "yaml_files",
}  # utilities below floor 0, and the version
FLOORS = {
    **dict.fromkeys(["spaces"], 0),
    **dict.fromkeys(["costs", "models"], 1),
    **dict.fromkeys(["profiling", "search", "training"], 2),
    **dict.fromkeys(["pipeline", "export"], 3),
    **dict.fromkeys(["report"], 4),
    **dict.fromkeys(["job"], 5),
    **dict.fromkeys(["cli"], 6),
}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_dependencies_point_down(path):
    own = part_of(path)
    assert own in FLOORS or own in GROUND, f"{own} has no floor"
    for name in imports(path):
        if not name.startswith("nas.") or name == "nas.__version__":
            continue
        other = name.split(".")[1]
        if other in GROUND or other == own:
            continue
        assert own not in GROUND, f"{own} imports {name}"
        assert FLOORS[other] < FLOORS[own], f"{own} (floor {FLOORS[own]}) imports {name} (floor {FLOORS[other]})"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if part_of(p) in {*GROUND, "spaces", "costs"}], ids=lambda p: p.name
)
def test_the_lowest_floors_never_name_torch(path):
    assert not [name for name in imports(path) if name.split(".")[0] == "torch"]


HEAVY = ("torch", "diffusers", "transformers", "ray", "coremltools", "matplotlib", "sklearn")


@pytest.mark.parametrize("code", ["import nas", "import nas.cli", "import nas.costs, nas.search, nas.report"])
def test_light_imports_stay_light(code):
    script = f"import sys\n{code}\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

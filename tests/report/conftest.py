import shutil

import pytest

from tests.support import report_folders


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A finished run of the demo space; not to be written to."""
    return report_folders.finished(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of it to break, with the losses of two stages only: charts take most of a page's time."""
    return report_folders.with_few_charts(shutil.copytree(finished_run, tmp_path / "run"))

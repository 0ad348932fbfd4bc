"""Training, preparing, pruning, searching and generating on an accelerator, which is pretended: see `tests/support/pretended`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parents[1] / "support" / "pretended" / "cases.py"


@pytest.mark.slow
def test_everything_computes_on_the_accelerator_and_hardly_waits_for_it():
    """In a process of its own, since torch takes the device for the machine's from then on."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", CASES]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=CASES.parents[3], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]

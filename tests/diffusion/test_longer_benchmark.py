"""The seam measure of benchmarks/longer.py."""

import importlib.util
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).resolve().parents[2] / "benchmarks/longer.py"


@pytest.fixture(scope="module")
def longer():
    spec = importlib.util.spec_from_file_location("longer_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("overlapping, borders", [(True, [4, 8, 12]), (False, [8])])
def test_a_jump_where_a_window_begins_is_a_seam_and_one_inside_is_not(longer, overlapping, borders):
    assert longer.window_borders(16, 8, overlapping) == borders
    steady = torch.arange(61.0).reshape(1, 1, -1, 1, 1).repeat(3, 1, 1, 2, 2)  # 16 latent frames of 4 frames
    assert longer.seam(steady, borders, 4)["ratio"] == pytest.approx(1)
    for latent in range(1, 16):
        jump = steady.clone()
        jump[:, :, 4 * latent - 3 :] += 10
        ratio = longer.seam(jump, borders, 4)["ratio"]
        assert ratio > 2 if latent in borders else ratio < 1, latent

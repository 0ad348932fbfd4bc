"""The joint-training benchmark keeps the results of one condition in one folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from nas.errors import ConfigError

PATH = Path(__file__).resolve().parents[1] / "benchmarks/joint.py"


@pytest.fixture(scope="module")
def check_condition():
    spec = importlib.util.spec_from_file_location("joint_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.check_condition


def test_a_folder_goes_on_with_its_check_condition_and_refuses_another(check_condition, tmp_path):
    asked = {"videos": 40, "steps": 600, "eval_steps": (8,), "architecture": {"mid.0/0": "Conv1D"}}
    check_condition(tmp_path / "out", **asked)
    check_condition(tmp_path / "out", **asked)
    with pytest.raises(ConfigError, match=r"videos 40 \(now None\), steps 600 \(now 200\)") as refused:
        check_condition(tmp_path / "out", **{**asked, "videos": None, "steps": 200})
    assert "another --out" in str(refused.value) and "\n" not in str(refused.value)


def test_results_without_a_condition_are_not_joined(check_condition, tmp_path):
    (tmp_path / "joint-0").mkdir()
    (tmp_path / "joint-0/stage.json").write_text("{}")
    with pytest.raises(ConfigError, match="without a recorded condition"):
        check_condition(tmp_path, videos=None)

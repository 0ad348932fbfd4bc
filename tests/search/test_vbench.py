"""The VBench adapter, up to VBench: a stand-in package that answers in VBench's format."""

import sys

import pytest

from nas.errors import ConfigError, MissingDependency
from nas.search.evaluators import EvaluatorError
from nas.search.evaluators.vbench import VBench
from tests.support.instances import make

STAND_IN = """
import json, os
class VBench:
    def __init__(self, device, full_info_dir, output_path):
        self.output_path = output_path
        os.makedirs(output_path, exist_ok=True)
    def evaluate(self, videos_path, name, dimension_list=None, local=False, read_frame=False, mode="vbench_standard"):
        assert mode == "custom_input"
        clips = sorted(os.listdir(videos_path))
        scores = {d: [len(clips) / 10 + i / 10, []] for i, d in enumerate(dimension_list)}
        json.dump(scores, open(os.path.join(self.output_path, name + "_eval_results.json"), "w"))
"""


def test_vbench_adapter(tmp_path, monkeypatch):
    arch = make(0, 2, 2)[0].random(seed=0)

    def generate(arch, folder):
        (folder / "a cat.mp4").write_bytes(b"clip")

    evaluator = VBench(generate, ("motion_smoothness", "imaging_quality"), device="cpu")
    monkeypatch.setitem(sys.modules, "vbench", None)
    with pytest.raises(MissingDependency, match="pip install vbench"):
        evaluator(arch)
    monkeypatch.delitem(sys.modules, "vbench")
    (tmp_path / "vbench").mkdir()
    (tmp_path / "vbench" / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    assert evaluator(arch) == pytest.approx(0.15)
    with pytest.raises(EvaluatorError, match="no clips"):
        VBench(lambda arch, folder: None)(arch)
    with pytest.raises(ConfigError, match="did you mean 'motion_smoothness'"):
        VBench(generate, ("motion_smoothnes",))
    sys.modules.pop("vbench", None)

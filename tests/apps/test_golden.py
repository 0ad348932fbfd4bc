"""The golden values of the native apps are what Python computes, and the C++ program computes the same."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from apps.golden import compare, make
from nas.diffusion.sampling import generate
from tests.support.cpp_runner import build

GOLDEN = Path(make.__file__).parent


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return build(tmp_path_factory)


def test_golden_values_are_current():
    stored, now = json.loads((GOLDEN / "golden.json").read_text()), make.golden()
    assert stored["tokens"] == json.loads(json.dumps(now["tokens"]))
    for kind, values in (("noise", "draws"), ("sampling", "latents")):
        for case, expected in zip(stored[kind], now[kind], strict=True):
            np.testing.assert_allclose(np.hstack(case[values]), np.hstack(expected[values]), rtol=1e-5, atol=1e-5)
            rest = {key: value for key, value in expected.items() if key != values}
            assert {key: case[key] for key in rest} == json.loads(json.dumps(rest))


@pytest.mark.parametrize("sampler", ["euler", "renoise"])
def test_golden_sampling_is_that_of_the_pipeline(sampler):
    """The steps of a real schedule give the latents of `generate`, by the formula of `apps/golden/make.py`."""
    import torch

    from nas.exported.app import Sampling, Step

    class Analytic(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dummy = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, timestep, context):
            return torch.stack([make.analytic_denoiser(one, t.item(), True) for one, t in zip(x, timestep)])

    times = make.times(3)
    context = torch.zeros(1, 2, 3)
    expected = generate(Analytic(), context, context, (1, 1, 6, 6), 3, 1.0, sampler, 11)
    steps = []
    for t in times:
        following = t - 1 / 3
        keep, add, noise = (
            (1.0, -1 / 3, 0.0) if sampler == "euler" else (1 - following, -(1 - following) * t, following)
        )
        steps.append(Step(t, 1000 * t, 1.0, keep, add, noise))
    settings = Sampling(sampler, "flow", 1.0, 1.0, 1.0, tuple(steps))
    torch.testing.assert_close(make.sample(settings, 36, 11), expected.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_cpp_agrees_with_the_golden_values(programs):
    done = subprocess.run([programs / "check-golden", GOLDEN], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minilm", "wordpiece", "bpe"])
def test_cpp_tokens_equal_those_of_hugging_face(programs, name):
    texts = [*make.PROMPTS, *compare.random_texts(400)]
    program = [str(programs / "check-golden")]
    assert not compare.differing_texts(program, compare.tokenizers()[name], texts)

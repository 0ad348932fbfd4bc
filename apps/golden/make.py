"""Write `golden.json`: noise, tokens and sampled latents as Python computes them, for the tests of the native apps.

Usage: `python apps/golden/make.py`. `tests/apps/test_golden.py` checks that the files are current.
"""

from __future__ import annotations

import dataclasses
import json
import string
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from nas.diffusion.seeding import generator
from nas.exported.app import Sampling, Step

HERE = Path(__file__).parent
SIZES = ([16], [100, 17], [31, 2, 64], [1, 3, 15], [7, 16, 7], [1000])
"""Sizes of the draws from one generator; torch draws fewer than 16 numbers in another way."""
PROMPTS = (
    "",
    "a cat runs",
    "The Digit THREE moves left, then right!",
    "  tabs\tand\nnew lines  and\u00a0others\u3000here ",
    "Crème brûlée à la carte, naïve façade; Ångström, Łódź, İstanbul ǅ ẞ",
    "don't you'll we've I'm they're he'd it's 'tis rock'n'roll",
    "3.14159 costs $5 (50% off) #1 @home ~x^2 a_b a-b a/b `q`",
    "数字三 moves 左 漢字 かな カナ 한국어 텍스트",
    "emoji 🎈👩\u200d🚀 and zero\u200bwidth, control \u0007 and soft\u00adhyphen",
    "e\u0301 combining, \ufb01 ligature, ½ ² ① Ⅷ",
    "Ελληνικά ΟΔΥΣΣΕΥΣ русский ЁЛКА العربية עברית हिन्दी ไทย",
    "[CLS] a [SEP] [MASK] cat[PAD] <|endoftext|> a<|startoftext|>",
    "unquestionably antidisestablishmentarianism " + "x" * 120,
    "a red balloon rises over a quiet lake at dawn, seen from a slowly turning camera, with hills in the mist " * 3,
    "“quotes” — dashes… «guillemets» ¿question? §4 ©®™ €£¥",
)
LENGTHS = {"wordpiece": 48, "bpe": 96}


def noise() -> list[dict[str, Any]]:
    """Normal numbers by the whole numbers that seed them."""
    cases = []
    for numbers, sizes in zip(((0, 0), (1, 0), (2**40 + 3, 0), (7, 0, 4), (2**63 - 1, 0), (5, 2)), SIZES):
        stream = generator(*numbers)
        cases.append({"numbers": numbers, "draws": [rounded(torch.randn(size, generator=stream)) for size in sizes]})
    return cases


def tokens() -> list[dict[str, Any]]:
    """Ids and masks of the prompts with both tokenizers."""
    cases = []
    for name, length in LENGTHS.items():
        tokenizer = Tokenizer.from_file(str(HERE / name / "tokenizer.json"))
        encoded = [(prompt, tokenizer.encode(prompt)) for prompt in PROMPTS]
        prompts = [{"text": text, "ids": e.ids, "mask": e.attention_mask} for text, e in encoded]
        cases.append({"tokenizer": f"{name}/tokenizer.json", "length": length, "prompts": prompts})
    return cases


def analytic_denoiser(x: Tensor, timestep: float, conditional: bool) -> Tensor:
    """A formula in place of a model; each app's test has the same one."""
    return torch.tanh(x) * (0.5 + timestep / 2000) + (0.25 if conditional else -0.125)


def sampling() -> list[dict[str, Any]]:
    """Latents after all steps, with the analytic denoiser."""
    flow = Sampling("euler", "flow", 3.0, 1.0, 1.0, tuple(Step(t, 1000 * t, 1.0, 1.0, -0.25, 0.0) for t in times(4)))
    epsilon = Sampling(
        "euler", "epsilon", 1.0, 1.0, 14.6, tuple(Step(t, 999 * t, 0.6, 0.9, 0.3, 0.0) for t in times(3))
    )
    renoise = Sampling(
        "renoise", "flow", 1.0, 3.0, 1.0, tuple(Step(t, 1000 * t, 1.0, 1.25 - t, -0.3 * t, t - 0.25) for t in times(4))
    )
    cases = []
    for seed, (name, settings) in enumerate((("flow", flow), ("epsilon", epsilon), ("renoise", renoise))):
        latents = rounded(sample(settings, 37, seed))
        cases.append({"name": name, "seed": seed, "sampling": dataclasses.asdict(settings), "latents": latents})
    return cases


def times(steps: int) -> list[float]:
    return [1 - i / steps for i in range(steps)]


def sample(settings: Sampling, size: int, seed: int) -> Tensor:
    """What `nas.exported.app.Step` describes."""
    x = settings.initial_scale * torch.randn(size, generator=generator(seed, 0))
    stream = generator(seed, 0, len(settings.steps))
    for step in settings.steps:
        prediction = analytic_denoiser(step.input_scale * x, step.timestep, True)
        if settings.guidance != 1:
            empty = analytic_denoiser(step.input_scale * x, step.timestep, False)
            prediction = empty + settings.guidance * (prediction - empty)
        x = step.keep * x + step.add * prediction
        if settings.sampler == "renoise":
            x = x + step.noise * torch.randn(size, generator=stream)
    return x


def rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in values.tolist()]


def write_tokenizers() -> None:
    """Train a small WordPiece and a small CLIP tokenizer on the prompts. Only needed if their settings change."""
    from tokenizers import models, trainers
    from transformers import BertTokenizerFast, CLIPTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    text = [*PROMPTS, string.ascii_letters, " ".join(string.printable), "the quick brown fox jumps over the lazy dog"]
    bert = BertTokenizerFast(vocab={token: i for i, token in enumerate(special)}).backend_tokenizer
    bert.model = models.WordPiece(unk_token="[UNK]")
    # Rare characters stay unknown.
    bert.train_from_iterator(text, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, limit_alphabet=90))
    save(BertTokenizerFast(tokenizer_object=bert), "wordpiece")
    start, end = "<|startoftext|>", "<|endoftext|>"
    clip = CLIPTokenizer(vocab={start: 0, end: 1}, merges=[]).backend_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[start, end], end_of_word_suffix="</w>")
    clip.train_from_iterator(text, trainer)
    save(CLIPTokenizer(tokenizer_object=clip), "bpe")


def save(tokenizer: Any, name: str) -> None:
    backend, length = tokenizer.backend_tokenizer, LENGTHS[name]
    backend.enable_truncation(length)
    backend.enable_padding(length=length, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    (HERE / name).mkdir(exist_ok=True)
    backend.save(str(HERE / name / "tokenizer.json"), pretty=False)


def golden() -> dict[str, Any]:
    """The contents of `golden.json`."""
    return {"noise": noise(), "tokens": tokens(), "sampling": sampling()}


if __name__ == "__main__":
    if sys.argv[1:] == ["--tokenizers"]:
        write_tokenizers()
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in golden().items()]
    (HERE / "golden.json").write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")

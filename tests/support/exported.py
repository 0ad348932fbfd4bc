"""A tiny text-to-video checkpoint for export: real tokens in, pixels out, and every part affects the clip."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROMPTS = ("the digit three moves left", "", "a red balloon rises over a quiet lake at dawn, " * 4, "fünf 🎈 five")
"""Prompts that differ in what the tokenizer does: plain, empty, truncated, unknown characters."""


def built_once(tmp_path_factory: pytest.TempPathFactory, name: str, build: Callable[[Path], Any]) -> Path:
    """A folder that `build` fills, once for all processes of a test run."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    finished = root / f"{name}.finished"
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            shutil.rmtree(root / name, ignore_errors=True)
            build(root / name)
            finished.touch()
    return root / name


def clip_checkpoint(folder: Path) -> Path:
    """Write a checkpoint: a denoiser of one level with three operators, a decoder, and a BERT of two layers.

    The weights are random; output layers, which training starts at zero, are not zero. Clips have 4 frames of 16x16
    pixels, 4 sampling steps and guidance 3.
    """
    import torch

    from nas import checkpoint
    from nas.models import Autoencoder, VAEConfig, build
    from nas.spaces import Backbone, Latent, Operator, SearchSpace, Text

    torch.manual_seed(0)
    kinds = ("SelfAttention3D", "CrossAttention1D", "Conv3D")
    operators = {kind: Operator(kind, (("heads", 2),) if "Attention" in kind else ()) for kind in kinds}
    backbone = Backbone((16,), attention_levels=(), heads=2, norm_groups=8, mid=False)
    latent = Latent(channels=4, frames=4, height=8, width=8)
    slots = {f"{site}/0": ["none", *kinds] for site in backbone.sites(latent)}
    text = Text(tokens=12, dim=32, encoder=str(text_encoder(folder / "text")))
    space = SearchSpace("clips", slots, operators, backbone, latent, text)
    arch = space.architecture(dict(zip(slots, kinds)))
    denoiser = build(space, arch)
    autoencoder = Autoencoder(
        VAEConfig((16, 32), image_channels=1, norm_groups=8, mid_attention=False, scaling_factor=0.5)
    )
    for parameter in [*denoiser.parameters(), *autoencoder.parameters()]:
        parameter.data += 0.1 * torch.randn_like(parameter)
    checkpoint.save_autoencoder(folder / "decoder", autoencoder)
    info = checkpoint.CheckpointInfo("adversarial", steps=4, guidance=3.0, text_encoder=text.encoder)
    return checkpoint.save(folder / "checkpoint", denoiser.state_dict(), space, arch, folder / "decoder", info)


def text_encoder(folder: Path) -> Path:
    """Save a BERT of two layers, 32 wide, whose attention depends on its input; WordPiece tokens down to letters."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = [*string.ascii_lowercase, *string.digits, *",.!?-"]
    words = ["the", "digit", "three", "five", "moves", "left", "right", "red", "over", "lake", "cat", "runs"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *words]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(pieces))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    model = BertModel(config)
    for name, parameter in model.named_parameters():
        if "attention" in name and name.endswith("weight") and parameter.ndim == 2:
            parameter.data *= 15  # BERT's initial attention is almost uniform
    model.save_pretrained(folder)
    return folder


def psnr(clip: np.ndarray, expected: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 frames in dB; infinite if they are equal."""
    error = np.mean((clip.astype(float) - expected.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def streaming(checkpoint: Path, export: Path, out: Path) -> None:
    """Write `checkpoint` and `export` into a folder, with a decoder that compresses time by 2 and streams.

    It decodes two latent frames per run; the first of four stands for one frame, the others for two: 7 frames.
    """
    import torch

    from nas import checkpoint as checkpoints
    from nas.conversion.convert import to_litert
    from nas.export import manifest, parts
    from nas.export.describe import describe
    from nas.models import Autoencoder, VAEConfig
    from nas.spaces import Decoder

    loaded = checkpoints.load(checkpoint)
    config = VAEConfig((8, 16), image_channels=1, norm_groups=8, temporal_compression=2, scaling_factor=0.5)
    config = dataclasses.replace(config, latents_mean=(0.5, -0.5, 0.25, 0.0), latents_std=(1.0, 2.0, 0.5, 1.5))
    torch.manual_seed(0)
    autoencoder = Autoencoder(config)
    for parameter in autoencoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    checkpoints.save_autoencoder(out / "decoder", autoencoder)
    space = dataclasses.replace(loaded.space, decoder=Decoder(config, frames=2))
    weights, arch = loaded.denoiser.state_dict(), space.architecture(loaded.architecture.choices)
    loaded = checkpoints.load(checkpoints.save(out / "checkpoint", weights, space, arch, out / "decoder", loaded.info))
    folder = shutil.copytree(export, out / "export")
    part = parts.decoder(loaded)
    to_litert(part.module, part.inputs, folder / "decoder.tflite")
    files = {name: folder / f"{name}.tflite" for name in ("denoiser", "decoder", "text_encoder")}
    app = describe(loaded, folder, files, "float32", dict.fromkeys(files, 32), folder / "tokenizer")
    manifest.record(folder, "litert", [*files.values(), folder / "tokenizer"], loaded, None, {}, app)


def resampled(checkpoint: Path, export: Path, out: Path, **info: Any) -> tuple[Path, Path]:
    """Copies of a checkpoint and of its LiteRT export with other sampling settings, without converting again.

    Args:
        info: fields of `CheckpointInfo`, such as steps, guidance and sampler.

    Returns:
        The checkpoint's and the export's folder.
    """
    from nas import checkpoint as checkpoints
    from nas.export.schedule import sampling
    from nas.exported import manifest
    from nas.files import read_json, write_json

    for source, name in ((checkpoint, "checkpoint"), (export, "export")):
        for file in (path for path in source.rglob("*") if path.is_file()):
            target = out / name / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.name in ("checkpoint.json", manifest.MANIFEST):
                target.write_bytes(file.read_bytes())
            else:
                os.link(file, target)
    path = out / "checkpoint" / "checkpoint.json"
    write_json(path, {**read_json(path, "checkpoint"), **info})
    path = out / "export" / manifest.MANIFEST
    entries = read_json(path, "export manifest")
    entries["litert"]["app"]["sampling"] = dataclasses.asdict(sampling(checkpoints.load(out / "checkpoint")))
    write_json(path, entries)
    return out / "checkpoint", out / "export"

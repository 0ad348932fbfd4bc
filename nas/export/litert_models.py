"""LiteRT models of a checkpoint: the same three parts as for Core ML, run here and compared with torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nas.costs import LookupTable
from nas.errors import MissingDependency, NasError
from nas.export import manifest, parts
from nas.export.parts import Part
from nas.profiling.convert import to_litert
from nas.training import checkpoint as checkpoints
from nas.training.objective import generator
from nas.training.text import TextEncoder

TOLERANCE = 1e-3
"""Largest error next to torch that is let pass, as a share of the output's largest value."""


def litert(checkpoint: str | Path, out: str | Path, table: LookupTable | None = None) -> list[Path]:
    """Write `denoiser`, `decoder` and `text_encoder` as .tflite in float32, and the tokenizer's files.

    Each model is run on random inputs and compared with torch before it counts as written.

    Args and what it returns: as `nas.export.coreml`.

    Raises:
        ConfigError: the checkpoint is not one.
        MissingDependency: litert-torch, ai-edge-litert or the text encoder is not installed.
        NasError: a part cannot be converted, or computes something else than torch.
    """
    loaded, out = checkpoints.load(checkpoint), Path(out)
    made = []
    for part in (parts.denoiser(loaded), parts.decoder(loaded), parts.text_encoder(loaded)):
        path = to_litert(part.module, part.inputs, out / f"{part.name}.tflite")
        error = relative_error(path, part)
        if not error <= TOLERANCE:
            raise NasError(f"{path}: differs from torch by {error:.2g} of its largest value, more than {TOLERANCE}")
        made.append(path)
    tokenizer, _ = TextEncoder(loaded.space.text).load()
    tokenizer.save_pretrained(out / "tokenizer")
    made.append(out / "tokenizer")
    return [*made, manifest.record(out, "litert", made, loaded, table)]


@torch.no_grad()
def relative_error(path: Path, part: Part) -> float:
    """The largest difference between a .tflite model and the module it was made from, over the output's largest value.

    Raises:
        MissingDependency: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingDependency("ai-edge-litert is not installed; run: pip install 'nas-video[litert]'") from None
    stream = generator(0)
    inputs = {
        name: torch.randn(x.shape, generator=stream) if x.is_floating_point() else x for name, x in part.inputs.items()
    }
    found = next(
        iter(Interpreter(str(path)).get_signature_runner()(**{k: x.numpy() for k, x in inputs.items()}).values())
    )
    wanted = part.module(**inputs).numpy()
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())

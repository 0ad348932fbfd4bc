"""LiteRT models of a checkpoint: the same three parts as for Core ML, run here and compared with torch."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from nas import checkpoint as checkpoints
from nas.conversion.convert import to_litert
from nas.conversion.variants import apply_variants
from nas.costs import LookupTable
from nas.errors import MissingDependency
from nas.export import manifest, parts
from nas.export.parts import Part
from nas.models import Denoiser
from nas.models.text_encoder import TextEncoder

TOLERANCE = 1e-3
"""Largest error next to torch that is let pass, as a share of the output's largest value."""


def litert(checkpoint: str | Path, out: str | Path, table: LookupTable | None = None) -> list[Path]:
    """Write `denoiser`, `decoder` and `text_encoder` as .tflite in float32, and the tokenizer's files.

    The denoiser's operators are written in the forms that `table` found fastest, if it was measured with LiteRT. Each
    model is run on random inputs and compared with torch before it counts as written.

    Args and what it returns: as `nas.export.coreml`.

    Raises:
        ConfigError: the checkpoint is not one.
        MissingDependency: litert-torch, ai-edge-litert or the text encoder is not installed.
        NasError: a part cannot be converted, or computes something else than torch.
    """
    loaded, out = checkpoints.load(checkpoint), Path(out)
    made, errors = [], {}
    for part in (parts.denoiser(loaded), parts.decoder(loaded), parts.text_encoder(loaded)):
        path = to_litert(as_measured(part.module, table), part.inputs, out / f"{part.name}.tflite")
        errors[part.name] = relative_error(path, part)
        parts.check_error(path, errors[part.name], TOLERANCE)
        made.append(path)
    tokenizer, _ = TextEncoder(loaded.space.text).load()
    tokenizer.save_pretrained(out / "tokenizer")
    made.append(out / "tokenizer")
    return [*made, manifest.record(out, "litert", made, loaded, table, errors)]


def as_measured(module: nn.Module, table: LookupTable | None) -> nn.Module:
    """A denoiser with its operators in the forms of a LiteRT table's rows; anything else as it is."""
    if not isinstance(module, Denoiser) or table is None or table.meta.get("runtime") != "litert":
        return module
    return apply_variants(copy.deepcopy(module), {workload: row.variant for workload, row in table.rows().items()})


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
    inputs = parts.random_inputs(part)
    runner = Interpreter(str(path)).get_signature_runner()
    found = next(iter(runner(**{name: x.numpy() for name, x in inputs.items()}).values()))
    return parts.relative_error(found, part.module(**inputs).numpy())

"""LiteRT models of a checkpoint: the same three parts as for Core ML, run here and compared with torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from nas import checkpoint as checkpoints
from nas.conversion.convert import to_litert
from nas.conversion.variants import apply_variants
from nas.costs import LookupTable
from nas.errors import MissingDependency
from nas.export import manifest, parts
from nas.export.check import check_error, relative_error
from nas.export.describe import describe
from nas.export.samples import Sample, real_samples
from nas.export.tokenizer import save_tokenizer
from nas.models import Denoiser

TOLERANCE = 1e-4
"""Largest error next to torch that is let pass; 1e-6 is usual."""


def litert(checkpoint: str | Path, out: str | Path, table: LookupTable | None = None) -> list[Path]:
    """Write `denoiser`, `decoder` and `text_encoder` as .tflite in float32, and the tokenizer's files.

    The denoiser's operators are written in the forms that `table` found fastest, if it was measured with LiteRT. Each
    model is run on what it meets when clips are made and compared with torch before it counts as written.

    Args and what it returns: as `nas.export.coreml`.

    Raises:
        ConfigError: the checkpoint is not one.
        MissingDependency: litert-torch, ai-edge-litert or the text encoder is not installed.
        NasError: a part cannot be converted, or computes something else than torch.
    """
    loaded, out = checkpoints.load(checkpoint), Path(out)
    made, checks, samples = [], {}, real_samples(loaded)
    for part in (parts.denoiser(loaded), parts.decoder(loaded), parts.text_encoder(loaded)):
        path = to_litert(as_measured(part.module, table), part.inputs, out / f"{part.name}.tflite")
        error = litert_error(path, samples[part.name])
        check_error(path, error, TOLERANCE)
        checks[part.name] = {"samples": len(samples[part.name]), "error_float32": error}
        made.append(path)
    made.append(save_tokenizer(loaded.space.text, out / "tokenizer"))
    files = {path.stem: path for path in made[:3]}
    app = describe(loaded, out, files, "float32", dict.fromkeys(files, 32), made[-1])
    return [*made, manifest.record(out, "litert", made, loaded, table, checks, app)]


def as_measured(module: nn.Module, table: LookupTable | None) -> nn.Module:
    """A denoiser with its operators in the forms of a LiteRT table's rows; anything else as it is."""
    if not isinstance(module, Denoiser) or table is None or table.provenance.runtime != "litert":
        return module
    return apply_variants(copy.deepcopy(module), {workload: row.variant for workload, row in table.rows().items()})


def litert_error(path: Path, samples: Sequence[Sample]) -> float:
    """The largest error of a .tflite model next to torch, see `nas.export.check.relative_error`.

    Raises:
        MissingDependency: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingDependency("ai-edge-litert is not installed; run: pip install 'nas-video[litert]'") from None
    runner, errors = Interpreter(str(path)).get_signature_runner(), []
    for sample in samples:
        found = next(iter(runner(**{name: x.numpy() for name, x in sample.inputs.items()}).values()))
        errors.append(relative_error(torch.from_numpy(found), sample.wanted))
    return max(errors)

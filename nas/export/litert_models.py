"""Export denoiser, decoder and text encoder of a checkpoint as LiteRT models, and compare each with torch."""

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
from nas.export.check import check_error, largest_error
from nas.export.describe import describe
from nas.export.samples import Sample, real_samples
from nas.export.tokenizer import save_tokenizer
from nas.models import Denoiser

TOLERANCE = 1e-4
"""Maximum relative error from torch; 1e-6 is typical."""


def litert(checkpoint: str | Path, out: str | Path, table: LookupTable | None = None) -> list[Path]:
    """Write `denoiser`, `decoder` and `text_encoder` as .tflite in float32, and the tokenizer's files.

    The denoiser uses the operator variants that were fastest in `table`, if it was measured with LiteRT. Each model is
    run on inputs from generated clips and compared with torch.

    Args:
        checkpoint: folder of a finished stage.
        out: export folder; its manifest is updated.
        table: lookup table of the device, for the variants and the predicted latency.

    Returns:
        The models, the tokenizer's folder and the manifest.

    Raises:
        ConfigError: `checkpoint` is not a checkpoint.
        MissingDependency: litert-torch, ai-edge-litert or the text encoder is not installed.
        NasError: a part cannot be converted, or its output differs from torch.
    """
    loaded, out = checkpoints.load(checkpoint), Path(out)
    paths, checks, samples = [], {}, real_samples(loaded)
    for part in (parts.denoiser(loaded), parts.decoder(loaded), parts.text_encoder(loaded)):
        path = to_litert(with_measured_variants(part.module, table), part.inputs, out / f"{part.name}.tflite")
        error = litert_error(path, samples[part.name])
        check_error(path, error, TOLERANCE)
        checks[part.name] = {"samples": len(samples[part.name]), "error_float32": error}
        paths.append(path)
    paths.append(save_tokenizer(loaded.space.text, out / "tokenizer"))
    files = {path.stem: path for path in paths[:3]}
    app = describe(loaded, out, files, "float32", dict.fromkeys(files, 32), paths[-1])
    return [*paths, manifest.record(out, "litert", paths, loaded, table, checks, app)]


def with_measured_variants(module: nn.Module, table: LookupTable | None) -> nn.Module:
    """A copy of a denoiser with the operator variants of a LiteRT table's rows; other modules are returned as is."""
    if not isinstance(module, Denoiser) or table is None or table.provenance.runtime != "litert":
        return module
    return apply_variants(copy.deepcopy(module), {workload: row.variant for workload, row in table.rows().items()})


def litert_error(path: Path, samples: Sequence[Sample]) -> float:
    """The largest error of a .tflite model from torch over the samples, see `nas.export.check.largest_error`.

    Raises:
        MissingDependency: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingDependency("ai-edge-litert is not installed; run: pip install 'nas-video[litert]'") from None
    runner, errors = Interpreter(str(path)).get_signature_runner(), []
    for sample in samples:
        outputs = runner(**{name: x.numpy() for name, x in sample.inputs.items()})
        if len(outputs) == 1:  # the converter names it output_0
            outputs = dict(zip(sample.expected, outputs.values()))
        errors.append(largest_error({name: torch.from_numpy(x) for name, x in outputs.items()}, sample.expected))
    return max(errors)

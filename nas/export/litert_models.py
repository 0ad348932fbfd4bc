"""Export denoiser, decoder and text encoder of a checkpoint as LiteRT models, and compare each with torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas import checkpoint as checkpoints
from nas.conversion.convert import to_litert
from nas.conversion.quantize import WEIGHT_BITS, check_precision, quantize
from nas.conversion.variants import apply_variants
from nas.costs import LookupTable
from nas.errors import ConfigError, MissingDependency
from nas.export import manifest, parts
from nas.export.check import check_error
from nas.export.describe import describe, save_tokenizer
from nas.export.samples import Sample, largest_error, real_samples
from nas.models import Denoiser

TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "int8": 0.2}
"""Maximum relative error from torch, by precision of the weights; typical are 1e-6, 4e-4 and 3e-2."""


def litert(
    checkpoint: str | Path,
    out: str | Path,
    table: LookupTable | None = None,
    precision: str = "float32",
    check: bool = True,
) -> list[Path]:
    """Write `denoiser`, `decoder` and `text_encoder` as .tflite, and the tokenizer's files.

    The denoiser uses the operator variants that were fastest in `table`, if it was measured with LiteRT. Each model is
    run on inputs from generated clips and compared with torch.

    Args:
        checkpoint: folder of a finished stage.
        out: export folder; its manifest is updated.
        table: lookup table of the device, for the variants and the predicted latency.
        precision: of the weights, see `nas.conversion.quantize`. At `int8` the text encoder gets float16 weights: 8 bits
            change its output too much.
        check: whether to run each model and compare it with torch.

    Returns:
        The models, the tokenizer's folder and the manifest.

    Raises:
        ConfigError: `checkpoint` is not a checkpoint, `precision` is unknown, or `table` was measured in another one.
        MissingDependency: litert-torch, ai-edge-quantizer, ai-edge-litert or the text encoder is not installed.
        NasError: a part cannot be converted, or its output differs from torch.
    """
    check_precision(precision)
    _check_table(table, precision)
    loaded, out = checkpoints.load(checkpoint), Path(out)
    samples = real_samples(loaded) if check else {}
    paths, checks, bits = [], {}, {}
    for part in (parts.denoiser(loaded), parts.decoder(loaded), parts.text_encoder(loaded)):
        own = "float16" if precision == "int8" and part.name == "text_encoder" else precision
        path = to_litert(with_measured_variants(part.module, table), part.inputs, out / f"{part.name}.tflite")
        if check:
            checks[part.name] = _check(path, samples[part.name], "float32")
        quantize(path, own)
        if check and own != "float32":
            checks[part.name] |= _check(path, samples[part.name], own)
        bits[part.name] = WEIGHT_BITS[own]
        paths.append(path)
    paths.append(save_tokenizer(loaded.space.text, out / "tokenizer"))
    app = describe(loaded, out, {path.stem: path for path in paths[:3]}, "float32", bits, paths[-1])
    return [*paths, manifest.record(out, "litert", paths, loaded, table, checks, app)]


def _check(path: Path, samples: Sequence[Sample], precision: str) -> dict[str, Any]:
    error = litert_error(path, samples)
    check_error(path, error, TOLERANCES[precision], "" if precision == "float32" else f" with {precision} weights")
    return {"samples": len(samples), f"error_{precision}": error}


def _check_table(table: LookupTable | None, precision: str) -> None:
    """Check that a LiteRT table's rows are of models in this precision."""
    if table is not None and table.provenance.runtime == "litert":
        measured = table.provenance.precision or "float32"
        if measured != precision:
            raise ConfigError(
                f"table: was measured with {measured} weights, the export has {precision}; run 'nas profile --precision "
                f"{precision}' into another table"
            )


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

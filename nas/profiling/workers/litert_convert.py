"""Functions that the converting process of the `litert` runtime executes. Importing this module imports torch."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from nas import config
from nas.conversion import convert, quantize, variants
from nas.errors import NasError
from nas.failures import Infeasible
from nas.files import copy_atomic, read_json, write_json
from nas.models import denoiser, layers, operators, positions, unet
from nas.models.autoencoder import blocks, model, normalization, streaming, temporal
from nas.profiling.runtimes.base import ConvertedModel, Runnable, WholeModel
from nas.profiling.workers.eager import DecoderModule, TextEncoderModule, build_module, make_inputs
from nas.spaces import Backbone, Decoder, Operator, TextEncoder, Workload, resolve, topology

CACHE_LIMIT_BYTES = 20e9
"""Above this size the least recently used models are deleted from the cache."""
AUTOENCODER = (blocks, model, normalization, streaming, temporal)
"""Modules that define a decoder."""


@dataclass(frozen=True)
class _CacheEntry:
    """The fields of a `ConvertedModel` that a JSON file beside the model keeps."""

    params: int
    weights_mb: float
    variant: str
    copies: int


def convert_cached(
    workload: Runnable, variant: str, copies: int, cache: Path, precision: str = "float32"
) -> ConvertedModel:
    """A workload as a LiteRT model with random weights: from the cache, or converted and put there.

    Args:
        workload: an operator is converted between features `(B*T, C, H, W)`, as it stands in the denoiser.
        variant: of an operator, see `nas.conversion.variants`; empty is the reference.
        copies: how often the operator runs, one after the other.
        cache: the folder. A file's name is a hash of the workload, of the code that defines it, and of the versions
            of the libraries that write it.
        precision: of the weights, see `nas.conversion.quantize`.

    Raises:
        Infeasible: LiteRT cannot express it.
        NasError: litert-torch is not installed, or fails for another reason.
    """
    path = cache / f"{_key(workload, variant, copies, precision)}.tflite"
    entry = _read_entry(path.with_suffix(".json")) if path.is_file() else None
    if entry is not None:
        with contextlib.suppress(OSError):
            os.utime(path)
        return ConvertedModel(path, **vars(entry))
    if precision == "float32":
        entry = _convert(workload, variant, copies, path)
    else:
        entry = _quantize(convert_cached(workload, variant, copies, cache), precision, path)
    write_json(path.with_suffix(".json"), vars(entry))
    _evict(cache, keep=path)
    return ConvertedModel(path, **vars(entry))


def _convert(workload: Runnable, variant: str, copies: int, path: Path) -> _CacheEntry:
    module, inputs = module_and_inputs(workload, variant, copies)
    try:
        convert.to_litert(module, inputs, path)
    except convert.Unconvertible as error:
        raise Infeasible(str(error)) from None
    one = module.operators[0] if isinstance(module, OperatorChain) else module
    weights = [*one.parameters(), *one.buffers()]
    return _CacheEntry(
        params=sum(p.numel() for p in one.parameters()),
        weights_mb=sum(w.numel() * w.element_size() for w in weights) / 1e6,
        variant=variant or variants.REFERENCE,
        copies=copies,
    )


def _quantize(model: ConvertedModel, precision: str, path: Path) -> _CacheEntry:
    """Write a float32 model in another precision.

    Its weights are counted as XNNPACK holds them: int8 as they are stored, float16 unpacked to float32.
    """
    quantize.quantize(copy_atomic(model.path, path), precision)
    saved_mb = (model.path.stat().st_size - path.stat().st_size) / 1e6 / model.copies
    weights_mb = model.weights_mb if precision == "float16" else max(0.0, model.weights_mb - saved_mb)
    return _CacheEntry(model.params, weights_mb, model.variant, model.copies)


def _read_entry(path: Path) -> _CacheEntry | None:
    """The entry of a model in the cache; None if it is damaged, so that the model is converted again."""
    try:
        return config.build(_CacheEntry, read_json(path, "cached model", dict), str(path))
    except NasError:
        return None


def module_and_inputs(workload: Runnable, variant: str, copies: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """The module of a workload, and its inputs by name as contiguous tensors; an operator as an `OperatorChain`."""
    module, given = build_module(workload).eval(), make_inputs(workload, torch.device("cpu"))
    if isinstance(workload, WholeModel):
        variants.apply_variants(module, dict(workload.variants))
    if isinstance(given, dict):
        return module, given
    part = workload.part if isinstance(workload, Workload) else None
    if part is None or isinstance(part, Backbone):
        names: tuple[str, ...] = ("x", "timestep", "context")
    elif len(given) == 1:
        names = ("x",)
    else:
        names, module = (
            ("features", "context"),
            OperatorChain([module, *(reinitialized_copy(module) for _ in range(copies - 1))]),
        )
        for at_site in module.operators:
            at_site.operator = variants.as_variant(at_site.operator, part.kind, variant)
        given = given if given[1] is not None else given[:1]
    return module, {name: x.contiguous() for name, x in zip(names, given)}


class OperatorChain(nn.Module):
    """Operators on features, one after the other: `(B*T, C, H, W)` -> the same. The text context is optional."""

    def __init__(self, operators: list[nn.Module]) -> None:
        super().__init__()
        self.operators = nn.ModuleList(operators)

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        for operator in self.operators:
            features = operator(features, context)
        return features


def reinitialized_copy(module: nn.Module) -> nn.Module:
    """A copy of a layer with new random weights. With shared weights a converter would project the text only once."""
    other = copy.deepcopy(module)
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.02)
    return other


def _key(workload: Runnable, variant: str, copies: int, precision: str) -> str:
    defined_by = [
        operators,
        layers,
        positions,
        variants,
        convert,
        build_module,
        module_and_inputs,
        OperatorChain,
        reinitialized_copy,
    ]
    part = workload.part if isinstance(workload, Workload) else None
    if isinstance(part, TextEncoder | Decoder):
        defined_by += [TextEncoderModule, DecoderModule, *AUTOENCODER]
    elif isinstance(part, Operator):
        defined_by += [inspect.getmodule(resolve(part.spec.module))]
    else:
        defined_by += [unet, topology, denoiser]
    names = ["torch", "litert-torch", "ai-edge-litert"]
    if precision != "float32":
        names.append("ai-edge-quantizer")
        defined_by.append(quantize)
    written = [
        str(workload),
        str(workload.variants if isinstance(workload, WholeModel) else ""),
        variant or variants.REFERENCE,
        str(copies),
        *([] if precision == "float32" else [precision]),
    ]
    text = "\n".join([*written, *map(_version, names), *map(inspect.getsource, defined_by)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


def _evict(cache: Path, keep: Path) -> None:
    """Delete the least recently used models until the cache is small enough."""
    files = []
    for path in cache.glob("*.tflite"):
        with contextlib.suppress(OSError):  # another process may delete files at the same time
            files.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= CACHE_LIMIT_BYTES:
            return
        if path != keep:
            total -= size
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)

"""What runs inside the converting process of the `litert` runtime. Importing it imports torch."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.conversion import convert, variants
from nas.errors import NasError
from nas.failures import Infeasible
from nas.files import read_json, write_json
from nas.models import autoencoder, denoiser, layers, operators, positions, unet
from nas.profiling.runtimes.base import Runnable, WholeModel
from nas.profiling.workers.eager import DecoderWorkload, Encode, build_module, make_inputs
from nas.spaces import Backbone, Decoder, Operator, TextEncoder, resolve, topology

KEPT_BYTES = 20e9
"""The cache holds no more than this; what was used longest ago goes first."""


ABOUT = {"params": int, "weights_mb": float, "form": str, "copies": int}
"""What is kept of a model beside it."""


def converted(workload: Runnable, form: str, copies: int, cache: Path) -> dict[str, Any]:
    """A workload as a LiteRT model with random weights: from the cache, or converted and put there.

    Args:
        workload: an operator stands between features `(B*T, C, H, W)`, as it does in the denoiser.
        form: of an operator, see `nas.conversion.variants`.
        copies: how often the operator runs, one after the other.
        cache: the folder. A file's name is a hash of the workload, of the code that defines it, and of the versions
            that write it.

    Returns:
        `path` of the file; `params` and `weights_mb` of one copy; `form` and `copies` as asked for.

    Raises:
        Infeasible: LiteRT has no way to say it.
        NasError: litert-torch is not installed, or fails for another reason.
    """
    path = cache / f"{_key(workload, form, copies)}.tflite"
    about = path.with_suffix(".json")
    known = _known(about) if path.is_file() else None
    if known is not None:
        with contextlib.suppress(OSError):
            os.utime(path)
        return {**known, "path": str(path)}
    module, inputs = module_and_inputs(workload, form, copies)
    try:
        convert.to_litert(module, inputs, path)
    except convert.Unconvertible as error:
        raise Infeasible(str(error)) from None
    one = module.operators[0] if isinstance(module, Chain) else module
    weights = [*one.parameters(), *one.buffers()]
    found = {
        "params": sum(p.numel() for p in one.parameters()),
        "weights_mb": sum(w.numel() * w.element_size() for w in weights) / 1e6,
        "form": form or variants.REFERENCE,
        "copies": copies,
    }
    write_json(about, found)
    _forget(cache, keep=path)
    return {**found, "path": str(path)}


def _known(about: Path) -> dict[str, Any] | None:
    """What is written beside a model in the cache; None if that is damaged, so that it is converted anew."""
    try:
        known = read_json(about, "cached model", dict)
        return {name: kind(known[name]) for name, kind in ABOUT.items()}
    except (NasError, KeyError, TypeError, ValueError):
        return None


def module_and_inputs(workload: Runnable, form: str, copies: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """The module of a workload and its inputs by name, contiguous, all of them tensors."""
    module, given = build_module(workload).eval(), make_inputs(workload, torch.device("cpu"))
    if isinstance(workload, WholeModel):
        variants.apply_variants(module, dict(workload.forms))
    part = getattr(workload, "part", None)
    if part is None or isinstance(part, Backbone):
        names: tuple[str, ...] = ("x", "timestep", "context")
    elif len(given) == 1:
        names = ("x",)
    else:
        names, module = ("features", "context"), Chain([module, *(redrawn(module) for _ in range(copies - 1))])
        for at_site in module.operators:
            at_site.operator = variants.as_variant(at_site.operator, part.kind, form)
        given = given if given[1] is not None else given[:1]
    return module, {name: x.contiguous() for name, x in zip(names, given)}


class Chain(nn.Module):
    """Operators between features, one after the other: `(B*T, C, H, W)` -> the same. The text is optional."""

    def __init__(self, operators: list[nn.Module]) -> None:
        super().__init__()
        self.operators = nn.ModuleList(operators)

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        for operator in self.operators:
            features = operator(features, context)
        return features


def redrawn(module: nn.Module) -> nn.Module:
    """The same layer with weights of its own. With shared ones a converter would project the text only once."""
    other = copy.deepcopy(module)
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.02)
    return other


def _key(workload: Runnable, form: str, copies: int) -> str:
    defined_by = [operators, layers, positions, variants, convert, build_module, module_and_inputs, Chain, redrawn]
    part = getattr(workload, "part", None)
    if isinstance(part, TextEncoder | Decoder):
        defined_by += [Encode, DecoderWorkload, autoencoder]
    elif isinstance(part, Operator):
        defined_by += [inspect.getmodule(resolve(part.spec.module))]
    else:
        defined_by += [unet, topology, denoiser]
    names = ("torch", "litert-torch", "ai-edge-litert")
    written = [str(workload), str(getattr(workload, "forms", "")), form or variants.REFERENCE, str(copies)]
    text = "\n".join([*written, *map(_version, names), *map(inspect.getsource, defined_by)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


def _forget(cache: Path, keep: Path) -> None:
    """Delete what was used longest ago until the cache is small enough."""
    found = []
    for path in cache.glob("*.tflite"):
        with contextlib.suppress(OSError):  # another process deletes, too
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= KEPT_BYTES:
            return
        if path != keep:
            total -= size
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)

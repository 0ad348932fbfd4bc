"""Export denoiser, decoder and text encoder of a checkpoint as Core ML packages, and verify each package."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nas
from nas import checkpoint as checkpoints
from nas.conversion.convert import to_coreml
from nas.conversion.libraries import coremltools
from nas.conversion.mil import Program
from nas.conversion.palettize import palettize
from nas.costs import LookupTable
from nas.diffusion.seeding import generator
from nas.errors import NasError
from nas.export import chunks, manifest, operations, parts
from nas.export.check import DEVICE_TOLERANCE, PALETTE_TOLERANCES, check_error, check_numbers
from nas.export.describe import describe, save_tokenizer
from nas.export.package_files import read_package, save, size_mb
from nas.export.parts import Part
from nas.export.samples import Sample, largest_error, real_samples
from nas.spaces import Architecture, SearchSpace

MAX_RANK = 5
COMPUTE_UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL")


def coreml(
    checkpoint: str | Path,
    out: str | Path,
    target: str = "iOS17",
    bits: int | None = None,
    table: LookupTable | None = None,
    compare: bool = False,
    check: bool = True,
    chunk: bool = False,
    max_package_mb: float = chunks.MAX_PACKAGE_MB,
) -> list[Path]:
    """Write `denoiser`, `decoder` and `text_encoder` as .mlpackage in float16, and the tokenizer's files.

    Args:
        checkpoint: folder of a finished stage.
        out: export folder; its manifest is updated.
        target: minimum deployment target, `iOS17` or `iOS18`.
        bits: palettize the weights of denoiser and decoder to 8 or 6 bits; by default they stay float16. The text
            encoder always stays float16, since palettization makes its outputs unusable.
        table: lookup table of the device, to predict latency.
        compare: whether to also run each package on this Mac with each compute unit and compare it with torch.
        check: whether to evaluate each package and compare it with torch; the figures are written to the manifest.
        chunk: split the denoiser's package in two, `denoiser_1` and `denoiser_2`, if it is larger than `max_package_mb`.
        max_package_mb: in 10^6 bytes; the manifest warns of larger packages.

    Returns:
        The packages, the tokenizer's folder and the manifest.

    Raises:
        ConfigError: `checkpoint` is not a checkpoint, or `target` or `bits` is unknown.
        MissingDependency: coremltools or the text encoder is not installed.
        NasError: a part cannot be converted, its package does not match the architecture, or its output differs from
            torch; or `compare` is set on a system other than macOS.
    """
    if compare:
        _require_mac(Path(out))
    loaded, out = checkpoints.load(checkpoint), Path(out)
    labels = _labels(loaded)
    samples = real_samples(loaded) if check or compare else {}
    paths, figures = [], {}
    for part in (parts.denoiser(loaded), parts.decoder(loaded), parts.text_encoder(loaded)):
        model, own_bits, plain = convert(part, target), None, None
        if bits is not None and part.name != "text_encoder":
            plain, own_bits = Program.of(model, f"{part.name} before palettization"), bits
            model = palettize(model, bits)
        model.short_description = part.description
        model.version = nas.__version__
        model.user_defined_metadata.update({**labels, "nas.part": part.name, "nas.weight_bits": str(own_bits or 16)})
        paths.append(save(model, out / f"{part.name}.mlpackage"))
        if check or compare:
            figures[part.name] = check_numbers(paths[-1], part.name, samples[part.name], own_bits, plain)
        if compare:
            unit_errors = compute_unit_errors(paths[-1], part, samples[part.name], own_bits)
            figures[part.name] = replace(figures[part.name], compute_units=unit_errors)
    check_package(paths[0], loaded.architecture, loaded.space, labels["nas.weights_sha256"], loaded.info.objective)
    files = {path.stem: path for path in paths}
    halves = _split(paths[0], loaded) if chunk and size_mb(paths[0]) > max_package_mb else []
    for stale in {"denoiser", *chunks.NAMES} - {path.stem for path in halves or paths}:  # of an earlier export
        shutil.rmtree(out / f"{stale}.mlpackage", ignore_errors=True)
    paths = [*(halves or paths[:1]), *paths[1:], save_tokenizer(loaded.space.text, out / "tokenizer")]
    checks = {name: result.as_dict() for name, result in figures.items()}
    weight_bits = {name: 16 if name == "text_encoder" else bits or 16 for name in files}
    app = describe(loaded, out, files, "float16", weight_bits, paths[-1], halves, max_package_mb)
    return [*paths, manifest.record(out, "coreml", paths, loaded, table, checks, app)]


def _split(path: Path, loaded: checkpoints.Checkpoint) -> list[Path]:
    """Split the denoiser's package in two; both halves are compared with it on normal noise."""
    inputs = dict(parts.denoiser(loaded).inputs)
    stream = generator(0)
    inputs |= {name: torch.randn(inputs[name].shape, generator=stream) for name in ("x", "context")}
    return chunks.split(path, {**inputs, "timestep": torch.full((1,), 500.0)})


def convert(part: Part, target: str = "iOS17") -> Any:
    """Convert a part to a Core ML program, see `nas.conversion.convert.to_coreml`."""
    residual = part.float32_residual
    return to_coreml(part.module, part.inputs, part.output, target, ("timestep",), float32_residual=residual)


def compute_unit_errors(
    path: str | Path, part: Part, samples: Sequence[Sample], bits: int | None = None
) -> dict[str, float]:
    """Run a package with Core ML on this Mac, and return its largest error from torch by compute unit.

    Raises:
        MissingDependency: coremltools is not installed.
        NasError: this system is not macOS, Core ML cannot run the package, or the output is not finite or differs from
            torch by more than the tolerance.
    """
    _require_mac(Path(path))
    ct, errors = coremltools(), {}
    for unit in COMPUTE_UNITS:
        try:
            model = ct.models.MLModel(str(path), compute_units=getattr(ct.ComputeUnit, unit))
            outputs = [model.predict({k: x.numpy() for k, x in s.inputs.items()}) for s in samples]
        except Exception as error:  # coremltools passes on many types from Core ML
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise NasError(f"{path}: Core ML on this Mac cannot run it with {unit} ({reason})") from None
        tensors = [{k: torch.from_numpy(np.asarray(o[k], np.float32)) for k in part.outputs} for o in outputs]
        if not all(torch.isfinite(tensor).all() for named in tensors for tensor in named.values()):
            raise NasError(f"{path}: Core ML with {unit} gives an infinity or NaN")
        errors[unit] = max(largest_error(named, sample.expected) for named, sample in zip(tensors, samples))
        check_error(path, errors[unit], DEVICE_TOLERANCE if bits is None else PALETTE_TOLERANCES[bits], f" with {unit}")
    return errors


def _require_mac(path: Path) -> None:
    if sys.platform != "darwin":
        raise NasError(
            f"{path}: --compare runs the packages with Core ML, which requires macOS; run the same command on a Mac "
            "(macOS 14 for iOS17 packages, macOS 15 for iOS18), or omit --compare"
        )


def check_package(
    path: str | Path,
    architecture: Architecture,
    space: SearchSpace,
    weights_sha256: str | None = None,
    objective: str = "flow",
) -> None:
    """Verify that a denoiser's .mlpackage matches an architecture.

    Compares inputs and outputs, the shapes of all convolutions, linear layers and attentions, the rank of every tensor,
    and the metadata.

    Args:
        weights_sha256: expected hash of the weights file that the package was exported from.
        objective: the denoiser's prediction type, which determines the name of its output.

    Raises:
        NasError: the package cannot be read, or differs; the message names the difference.
    """
    spec = read_package(path)
    inputs = {"x": space.input_shape(), "timestep": (1,), "context": space.context_shape()}
    _compare(path, "inputs", inputs, _shapes(spec.description.input))
    _compare(path, "outputs", {parts.PREDICTIONS[objective][0]: space.input_shape()}, _shapes(spec.description.output))
    labels = spec.description.metadata.userDefined
    choices = json.loads(labels.get("nas.architecture", "null"))
    _compare(path, "architecture", architecture.choices, choices)
    _compare(path, "space_hash", space.hash, labels.get("nas.space_hash"))
    if weights_sha256 is not None:
        _compare(path, "weights_sha256", weights_sha256, labels.get("nas.weights_sha256"))
    difference = operations.difference(operations.of_architecture(space, architecture), operations.of_package(spec))
    if difference:
        raise NasError(f"{path}: operations differ from those of its architecture: {difference}; export it again")
    for operation in operations.program_operations(spec):
        for output in operation.outputs:
            if len(operations.shape_of(output)) > MAX_RANK:
                rank = len(operations.shape_of(output))
                raise NasError(f"{path}: '{output.name}' has rank {rank}, Core ML supports at most {MAX_RANK}")


def _labels(loaded: checkpoints.Checkpoint) -> dict[str, str]:
    """Metadata of a package; Core ML stores strings only."""
    identity = manifest.identity(loaded)
    return {f"nas.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in identity.items()}


def _shapes(features: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    return {feature.name: tuple(feature.type.multiArrayType.shape) for feature in features}


def _compare(path: str | Path, field: str, expected: Any, actual: Any) -> None:
    if expected != actual:
        raise NasError(f"{path}: {field}: expected {expected}, not {actual}; export it again")

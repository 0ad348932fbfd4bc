"""Core ML packages of a checkpoint: denoiser, decoder and text encoder, and the check that they are what they say."""

from __future__ import annotations

import json
import os
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
from nas.errors import NasError
from nas.export import manifest, operations, parts
from nas.export.check import DEVICE, PALETTES, check_error, check_numbers, relative_error
from nas.export.describe import describe
from nas.export.parts import Part
from nas.export.samples import Sample, real_samples
from nas.export.tokenizer import save_tokenizer
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
) -> list[Path]:
    """Write `denoiser`, `decoder` and `text_encoder` as .mlpackage in float16, and the tokenizer's files.

    Args:
        checkpoint: the folder of a finished stage.
        out: the export folder; its manifest is brought up to date.
        target: the oldest system that must run them: `iOS17` or `iOS18`.
        bits: palettize the weights of denoiser and decoder to 8 or 6 bits each; by default they stay float16, as the
            text encoder's always do, which palettes ruin.
        table: a lookup table of the device, to predict latency from.
        compare: also run each package on this Mac, by each compute unit, and compare it with torch.
        check: evaluate each package here and compare it with torch before it counts as written; the figures go into the
            manifest.

    Returns:
        The packages, the tokenizer's folder and the manifest.

    Raises:
        ConfigError: the checkpoint is not one, or an unknown target or number of bits.
        MissingDependency: coremltools or the text encoder is not installed.
        NasError: a part cannot be converted, its package is not what the architecture asks for, or computes something
            else than torch; or `compare` on another system than macOS.
    """
    if compare:
        _needs_mac(Path(out))
    loaded, out = checkpoints.load(checkpoint), Path(out)
    labels = _labels(loaded)
    samples = real_samples(loaded) if check or compare else {}
    made, figures = [], {}
    for part in (parts.denoiser(loaded), parts.decoder(loaded), parts.text_encoder(loaded)):
        model, own_bits, plain = convert(part, target), None, None
        if bits is not None and part.name != "text_encoder":
            plain, own_bits = Program.of(model, f"{part.name} before its palettes"), bits
            model = palettize(model, bits)
        model.short_description = part.says
        model.version = nas.__version__
        model.user_defined_metadata.update({**labels, "nas.part": part.name, "nas.weight_bits": str(own_bits or 16)})
        made.append(save(model, out / f"{part.name}.mlpackage"))
        if check or compare:
            figures[part.name] = check_numbers(made[-1], part.name, samples[part.name], own_bits, plain)
        if compare:
            found = compute_unit_errors(made[-1], part, samples[part.name], own_bits)
            figures[part.name] = replace(figures[part.name], compute_units=found)
    check_package(made[0], loaded.architecture, loaded.space, labels["nas.weights_sha256"], loaded.info.objective)
    made.append(save_tokenizer(loaded.space.text, out / "tokenizer"))
    checks = {name: found.as_dict() for name, found in figures.items()}
    files = {path.stem: path for path in made[:3]}
    weight_bits = {name: 16 if name == "text_encoder" else bits or 16 for name in files}
    app = describe(loaded, out, files, "float16", weight_bits, made[-1])
    return [*made, manifest.record(out, "coreml", made, loaded, table, checks, app)]


def convert(part: Part, target: str = "iOS17") -> Any:
    """A part as a Core ML program, see `to_coreml`."""
    residual = part.float32_residual
    return to_coreml(part.module, part.inputs, part.output, target, ("timestep",), float32_residual=residual)


def compute_unit_errors(
    path: str | Path, part: Part, samples: Sequence[Sample], bits: int | None = None
) -> dict[str, float]:
    """By compute unit of this Mac: the largest error of a package, run by Core ML, next to torch.

    Raises:
        MissingDependency: coremltools is not installed.
        NasError: this is no Mac, its Core ML cannot run the package, or the result is not finite or not near enough.
    """
    _needs_mac(Path(path))
    ct, errors = coremltools(), {}
    for unit in COMPUTE_UNITS:
        try:
            model = ct.models.MLModel(str(path), compute_units=getattr(ct.ComputeUnit, unit))
            outputs = [model.predict({k: x.numpy() for k, x in s.inputs.items()})[part.output] for s in samples]
        except Exception as error:  # whatever Core ML says, through coremltools
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise NasError(f"{path}: Core ML on this Mac cannot run it by {unit} ({reason})") from None
        found = [torch.from_numpy(np.asarray(output, np.float32)) for output in outputs]
        if not all(torch.isfinite(output).all() for output in found):
            raise NasError(f"{path}: Core ML by {unit} gives an infinity or NaN")
        errors[unit] = max(relative_error(output, sample.wanted) for output, sample in zip(found, samples))
        check_error(path, errors[unit], DEVICE if bits is None else PALETTES[bits], f" by {unit}")
    return errors


def _needs_mac(path: Path) -> None:
    if sys.platform != "darwin":
        raise NasError(
            f"{path}: comparing with torch runs the packages, which only macOS can; run the same command on a Mac "
            "(macOS 14 for iOS17 packages, macOS 15 for iOS18), or leave --compare out"
        )


def check_package(
    path: str | Path,
    architecture: Architecture,
    space: SearchSpace,
    weights_sha256: str | None = None,
    objective: str = "flow",
) -> None:
    """Read a denoiser's .mlpackage and compare it with the architecture it should be.

    Compared are inputs and outputs, every convolution, matrix product and attention with its shape, the rank of every
    tensor, and the metadata.

    Args:
        weights_sha256: of the weights file that it should have been made from.
        objective: what the denoiser predicts, which its output is named after.

    Raises:
        NasError: it cannot be read, or differs; the text says where.
    """
    spec = read_package(path)
    wanted = {"x": space.input_shape(), "timestep": (1,), "context": space.context_shape()}
    _compare(path, "inputs", wanted, _shapes(spec.description.input))
    _compare(path, "outputs", {parts.PREDICTIONS[objective][0]: space.input_shape()}, _shapes(spec.description.output))
    labels = spec.description.metadata.userDefined
    found = json.loads(labels.get("nas.architecture", "null"))
    _compare(path, "architecture", architecture.choices, found)
    _compare(path, "space_hash", space.hash, labels.get("nas.space_hash"))
    if weights_sha256 is not None:
        _compare(path, "weights_sha256", weights_sha256, labels.get("nas.weights_sha256"))
    differs = operations.difference(operations.of_architecture(space, architecture), operations.of_package(spec))
    if differs:
        raise NasError(f"{path}: is not the architecture that it is labelled as: it {differs}; export it again")
    for operation in operations.program_operations(spec):
        for output in operation.outputs:
            if len(operations.shape_of(output)) > MAX_RANK:
                raise NasError(f"{path}: '{output.name}' has rank {len(operations.shape_of(output))}, Core ML takes 5")


def read_package(path: str | Path) -> Any:
    """The protobuf of a Core ML program.

    Raises:
        MissingDependency: coremltools is not installed.
        NasError: it is not a package with a program in it.
    """
    ct = coremltools()
    try:
        spec = ct.utils.load_spec(str(path))
    except Exception as error:  # whatever coremltools raises on a broken file
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise NasError(f"{path}: cannot be read as a Core ML package ({reason})") from None
    if spec.WhichOneof("Type") != "mlProgram":
        raise NasError(f"{path}: is not an ML program; only those are written here")
    return spec


def _labels(loaded: checkpoints.Checkpoint) -> dict[str, str]:
    """What a package says of itself, as Core ML keeps it: text by text."""
    about = manifest.identity(loaded)
    return {f"nas.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


def save(model: Any, path: Path) -> Path:
    """Write a package so that no half-written one stands under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save(str(temporary))
    shutil.rmtree(path, ignore_errors=True)
    os.replace(temporary, path)
    return path


def _shapes(features: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    return {feature.name: tuple(feature.type.multiArrayType.shape) for feature in features}


def _compare(path: str | Path, what: str, wanted: Any, found: Any) -> None:
    if wanted != found:
        raise NasError(f"{path}: {what}: has {found}, should have {wanted}; export it again")

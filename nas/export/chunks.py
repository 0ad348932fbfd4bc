"""Split a Core ML denoiser that is too large for iOS into packages that run one after the other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.conversion.bisect import bisect
from nas.conversion.mil import Program
from nas.errors import NasError
from nas.export.check import relative_error
from nas.export.package_files import read_package, save
from nas.exported.app import Port

MAX_PACKAGE_MB = 1000.0
"""Larger packages exceed the memory that iOS gives an app on many iPhones, in 10^6 bytes."""
NAMES = ("denoiser_1", "denoiser_2")
TOLERANCE = 1e-6
"""Largest relative error of both halves from the whole; they compute the same numbers."""


def split(path: Path, inputs: dict[str, Tensor]) -> list[Path]:
    """Replace a denoiser's package by two, `NAMES`, in the same folder.

    Both are evaluated one after the other and compared with the whole package, each result rounded to its precision.

    Args:
        inputs: of the whole package, for the comparison.

    Raises:
        NasError: the package cannot be split, or the halves compute something else.
    """
    folder = path.with_name(".writing-chunks")
    shutil.rmtree(folder, ignore_errors=True)
    whole = Program.load(path)
    labels = _labels(path)
    written = []
    for name, half in zip(NAMES, bisect(path, folder)):
        half.short_description = f"Part {name[-1]} of 2, run in order. {labels[0]}"
        half.user_defined_metadata.update({**labels[1], "nas.part": name})
        written.append(save(half, path.with_name(f"{name}.mlpackage")))
    shutil.rmtree(folder, ignore_errors=True)
    values: dict[str, Any] = dict(inputs)
    for program in map(Program.load, written):
        values.update(program.run({name: values[name] for name in program.inputs}, float16=True).outputs)
    for name, expected in whole.run(inputs, float16=True).outputs.items():
        error = relative_error(torch.as_tensor(values[name]), expected)
        if not error <= TOLERANCE:
            raise NasError(f"{path}: its two halves differ from it by a relative error of {error:.2g}")
    shutil.rmtree(path)
    return written


def ports(path: Path, known: dict[str, Port]) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of a half. `known` has the whole denoiser's, the others are passed between the halves."""
    dtypes = {65552: "float16", 65568: "float32", 131104: "int32"}  # ArrayFeatureType of Core ML's protobuf

    def port(feature: Any) -> Port:
        kind = feature.type.multiArrayType
        return known.get(feature.name) or Port(
            feature.name,
            tuple(kind.shape),
            dtypes[kind.dataType],  # type: ignore[arg-type]
            f"passed from {NAMES[0]} to {NAMES[1]}",
        )

    description = read_package(path).description
    return tuple(map(port, description.input)), tuple(map(port, description.output))


def _labels(path: Path) -> tuple[str, dict[str, str]]:
    metadata = read_package(path).description.metadata
    return metadata.shortDescription, dict(metadata.userDefined)

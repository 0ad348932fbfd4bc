"""Numbers of an exported Core ML package next to torch's, on any system: its program is evaluated here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nas.conversion.mil import Program, Result
from nas.conversion.mil.program import FLOAT16_MAX
from nas.errors import NasError
from nas.export.samples import Sample
from nas.progress import progress

IN_FLOAT32 = 6
"""Samples that are evaluated in float32 too; all of them are in float16."""


@dataclass(frozen=True)
class Tolerance:
    """Largest errors that pass, see `Figures`."""

    conversion: float
    float32: float
    float16: float


TOLERANCES = {
    "denoiser": Tolerance(7.5e-5, 2.5e-3, 5e-3),
    "decoder": Tolerance(2.5e-5, 2.8e-3, 6e-3),
    "text_encoder": Tolerance(5e-4, 4e-3, 4e-3),
}
"""By part, without palettes, at most twice the largest error measured on the spaces demo and mid with random weights
and on MiniLM. Denoisers: 3.7e-5, 1.3e-3, 2.7e-3. Decoders: 1.2e-5, 1.4e-3, 3.1e-3. MiniLM: 1.2e-4, 6.6e-4, 1.9e-3 for
prompts, and 2.9e-4, 2.8e-3, 3.5e-3 for the empty prompt, whose padding amplifies rounding."""
PALETTES = {8: 0.1, 6: 0.3}
"""By bits: the largest error of a palettized part, in float32 and float16. The manifest holds the error of each part."""
DEVICE = 2e-2
"""The largest error of a package in Core ML itself, whose sums may be float16 too."""


@dataclass(frozen=True)
class Figures:
    """What a check found. Errors are the L2 norm of the difference from torch over that of torch's output, the worst of
    the samples.

    Attributes:
        samples: how many there were.
        error_conversion: of the program before palettes, in float32, from torch with weights rounded to float16: what
            the conversion changed.
        error_float32: weights as stored, all else in float32.
        error_float16: every result rounded to the precision that the program gives it.
        largest: the largest magnitude among the values that are float16, the squares inside normalizations included;
            float16 ends at 65504.
        largest_at: the operation that gives it.
        palettes: by tensor, the error of its palettized weights.
        compute_units: by Core ML's name of a compute unit, the error on this Mac; empty where none ran it.
    """

    samples: int
    error_conversion: float
    error_float32: float
    error_float16: float
    largest: float
    largest_at: str
    palettes: dict[str, float] = field(default_factory=dict)
    compute_units: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "float16_limit": FLOAT16_MAX}


def check_numbers(
    path: str | Path, part: str, samples: Sequence[Sample], bits: int | None = None, plain: Program | None = None
) -> Figures:
    """Evaluate a package on samples and compare it with torch.

    Args:
        part: `denoiser`, `decoder` or `text_encoder`.
        bits: of palettized weights.
        plain: the same program before its weights were palettized.

    Raises:
        MissingDependency: coremltools is not installed.
        NasError: it cannot be evaluated, gives an infinity or NaN in float16, or differs from torch by more than the
            tolerance.
    """
    program = Program.load(path)
    figures = compare(program, samples, plain)
    tolerance = TOLERANCES[part]
    if bits is not None:
        tolerance = Tolerance(tolerance.conversion, PALETTES[bits], PALETTES[bits])
    check_error(path, figures.error_conversion, tolerance.conversion, " with the same weights in float32")
    check_error(path, figures.error_float32, tolerance.float32, " evaluated in float32")
    check_error(path, figures.error_float16, tolerance.float16, " evaluated in float16")
    return figures if plain is None else replace(figures, palettes=_palette_errors(program, plain))


def compare(program: Program, samples: Sequence[Sample], plain: Program | None = None) -> Figures:
    """The figures of a program, without those of its palettes; `plain` is the program before palettes.

    Raises:
        NasError: it cannot be evaluated, or gives an infinity or NaN in float16.
    """
    spread = {round(i * (len(samples) - 1) / max(1, IN_FLOAT32 - 1)) for i in range(IN_FLOAT32)}
    conversion, float32, float16 = [], [], []
    largest, at = 0.0, ""
    name = Path(program.source).stem
    for i, sample in enumerate(progress(samples, f"check {name}", len(samples))):
        if i in spread:
            output = _output(program.run(sample.inputs))
            float32.append(relative_error(output, sample.wanted))
            plain_output = output if plain is None else _output(plain.run(sample.inputs))
            conversion.append(relative_error(plain_output, sample.wanted_rounded))
        result = program.run(sample.inputs, float16=True)
        if result.not_finite:
            raise NasError(
                f"{program.source}: {result.not_finite} gives an infinity or NaN in float16, whose largest number is "
                f"{FLOAT16_MAX:g}; the largest before was {result.peak.value:g} at {result.peak.operation}"
            )
        float16.append(relative_error(_output(result), sample.wanted))
        if result.peak.value > largest:
            largest, at = result.peak.value, result.peak.operation
    return Figures(len(samples), _worst(conversion), _worst(float32), _worst(float16), largest, at)


def _output(result: Result) -> Tensor:
    (output,) = result.outputs.values()
    return output


def _worst(errors: list[float]) -> float:
    """The largest error; NaN if any is, which `max` may overlook."""
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """The L2 norm of the difference over that of what is wanted; infinite where the shapes differ, NaN where NaN is."""
    if found.shape != wanted.shape:
        return float("inf")
    return ((found - wanted).norm() / wanted.norm()).item()


def check_error(path: str | Path, error: float, tolerance: float, how: str = "") -> None:
    """
    Raises:
        NasError: the exported file differs from torch by more than the tolerance, or gives no numbers at all.
    """
    if not error <= tolerance:
        raise NasError(f"{path}: differs from torch by {error:.2g} of its output{how}, more than {tolerance:g}")


def _palette_errors(program: Program, plain: Program) -> dict[str, float]:
    """By tensor, the error of its palettized weights."""
    weights, errors = plain.weights(), {}
    for palettized, tensor in program.compressed().items():
        name = palettized.removesuffix("_palettized")
        if name in weights:
            errors[name] = relative_error(tensor, weights[name])
    return errors

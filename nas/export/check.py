"""Compare the outputs of an exported Core ML package with torch on any system, by interpreting its program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.conversion.mil import Program
from nas.conversion.mil.program import FLOAT16_MAX
from nas.errors import NasError
from nas.export.samples import PERTURBATION, Sample, largest_error, relative_error, worst
from nas.progress import progress

FLOAT32_SAMPLES = 6
"""Number of samples that are also evaluated in float32; all samples are evaluated in float16."""
HALF = 2**-12
"""Relative error of rounding to float16, about."""


@dataclass(frozen=True)
class Tolerance:
    """Maximum accepted errors, see `Figures`."""

    conversion: float
    float32: float
    float16: float


TOLERANCES = {
    "denoiser": Tolerance(1.9e-4, 2.5e-3, 5e-3),
    "decoder": Tolerance(1.9e-4, 2.8e-3, 6e-3),
    "text_encoder": Tolerance(1.2e-3, 1.3e-2, 1.5e-2),
}
"""By part, for weights that are not palettized: about twice the largest error measured on the spaces demo and mid with
random weights, on trained models of the spaces demo and scenes, and on MiniLM. Denoisers: 9.3e-5, 1.3e-3, 2.7e-3. Decoders: 9.3e-5,
1.4e-3, 3.1e-3. MiniLM: 1.3e-4, 1.6e-3, 2.1e-3 for prompts, and 5.9e-4, 6.5e-3, 7.6e-3 for the empty prompt of 32 tokens, whose padding
amplifies rounding; with 16 tokens these were half as large. Some four-step denoisers amplify the rounding of their weights more: 1.9e-3
and 2.4e-3 in float32."""
PALETTE_TOLERANCES = {8: 0.1, 6: 0.3}
"""By bits: maximum error of a palettized part, in float32 and float16. The manifest records the error of each part."""
DEVICE_TOLERANCE = 2e-2
"""Maximum error of a package run by Core ML, which may accumulate in float16."""


@dataclass(frozen=True)
class Figures:
    """The result of a check. An error is the L2 norm of the difference from torch's output divided by the norm of
    torch's output, the maximum over the samples.

    Attributes:
        samples: number of samples.
        error_conversion: error of the program before palettization, in float32, relative to torch with weights rounded
            to float16: the error of the conversion itself.
        error_float32: error with the stored weights and float32 computation.
        error_float16: error with each result rounded to its dtype in the program.
        largest: the largest magnitude among the float16 values, including the squares inside normalizations; the
            maximum of float16 is 65504.
        largest_at: the operation with this value.
        unexplained_conversion, unexplained_float16: `error_conversion` and `error_float16`, less what a sample's `sensitivity`
            explains: inputs that differ by `PERTURBATION`, and inputs that are rounded to float16. The tolerances bound
            these; they bound `error_float32` itself, so that no sample hides a fault.
        palettes: by tensor, the error of its palettized weights.
        compute_units: by name of a Core ML compute unit, the error on this Mac; empty if the package was not run.
    """

    samples: int
    error_conversion: float
    error_float32: float
    error_float16: float
    largest: float
    largest_at: str
    unexplained_conversion: float
    unexplained_float16: float
    palettes: dict[str, float] = field(default_factory=dict)
    compute_units: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "float16_limit": FLOAT16_MAX}


def check_numbers(
    path: str | Path, part: str, samples: Sequence[Sample], bits: int | None = None, plain: Program | None = None
) -> Figures:
    """Evaluate a package on samples and compare its outputs with torch.

    Args:
        part: `denoiser`, `decoder` or `text_encoder`.
        bits: bits per palettized weight; None if the weights are float16.
        plain: the same program before palettization.

    Raises:
        MissingDependency: coremltools is not installed.
        NasError: the program cannot be evaluated, its output has an infinity or NaN in float16, or it differs from
            torch by more than the tolerance.
    """
    program = Program.load(path)
    figures = compare(program, samples, plain)
    tolerance = TOLERANCES[part]
    if bits is not None:
        tolerance = Tolerance(tolerance.conversion, PALETTE_TOLERANCES[bits], PALETTE_TOLERANCES[bits])
    check_error(path, figures.unexplained_conversion, tolerance.conversion, " with the same weights in float32")
    check_error(path, figures.error_float32, tolerance.float32, " evaluated in float32")
    check_error(path, figures.unexplained_float16, tolerance.float16, " evaluated in float16")
    return figures if plain is None else replace(figures, palettes=_palette_errors(program, plain))


def compare(program: Program, samples: Sequence[Sample], plain: Program | None = None) -> Figures:
    """Compute the figures of a program except `palettes`; `plain` is the program before palettization.

    Raises:
        NasError: the program cannot be evaluated, or an operation gives an infinity or NaN in float16.
    """
    float32_indices = {round(i * (len(samples) - 1) / max(1, FLOAT32_SAMPLES - 1)) for i in range(FLOAT32_SAMPLES)}
    errors: dict[str, list[float]] = {"conversion": [], "float32": [], "float16": []}
    unexplained: dict[str, list[float]] = {"conversion": [0.0], "float16": [0.0]}
    largest, at = 0.0, ""
    name = Path(program.source).stem
    for i, sample in enumerate(progress(samples, f"check {name}", len(samples))):
        if i in float32_indices:
            outputs = program.run(sample.inputs).outputs
            errors["float32"].append(largest_error(outputs, sample.expected))
            plain_outputs = outputs if plain is None else plain.run(sample.inputs).outputs
            errors["conversion"].append(largest_error(plain_outputs, sample.expected_rounded))
            unexplained["conversion"].append(errors["conversion"][-1] - sample.sensitivity)
        result = program.run(sample.inputs, float16=True)
        if result.not_finite:
            raise NasError(
                f"{program.source}: {result.not_finite} gives an infinity or NaN in float16, whose maximum is "
                f"{FLOAT16_MAX:g}; the largest value before it was {result.peak.value:g} at {result.peak.operation}"
            )
        errors["float16"].append(largest_error(result.outputs, sample.expected))
        unexplained["float16"].append(errors["float16"][-1] - sample.sensitivity * HALF / PERTURBATION)
        if result.peak.value > largest:
            largest, at = result.peak.value, result.peak.operation
    worst_errors, worst_unexplained = map(worst, errors.values()), map(worst, unexplained.values())
    return Figures(len(samples), *worst_errors, largest, at, *worst_unexplained)


def check_error(path: str | Path, error: float, tolerance: float, how: str = "") -> None:
    """Check an error against a tolerance.

    Raises:
        NasError: the error is larger than the tolerance, or NaN.
    """
    if not error <= tolerance:
        raise NasError(f"{path}: differs from torch by a relative error of {error:.2g}{how}, more than {tolerance:g}")


def _palette_errors(program: Program, plain: Program) -> dict[str, float]:
    """The error of the palettized weights of each tensor."""
    weights, errors = plain.weights(), {}
    for palettized, tensor in program.compressed().items():
        name = palettized.removesuffix("_palettized")
        if name in weights:
            errors[name] = relative_error(tensor, weights[name])
    return errors

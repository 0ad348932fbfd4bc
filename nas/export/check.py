"""Numbers of an exported Core ML package next to torch's, on any system: its program is evaluated here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nas.conversion.mil import Program
from nas.conversion.mil.program import FLOAT16_MAX
from nas.errors import NasError
from nas.export.samples import Sample
from nas.progress import progress

IN_FLOAT32 = 6
"""Samples that are evaluated in float32 too; all of them are in float16."""


@dataclass(frozen=True)
class Tolerance:
    """Largest errors that are let pass: of a program evaluated in float32, and rounded to float16 at each operation."""

    float32: float
    float16: float


TOLERANCES = {
    None: Tolerance(5e-3, 2e-2),
    8: Tolerance(0.1, 0.1),
    6: Tolerance(0.3, 0.3),
}
"""By bits of the palettized weights. Float16 weights alone cost about 1e-3, rounding at each operation as much again; an
operation that computes something else costs far more. Palettes cost what they cost: the manifest says it."""


@dataclass(frozen=True)
class Figures:
    """What a check found. Errors are the L2 norm of the difference from torch over that of torch's output, the worst of
    the samples.

    Attributes:
        samples: how many there were.
        error_float32: weights as stored, all else in float32.
        error_float16: every result rounded to the precision that the program gives it.
        largest: the largest magnitude among the values that are float16, the squares inside normalizations included;
            float16 ends at 65504.
        largest_at: the operation that gives it.
        palettes: by tensor, the error of its palettized weights.
        compute_units: by Core ML's name of a compute unit, the error on this Mac; empty where none ran it.
    """

    samples: int
    error_float32: float
    error_float16: float
    largest: float
    largest_at: str
    palettes: dict[str, float] = field(default_factory=dict)
    compute_units: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "float16_limit": FLOAT16_MAX}


def check_numbers(
    path: str | Path, samples: Sequence[Sample], bits: int | None = None, weights: dict[str, Tensor] | None = None
) -> Figures:
    """Evaluate a package on samples and compare it with torch.

    Args:
        bits: of the weights, which decide on the tolerance.
        weights: by name, before they were palettized.

    Raises:
        MissingDependency: coremltools is not installed.
        NasError: it cannot be evaluated, gives an infinity or NaN in float16, or differs from torch by more than the
            tolerance.
    """
    program = Program.load(path)
    figures = compare(program, samples)
    for name, tolerance in asdict(TOLERANCES[bits]).items():
        check_error(path, getattr(figures, f"error_{name}"), tolerance, f" evaluated in {name}")
    return figures if weights is None else _with_palettes(figures, program, weights)


def compare(program: Program, samples: Sequence[Sample]) -> Figures:
    """The figures of a program.

    Raises:
        NasError: it cannot be evaluated, or gives an infinity or NaN in float16.
    """
    spread = {round(i * (len(samples) - 1) / max(1, IN_FLOAT32 - 1)) for i in range(IN_FLOAT32)}
    errors: dict[bool, list[float]] = {False: [], True: []}
    largest, at = 0.0, ""
    name = Path(program.source).stem
    for i, sample in enumerate(progress(samples, f"check {name}", len(samples))):
        for float16 in (False, True) if i in spread else (True,):
            result = program.run(sample.inputs, float16)
            if float16 and result.not_finite:
                raise NasError(
                    f"{program.source}: {result.not_finite} gives an infinity or NaN in float16, whose largest number is "
                    f"{FLOAT16_MAX:g}; the largest before was {result.peak.value:g} at {result.peak.operation}"
                )
            (found,) = result.outputs.values()
            errors[float16].append(relative_error(found, sample.wanted))
            if float16 and result.peak.value > largest:
                largest, at = result.peak.value, result.peak.operation
    return Figures(len(samples), max(errors[False]), max(errors[True]), largest, at)


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


def _with_palettes(figures: Figures, program: Program, weights: dict[str, Tensor]) -> Figures:
    found = {}
    for name, tensor in program.compressed().items():
        before = weights.get(name.removesuffix("_palettized"))
        if before is not None:
            found[name.removesuffix("_palettized")] = relative_error(tensor, before)
    return Figures(**{**asdict(figures), "palettes": found})

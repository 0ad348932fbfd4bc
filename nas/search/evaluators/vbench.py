"""VBench (Huang et al., CVPR 2024) as an evaluator, where it is installed: `pip install vbench`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nas import vbench_package
from nas.errors import ConfigError, suggestion
from nas.search.evaluators import EvaluatorError
from nas.spaces import Architecture

DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
"""The dimensions that VBench scores on clips of any prompt (its mode `custom_input`)."""


@dataclass(frozen=True)
class VBench:
    """The mean of VBench's quality dimensions over the clips that an architecture generates, in 0..1.

    VBench fetches its feature networks at its first run. Its own weighting of dimensions needs its standard prompts; on
    other clips this plain mean is comparable among architectures, not with published totals.

    Attributes:
        generate: writes the clips of an architecture, as .mp4 files named by their prompts, into a folder.
        dimensions: some of `DIMENSIONS`.
        device: `cuda` or `cpu`.
    """

    generate: Callable[[Architecture, Path], None]
    dimensions: tuple[str, ...] = DIMENSIONS
    device: str = "cuda"

    def __post_init__(self) -> None:
        for name in self.dimensions:
            if name not in DIMENSIONS:
                raise ConfigError(f"vbench: no dimension '{name}' for one's own clips{suggestion(name, DIMENSIONS)}")

    def __call__(self, arch: Architecture) -> float:
        """
        Raises:
            MissingDependency: VBench is not installed.
            EvaluatorError: no clips were generated.
        """
        package = vbench_package.load("the VBench evaluator")
        with tempfile.TemporaryDirectory(prefix="nas-vbench-") as folder:
            clips, results = Path(folder) / "clips", Path(folder) / "results"
            clips.mkdir()
            self.generate(arch, clips)
            if not any(clips.iterdir()):
                raise EvaluatorError("vbench: no clips were generated")
            scores = vbench_package.scores(package, clips, results, self.dimensions, self.device, "custom_input")
        return sum(scores[name] for name in self.dimensions) / len(self.dimensions)

"""The package `vbench` (Huang et al., CVPR 2024), where it is installed: its scores of a folder of clips.

It fetches its feature networks at its first run.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.errors import ConfigError, MissingDependency
from nas.files import read_json

RESULT = "nas_eval_results.json"


def load(what: str) -> Any:
    """The package.

    Args:
        what: what needs it, for the error.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        return importlib.import_module("vbench")
    except ImportError:
        raise MissingDependency(f"{what} needs VBench, which is not installed; run: pip install vbench") from None


def prompts_file(package: Any) -> Path:
    """VBench's list of its prompts."""
    return Path(str(package.__file__)).parent / "VBench_full_info.json"


def scores(
    package: Any, clips: Path, results: Path, dimensions: Sequence[str], device: str, mode: str
) -> dict[str, float]:
    """VBench's score of each dimension, from 0 to 1.

    Args:
        clips: a folder of .mp4 files named by their prompts, as `mode` expects them.
        results: folder for its files.

    Raises:
        ConfigError: its result has no score of a dimension.
    """
    bench = package.VBench(device, str(prompts_file(package)), str(results))
    bench.evaluate(str(clips), "nas", dimension_list=list(dimensions), mode=mode)
    found = read_json(results / RESULT, "VBench results", dict)
    try:
        return {name: float(found[name][0]) for name in dimensions}
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ConfigError(f"{results / RESULT}: has no score of a dimension ({error})") from None

"""VBench's own evaluation (Huang et al., CVPR 2024): its prompts, its dimensions, and its totals, where it is installed.

`nas.search.evaluators.vbench` has its dimensions for other prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nas import distributed, vbench_package
from nas.errors import ConfigError
from nas.files import read_json
from nas.progress import progress

NEEDED_BY = "--suite vbench"
QUALITY = {
    "subject_consistency": (0.1462, 1.0, 1.0),
    "background_consistency": (0.2615, 1.0, 1.0),
    "temporal_flickering": (0.6293, 1.0, 1.0),
    "motion_smoothness": (0.706, 0.9975, 1.0),
    "dynamic_degree": (0.0, 1.0, 0.5),
    "aesthetic_quality": (0.0, 1.0, 1.0),
    "imaging_quality": (0.0, 1.0, 1.0),
}
SEMANTIC = {
    "object_class": (0.0, 1.0, 1.0),
    "multiple_objects": (0.0, 1.0, 1.0),
    "human_action": (0.0, 1.0, 1.0),
    "color": (0.0, 1.0, 1.0),
    "spatial_relationship": (0.0, 1.0, 1.0),
    "scene": (0.0, 0.8222, 1.0),
    "appearance_style": (0.0009, 0.2855, 1.0),
    "temporal_style": (0.0, 0.364, 1.0),
    "overall_consistency": (0.0, 0.364, 1.0),
}
"""Of each dimension the values that count as 0 and as 1, and its weight, as VBench's leaderboard has them."""
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4, 1
SAMPLES, FLICKER_SAMPLES = 5, 25
"""Clips of each prompt; more of those that flicker is measured on, of which VBench uses the static ones only."""


def evaluate_vbench(
    generate: Callable[[str, int, Path], None],
    out: Path,
    dimensions: Sequence[str] = (),
    limit: int | None = None,
    device: str | None = None,
) -> dict[str, float]:
    """Score of each dimension, and `quality`, `semantic` and `total` where all of their dimensions were evaluated.

    Args:
        generate: writes the clip of (prompt, noise seed) to an .mp4 file. Clips that exist are kept, so that an
            interrupted run resumes.
        out: folder for `clips` and `results`.
        dimensions: default: all.
        limit: use only this many prompts of each dimension, for a trial; default: all.

    Raises:
        MissingDependency: VBench is not installed.
        ConfigError: an unknown dimension, or VBench's list of prompts cannot be read.
    """
    package = vbench_package.load(NEEDED_BY)
    known = QUALITY | SEMANTIC
    chosen = list(dimensions) or list(known)
    for name in chosen:
        if name not in known:
            raise ConfigError(f"vbench: no dimension '{name}'; known: {', '.join(known)}")
    clips, results = out / "clips", out / "results"
    clips.mkdir(parents=True, exist_ok=True)
    wanted = _prompts(vbench_package.prompts_file(package), chosen, limit)
    for prompt, seed in progress(wanted, "VBench clips", len(wanted), unit="clip"):
        path = clips / f"{prompt}-{seed}.mp4"
        if not path.exists():
            generate(prompt, seed, path)
    scores = vbench_package.scores(
        package, clips, results, chosen, str(device or distributed.device()), "vbench_standard"
    )
    return scores | totals(scores)


def totals(scores: Mapping[str, float]) -> dict[str, float]:
    """`quality`, `semantic` and `total` in percent, as on VBench's leaderboard; those whose dimensions are all there."""
    found = {}
    for name, group in (("quality", QUALITY), ("semantic", SEMANTIC)):
        if all(dimension in scores for dimension in group):
            parts = [(weight, (scores[d] - low) / (high - low)) for d, (low, high, weight) in group.items()]
            found[name] = 100 * sum(weight * share for weight, share in parts) / sum(weight for weight, _ in parts)
    if len(found) == 2:
        both = QUALITY_WEIGHT * found["quality"] + SEMANTIC_WEIGHT * found["semantic"]
        found["total"] = both / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)
    return found


def _prompts(info: Path, dimensions: Sequence[str], limit: int | None) -> list[tuple[str, int]]:
    """(prompt, number) of every clip that the dimensions need."""
    entries = read_json(info, "VBench prompts", list)
    counts: dict[str, int] = {}
    for name in dimensions:
        try:
            prompts = [str(entry["prompt_en"]) for entry in entries if name in entry["dimension"]]
        except (KeyError, TypeError):
            raise ConfigError(f"{info}: is not VBench's list of prompts; install VBench again") from None
        for prompt in prompts[:limit]:
            samples = FLICKER_SAMPLES if name == "temporal_flickering" else SAMPLES
            counts[prompt] = max(samples, counts.get(prompt, 0))
    return [(prompt, number) for prompt, samples in counts.items() for number in range(samples)]

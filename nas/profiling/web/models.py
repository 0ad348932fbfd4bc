"""From what a page measures of the models of a workload to the workload's latency and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nas.costs.workload_counts import count_ops
from nas.errors import SpaceError
from nas.profiling.compile import CompiledWorkload
from nas.profiling.runtimes.base import ConvertedModel, InModelWorkload, Runnable, WholeModel, WorkloadStats
from nas.profiling.web.messages import ModelResult

MB = 1e6


SMALL_MB = 100.0
"""Below this need of memory, a workload does not kill a page."""


def is_small(workload: Runnable | CompiledWorkload, models: Sequence[ConvertedModel]) -> bool:
    """Whether a workload needs little memory: its estimated activations, and its files and packed weights."""
    weights_mb = sum(model.path.stat().st_size for model in models) * 2 / MB
    if isinstance(workload, CompiledWorkload):
        return weights_mb + workload.activations_mb < SMALL_MB
    whole = workload.space.backbone_workload() if isinstance(workload, InModelWorkload | WholeModel) else workload
    parts = [whole, workload.workload] if isinstance(workload, InModelWorkload) else [whole]
    try:
        counts = [count_ops(part) for part in parts]
        numbers = max(
            count.peak + max(count.attention_scores, default=0) for count in counts
        )  # LiteRT stores the scores
        return weights_mb + numbers * 4 / MB < SMALL_MB
    except SpaceError:  # an operator that does not say
        return False


def models_of(package: CompiledWorkload) -> list[ConvertedModel]:
    """The models of files that are compiled already, such as a bundle's."""
    one = ConvertedModel(package.path, package.params, package.weights_mb, package.variant)
    return [one, replace(one, path=package.several, copies=1 + package.copies)] if package.several else [one]


def stats_of(models: Sequence[ConvertedModel], loaded: Sequence[ModelResult]) -> WorkloadStats:
    """Memory and load time of a workload.

    Args:
        models: one, or one with fewer and one with more copies of an operator.
        loaded: results of each in a fresh worker.
    """
    memory = [memory_mb(model, result) for model, result in zip(models, loaded)]
    one = models[0]
    stats = WorkloadStats(memory[0], one.weights_mb, one.params, loaded[0].load_ms, one.variant)
    if len(models) == 1:
        return stats
    return stats.with_kept_memory((memory[1] - memory[0]) / (models[1].copies - one.copies))


def differences(models: list[ConvertedModel], results: tuple[ModelResult, ...]) -> list[float]:
    """The latency of one copy in ms: from samples of the model with fewer copies and of that with more."""
    copies = models[1].copies - models[0].copies
    return [(more - fewer) / copies for fewer, more in zip(results[0].samples_ms, results[1].samples_ms)]


def memory_mb(model: ConvertedModel, result: ModelResult) -> float:
    """Peak activation memory in 10^6 bytes, from the growth of the heap: it also holds file, tensors and packed weights."""
    known = result.file_bytes + result.input_bytes + result.output_bytes
    return max(0.0, (result.grown_bytes - known) / MB - model.weights_mb * model.copies)

"""The config of a whole job, as read from YAML."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.config import AtLeast0, AtLeast1, load, renamed
from nas.costs import Budget
from nas.errors import BudgetError, ConfigError, suggestion
from nas.runs import device_tables
from nas.search.constraints import Constraints


@dataclass(frozen=True)
class SearchConfig:
    """Settings of the search step.

    Attributes:
        trials: number of architectures that the supernet scores.
        clips: number of held-out clips behind each score.
        shortlist: number of best architectures that are retrained briefly before one is chosen.
        random: number of random architectures within the budget that are also scored, as the report's baseline.
        constraints: `fix`, `exclude` and `count`, lists of texts as of `nas search --fix`, `--exclude`, `--constraint`.
    """

    trials: AtLeast1 = 60
    sampler: str = "budget"
    clips: AtLeast1 = 64
    shortlist: AtLeast1 = 3
    random: AtLeast0 = 8
    constraints: Constraints = field(default_factory=Constraints)


@dataclass(frozen=True)
class JobPreviewConfig:
    """Preview clips: one per caption, after each stage in `steps` at its numbers of denoising steps (`stage: [steps, ...]`)."""

    captions: tuple[str, ...]
    steps: dict[str, tuple[AtLeast1, ...]]
    seed: AtLeast0 = 0


@dataclass(frozen=True)
class JobConfig:
    """A whole job, as read from YAML.

    Attributes:
        name: name of the run and of its folder under `runs/`.
        space: a shipped search space's name, or a path; relative paths, here and in `stages`, start in this file's folder.
        budget: as `Budget.parse` reads it; % is of the space's most expensive architecture.
        protocol: how carefully operators and candidates are measured, see `nas.profiling.Protocol`.
        tables: lookup tables of further devices by name, which the budget may bound as `latency@NAME`; the device that the
            job measures on goes by the name in `device` (`latency@local`).
        objective: prediction type and training timesteps, as in a training recipe (`nas train`).
        execution: how the steps of every stage are computed, as in a training recipe.
        workers: workers that share each batch of a stage, started by Ray Train if above 1.
        previews: preview clips to generate after the stages.
        stages: config of each training stage by name; `retrain` is a finetune config for the shortlist.
        formats: export formats.
        seed: of the search, and of each stage in `stages` that has none of its own.
    """

    name: str
    space: str
    budget: str
    previews: JobPreviewConfig = renamed("samples")
    tables: dict[str, str] = field(default_factory=dict)
    runtime: str = "eager"
    device: str = "local"
    protocol: dict[str, Any] = field(default_factory=dict)
    search: SearchConfig = field(default_factory=SearchConfig)
    objective: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    workers: AtLeast1 = 1
    stages: dict[str, Any] = field(default_factory=dict)
    formats: tuple[str, ...] = ("coreml", "recipe")
    seed: AtLeast0 = 0


def load_job_config(path: str | Path) -> JobConfig:
    """Read a job's YAML file.

    Raises:
        ConfigError: the file is invalid.
    """
    return load(JobConfig, path, "job")


def check_names(config: JobConfig, stages: Collection[str], file: str) -> None:
    """Check the config's names of stages, export formats and samplers, and its budget, before hours of work depend on them.

    Raises:
        ConfigError: an unknown name.
        BudgetError: the budget cannot be parsed.
    """
    from nas.export import FORMATS
    from nas.search.samplers import SAMPLERS

    previewed = ("supernet", "finetune", "adversarial")
    sampler = config.search.sampler.removesuffix("+repair")
    given = [("stages", name, stages) for name in config.stages]
    given += [("formats", name, FORMATS) for name in config.formats]
    given += [("previews.steps", name, previewed) for name in config.previews.steps]
    given += [("search.sampler", sampler, SAMPLERS)]
    for field_name, name, known in given:
        if name not in known:
            raise ConfigError(f"{file}: {field_name}: unknown name '{name}'{suggestion(name, known)}")
    try:
        device_tables.check_names(config.tables, config.device, file)
        known = [device_tables.own_name(config.device), *config.tables] if config.tables else []
        largest = Budget(1.0, 1.0, 1.0, 1.0)
        Budget.parse(config.budget, Budget(1.0, 1.0, 1.0, 1.0, {name: largest for name in known})).check_devices(known)
    except BudgetError as error:
        raise BudgetError(f"{file}: {error}") from None

"""A recipe: all stages of a training run in one YAML file, to be run stage by stage, here or on a cluster.

::

    space: space.yaml                    # a shipped search space's name, or a path beside this file
    architecture: architecture.json      # what `finetune` trains
    objective: {prediction: v, min_snr: 5}    # flow matching if not given
    stages:
      decoder: {steps: 400, data: digits}
      finetune: {steps: 450, optimization: {lr: 2e-3}}

A stage that the file does not mention has its default config.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas import config
from nas.errors import ConfigError, suggestion
from nas.spaces import Architecture, SearchSpace
from nas.training.objective import Objective
from nas.training.stage import Inputs, StageResult

BEFORE = {
    "decoder": None,
    "distill": "decoder",
    "supernet": "distill",
    "finetune": "supernet",
    "adversarial": "finetune",
}
"""The stage that each stage starts from, in the order in which they run."""


@dataclass(frozen=True)
class Recipe:
    """The keys of a recipe file.

    Attributes:
        objective: what the denoiser predicts, in every stage.
        stages: config by stage.
    """

    space: str
    architecture: str | None = None
    objective: Objective = field(default_factory=Objective)
    stages: dict[str, Any] = field(default_factory=dict)


def train(stage: str, recipe: str | Path, out: str | Path) -> StageResult:
    """Run stage `stage` of a recipe file in `out/STAGE`, or go on with it; the stages before it are in `out` as well.

    Raises:
        ConfigError: no such stage, a file that is wrong, or the stage before it is not finished.
    """
    from nas.training import STAGES, run_stage

    path, out = Path(recipe), Path(out)
    asked = config.load(Recipe, path, "recipe")
    for name in (stage, *asked.stages):
        if name not in STAGES:
            where = f"{path}: stages: " if name != stage else ""
            raise ConfigError(f"{where}there is no stage '{name}'{suggestion(name, STAGES)}")
    options = config.build(STAGES[stage].config, asked.stages.get(stage) or {}, str(path), f"stages.{stage}")
    space = SearchSpace.load(_beside(path, asked.space))
    arch = None
    if stage == "finetune":
        if asked.architecture is None:
            raise ConfigError(f"{path}: architecture: missing; 'finetune' needs the one that the search chose")
        arch = space.check(Architecture.load(_beside(path, asked.architecture)))
    before = BEFORE[stage]
    decoder = out / "decoder" if before else None
    start = out / before if before and before != "decoder" else None
    return run_stage(stage, out / stage, options, Inputs(space, decoder, start, arch, asked.objective))


def _beside(recipe: Path, name: str) -> str | Path:
    """A file that a recipe names, looked for beside it; a name without suffix is a shipped search space's."""
    return recipe.parent / name if Path(name).suffix else name

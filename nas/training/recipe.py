"""Training recipes: the configuration of all stages in one YAML file, run stage by stage on one or several workers.

::

    space: space.yaml                    # a shipped search space's name, or a path beside this file
    architecture: architecture.json      # what `finetune` trains
    table: table.csv                     # the lookup table of the search, recorded in the checkpoint
    objective: {prediction: v, min_snr: 5}    # default: flow matching
    execution: {precision: bf16, accumulate: 4, checkpointing: true}
    previews: {every: 1000}               # clips that `finetune` samples while it trains
    stages:
      decoder: {steps: 400, data: digits}    # or scenes, a YAML file of scenes, or the folder of a data set
      finetune: {steps: 450, optimization: {lr: 2e-3}}

A stage that the file does not mention has its default config. Relative paths are resolved against the recipe's folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nas import distributed
from nas.checkpoint import STAGE_ORDER
from nas.config import build, load, renamed
from nas.diffusion.predictions import Objective
from nas.distributed import launch
from nas.errors import ConfigError, suggestion
from nas.locks import output_lock
from nas.spaces import Architecture, SearchSpace
from nas.training.execution import ExecutionConfig, check_device
from nas.training.previews import PreviewConfig
from nas.training.stage import Inputs, StageResult, check_or_record_config, extend, file_hash, needs_run
from nas.training.telemetry.loggers import check_installed

PREVIOUS_STAGE = dict(zip(STAGE_ORDER, (None, *STAGE_ORDER)))
"""For each stage, the one it starts from; keys are in the order in which the stages run."""


@dataclass(frozen=True)
class Recipe:
    """The keys of a recipe file.

    Attributes:
        objective: what the denoiser predicts, in every stage.
        execution: how the steps of every stage are computed.
        previews: the clips that `finetune` samples while it trains.
        stages: config by stage.
    """

    space: str
    architecture: str | None = None
    table: str | None = None
    objective: Objective = field(default_factory=Objective)
    execution: ExecutionConfig = renamed("compute", default_factory=ExecutionConfig)
    previews: PreviewConfig = renamed("watch", default_factory=PreviewConfig)
    stages: dict[str, Any] = field(default_factory=dict)


def train(
    stage: str,
    recipe: str | Path,
    out: str | Path,
    workers: int = 1,
    data: str | Path | None = None,
    device: str | None = None,
    profile_steps: int = 0,
) -> StageResult:
    """Run or resume stage `stage` of a recipe file in `out/STAGE`; the stages before it must be finished in `out`.

    Args:
        workers: number of data-parallel workers, started by Ray Train if above 1; all must see the folder `out`. Leave
            it at 1 under `torchrun`, which has started them.
        data: overrides the recipe's data of the `decoder` stage: `digits`, `scenes`, a YAML file of scenes, or a folder.
        device: overrides the recipe's `execution.device`.
        profile_steps: overrides the recipe's `execution.profile_steps`, unless it is 0.

    Raises:
        ConfigError: unknown stage, invalid file, the previous stage is not finished, or the folder was started with
            another configuration.
        LockedError: another process trains this stage in this folder.
        NasError: a worker failed, or the training diverged.
    """
    from nas.data import GENERATED
    from nas.training import STAGES

    launch.check_workers(workers)
    launched = distributed.launched_workers()
    path, out = Path(recipe), Path(out).absolute()  # workers have other working directories
    loaded = load(Recipe, path, "recipe")
    for name in (stage, *loaded.stages):
        if name not in STAGES:
            where = f"{path}: stages: " if name != stage else ""
            raise ConfigError(f"{where}unknown stage '{name}'{suggestion(name, STAGES)}")
    options = build(STAGES[stage].config, loaded.stages.get(stage) or {}, str(path), f"stages.{stage}")
    if stage == "decoder" and data is not None:
        options = replace(options, data=str(data) if str(data) in GENERATED else str(Path(data).absolute()))
    space = SearchSpace.load(beside(path, loaded.space))
    arch = None
    if stage == "finetune":
        if loaded.architecture is None:
            raise ConfigError(f"{path}: architecture: missing; 'finetune' needs the result of the search")
        arch = space.check(Architecture.load(beside(path, loaded.architecture)))
    previous = PREVIOUS_STAGE[stage]
    decoder = out / "decoder" if previous else None
    start = out / previous if previous and previous != "decoder" else None
    table = file_hash(beside(path, loaded.table)) if loaded.table else None
    base = path.absolute().parent
    execution = loaded.execution if device is None else replace(loaded.execution, device=device)
    execution = replace(execution, profile_steps=profile_steps or execution.profile_steps)
    check_device(execution, "--" if device else f"{path}: execution.")
    check_installed(execution.loggers or (), f"{path}: execution.")
    inputs = Inputs(space, decoder, start, arch, loaded.objective, execution, loaded.previews, table, base)
    check_shares(stage, options, execution, max(workers, launched), str(path))
    return run_on_workers(stage, out / stage, options, inputs, workers)


def check_shares(stage: str, options: Any, execution: ExecutionConfig, workers: int, file: str) -> None:
    """Check, before any worker starts, that workers can share the batches and the weights of a stage evenly.

    Raises:
        ConfigError: a batch is not a multiple of the number of workers, or that is not one of `shard_size`; it names the
            file and the field.
    """
    try:
        execution.check_workers(workers)
    except ConfigError as error:
        raise ConfigError(f"{file}: execution.{error}") from None
    for name in ("batch", "image_batch_size"):
        if getattr(options, name, workers) % workers:
            raise ConfigError(
                f"{file}: stages.{stage}.{name}: {getattr(options, name)} cannot be shared evenly by {workers} workers; "
                f"choose a multiple of {workers}"
            )


def run_on_workers(
    stage: str,
    folder: Path,
    options: Any,
    inputs: Inputs,
    workers: int,
    run: Callable[[str, Path, Any, Inputs], StageResult] | None = None,
) -> StageResult:
    """`run` on this many workers that Ray Train starts, on those that torchrun has started, or in this process.

    Args:
        run: runs the stage of this name, as `run_stage`, which is the default.
    """
    from nas.training import run_stage

    run, arguments = run or run_stage, (stage, folder, options, inputs)
    with distributed.use_device(inputs.execution.device):
        if distributed.launched_workers() > 1:
            with launch.launched_group(), contextlib.ExitStack() as held:
                if distributed.is_main():
                    held.enter_context(output_lock(folder, folder=True))
                    extend(*arguments)
                    check_or_record_config(*arguments, distributed.world_size())
                distributed.barrier()
                return run(*arguments)
        if workers > 1 and needs_run(folder, options):
            with output_lock(folder, folder=True):
                extend(*arguments)
                check_or_record_config(*arguments, workers)  # before workers start, for a one-line error
                launch.start(run, arguments, workers, folder / "ray")
    return run(*arguments)


def beside(recipe: Path, name: str) -> str | Path:
    """The path of a file named in a recipe; a plain name without suffix is returned as the name of a shipped space."""
    path = Path(name)
    return recipe.parent / path.expanduser() if path.suffix or len(path.parts) > 1 else name

"""Training stages, from a data set to a four-step text-to-video checkpoint; every stage can be interrupted and resumed.

    decoder ---> distill ---> supernet ---> (search) ---> finetune ---> adversarial
    autoencoder, spatial      every path    retrain()     the winner    25 -> 4 steps,
    latents of   backbone,                                              and the control
    the data     images

Each stage is a module in `stages/` with a config data class and a function that uses the loop in `loop.py`:

    result = run_stage("decoder", run / "decoder", DecoderConfig(), Inputs(space))
    decoder = result.folder
    result = run_stage("distill", run / "distill", DistillConfig(), Inputs(space, decoder))
    result = run_stage("supernet", run / "supernet", SupernetConfig(), Inputs(space, decoder, start=result.folder))
    inputs = Inputs(space, decoder, start=result.folder)
    evaluator = SupernetEvaluator(inputs, clips=64)                  # Architecture -> float, higher is better
    loss = retrain(run / "retrain-0", replace(inputs, architecture=arch), FinetuneConfig(steps=60))
    result = run_stage("finetune", run / "finetune", FinetuneConfig(), replace(inputs, architecture=winner))
    result = run_stage("adversarial", run / "adversarial", AdversarialConfig(), Inputs(space, decoder, result.folder))
    checkpoint.load(result.folder)                                   # for a pipeline or an export

`run_stage` returns a `StageResult(folder, metrics, seconds)`. A finished folder is only read; an interrupted stage is
resumed and ends bit for bit as if never interrupted. `metrics` are described at the top of each stage's module. A
folder contains `history.csv` (`step, loss, ...`). Those of `finetune` and `adversarial` are checkpoints, with the layout
at the top of `nas/checkpoint.py`; `adversarial/control/history.csv` is that of the control.

Configs are read by `nas.config.build(STAGES[name].config, mapping, file)`. The caller sets the number of torch threads.
Options common to all stages are in `Inputs`: what the denoiser predicts (`Objective`), how steps are computed
(`ExecutionConfig`: accumulation, precision, checkpointing, compilation, sharding) and preview clips (`PreviewConfig`). In a process
group of torch.distributed, as `nas train --workers N` starts one with Ray Train, workers share each batch: see
`nas/distributed.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas import checkpoint
from nas.diffusion.predictions import Objective
from nas.errors import ConfigError, suggestion
from nas.training.execution import ExecutionConfig
from nas.training.previews import PreviewConfig
from nas.training.stage import Inputs, Stage, StageResult, run_in_folder
from nas.training.stages import adversarial as _adversarial
from nas.training.stages import decoder as _decoder
from nas.training.stages import distill as _distill
from nas.training.stages import finetune as _finetune
from nas.training.stages import supernet as _supernet
from nas.training.stages.adversarial import AdversarialConfig
from nas.training.stages.decoder import DecoderConfig
from nas.training.stages.distill import DistillConfig
from nas.training.stages.finetune import FinetuneConfig
from nas.training.stages.supernet import SupernetConfig
from nas.training.supernet_evaluator import SupernetEvaluator, retrain
from nas.training.telemetry.history import read_history


@dataclass(frozen=True)
class StageEntry:
    """A stage: its function and the data class of its config."""

    function: Stage
    config: type


STAGES: dict[str, StageEntry] = {
    "decoder": StageEntry(_decoder.decoder, DecoderConfig),
    "distill": StageEntry(_distill.distill, DistillConfig),
    "supernet": StageEntry(_supernet.supernet, SupernetConfig),
    "finetune": StageEntry(_finetune.finetune, FinetuneConfig),
    "adversarial": StageEntry(_adversarial.adversarial, AdversarialConfig),
}


def run_stage(name: str, folder: str | Path, config: Any, inputs: Inputs) -> StageResult:
    """Run stage `name` in `folder`, resume it, or return the result of a finished folder.

    Args:
        config: an instance of `STAGES[name].config`.

    Raises:
        ConfigError: unknown stage, an input is missing, or the folder was started with another configuration.
    """
    if name not in STAGES:
        raise ConfigError(f"unknown stage '{name}'{suggestion(name, STAGES)}")
    finished = (Path(folder) / "result.json").exists()
    result = run_in_folder(name, STAGES[name].function, Path(folder), config, inputs)
    if name == "decoder" and finished:
        _decoder.check_data(Path(folder), config, inputs)
    return result


__all__ = [
    "STAGES",
    "AdversarialConfig",
    "ExecutionConfig",
    "DecoderConfig",
    "DistillConfig",
    "FinetuneConfig",
    "Inputs",
    "Objective",
    "StageResult",
    "SupernetConfig",
    "SupernetEvaluator",
    "PreviewConfig",
    "checkpoint",
    "read_history",
    "retrain",
    "run_stage",
]

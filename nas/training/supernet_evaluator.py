"""Evaluators of architectures: the loss of their path in a trained supernet, or after brief stand-alone training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from nas import distributed
from nas.config import build
from nas.data.batches import held_out
from nas.diffusion.losses import validation_loss, validation_losses
from nas.diffusion.predictions import Objective
from nas.errors import ConfigError
from nas.files import content_hash, read_json, short_hash
from nas.models import Supernet
from nas.spaces import Architecture, SearchSpace
from nas.training.execution import ExecutionConfig
from nas.training.stage import Inputs, require_finished
from nas.training.stages import supernet
from nas.training.stages.finetune import FinetuneConfig, train_jointly


class SupernetEvaluator:
    """`Architecture -> float`, higher is better: the negative loss of the supernet's path on held-out clips.

    All architectures are scored on the same clips, noise and timesteps.

    Args:
        inputs: `space`, `decoder` and `start` (the finished `supernet` stage); `execution.device` computes the scores.
        clips: number of held-out clips.
        threads: torch threads, to be set in worker processes; None: unchanged.
    """

    def __init__(self, inputs: Inputs, clips: int = 64, threads: int | None = None) -> None:
        self.inputs, self.clips, self.threads = inputs, clips, threads
        self._loaded = None

    @classmethod
    def of_stage(
        cls, folder: str | Path, space: SearchSpace, clips: int = 64, device: str | None = None
    ) -> SupernetEvaluator:
        """The evaluator of a finished `supernet` stage, whose `decoder` stage lies in the folder beside it.

        Args:
            device: as in `ExecutionConfig`.

        Raises:
            ConfigError: a stage is missing or not finished, or is of another search space.
        """
        folder = require_finished(Path(folder), "supernet")
        recorded = read_json(folder / "stage.json", "stage", dict)
        if recorded.get("space_hash") != space.hash:
            raise ConfigError(f"{folder}: was trained on another search space than '{space.name}'; give its space.yaml")
        objective = build(Objective, recorded.get("objective", {}), str(folder / "stage.json"), "objective")
        decoder = require_finished(folder.parent / "decoder", "decoder")
        execution = ExecutionConfig(device=device)
        return cls(Inputs(space, decoder, folder, objective=objective, execution=execution), clips)

    @functools.cached_property
    def identity(self) -> str:
        """Changes with what scores depend on: the supernet's weights, the held-out clips and how many are used."""
        weights = require_finished(self.inputs.start, "supernet") / supernet.WEIGHTS
        clips = sorted((require_finished(self.inputs.decoder, "decoder") / "test").glob("*.safetensors"))
        objective = asdict(self.inputs.objective)
        if not objective["zero_terminal_snr"]:  # a study made before that option existed goes on
            del objective["zero_terminal_snr"]
        parts = [content_hash(weights, *clips), objective, self.clips]
        return f"{type(self).__name__} {short_hash(parts)}"

    def __call__(self, arch: Architecture) -> float:
        return self.score(arch)

    def score(self, arch: Architecture, seed: int = 0) -> float:
        """The score with noise and timesteps drawn from `seed`. The search always uses seed 0."""
        model, latents, contexts = self._load()
        return -validation_loss(model, latents, contexts, arch, seed=seed)

    def score_many(self, archs: Sequence[Architecture], seed: int = 0) -> list[float]:
        """The `score` of each architecture, in order; layers that several of them begin with are run once."""
        return [-loss for loss in validation_losses(*self._load(), archs, seed=seed)]

    def _load(self) -> tuple[Supernet, Tensor, Tensor]:
        """The supernet and the held-out latents and contexts, on the device."""
        if self._loaded is None:  # on first use, so that pickling for a worker process leaves out the weights
            if self.threads:
                torch.set_num_threads(self.threads)
            with distributed.use_device(self.inputs.execution.device):
                device = distributed.device()
            model = supernet.load(self.inputs.start, self.inputs).to(device)
            clips = held_out(require_finished(self.inputs.decoder, "decoder"), self.clips)
            self._loaded = model, *(values.to(device) for values in clips)
        return self._loaded

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_loaded": None}


def retrain(folder: str | Path, inputs: Inputs, config: FinetuneConfig) -> float:
    """Validation loss of `inputs.architecture` after brief stand-alone training.

    Training starts from the supernet's weights if `inputs.start` is a finished `supernet` stage, and from the spatial
    backbone's if it is a `distill` stage. It resumes, and a finished folder is only read.

    Args:
        config: steps, batches and learning rate; `eval_steps` and `eval_clips` are not used.
    """
    from nas.training.stage import run_in_folder

    return run_in_folder("retrain", _retrain, Path(folder), config, inputs).metrics["validation_loss"]


def _retrain(folder: Path, config: FinetuneConfig, inputs: Inputs) -> tuple[dict, float]:
    source = require_finished(inputs.decoder, "decoder")
    torch.manual_seed(config.seed)
    denoiser = supernet.denoiser_from(inputs.start, inputs)
    learner, seconds = train_jointly("retrain", folder, denoiser, source, config, inputs.execution)
    denoiser = learner.result()
    return {"validation_loss": validation_loss(denoiser.eval(), *held_out(source, config.validation))}, seconds

"""The whole job in one run folder: profile, train the supernet, search, train the winner, export.

Steps run in the order of `STEPS`. Each writes its results to the run folder (laid out in `nas.runs.record`) and is marked
as finished in the record, so that an interrupted run resumes with the first unfinished step.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import nas
from nas.config import build
from nas.costs import Budget, Cost, CostModel, Costs, DeviceCosts, LookupTable
from nas.errors import ConfigError
from nas.files import read_text, write_atomic
from nas.locks import output_lock
from nas.runs import device_tables
from nas.runs.job_config import JobConfig, check_names, load_job_config
from nas.runs.record import RECORD, Candidate, DenoiserCost, ExportedFile, Preview, RunRecord, StageQuality
from nas.spaces import Architecture, SearchSpace

NOISE_DRAWS = 4
"""Noise seeds under which each candidate is scored, to estimate the standard deviation of its score."""


def run_job(config: str | Path, out: str | Path | None = None, device: str | None = None) -> Path:
    """Run or resume the job described by the YAML file `config`; returns the run folder.

    Args:
        device: overrides the config's `execution.device`.

    Raises:
        ConfigError: the file is invalid, or the run folder was created with another config.
        NasError: a step failed; the results of earlier steps are kept.
    """
    job_config = load_job_config(config)
    run = Path(out) if out else Path("runs") / job_config.name
    text, kept = read_text(config, "job"), run / "config.yaml"
    with output_lock(run, folder=True):
        if kept.exists() and read_text(kept, "job") != text:
            raise ConfigError(f"{kept}: this run was started with another config than {config}; give another --out")
        write_atomic(kept, text)
        Job(job_config, run, str(config), device).run()
    return run


class Job:
    """The steps of one run.

    Args:
        config: the job.
        run: the run folder.
        file: path of the config file, for error messages and relative paths.
        device: overrides the config's `execution.device`.
    """

    def __init__(self, config: JobConfig, run: Path, file: str, device: str | None = None) -> None:
        from nas.diffusion.predictions import Objective
        from nas.profiling import Protocol
        from nas.training import STAGES, ExecutionConfig, FinetuneConfig
        from nas.training.execution import check_device
        from nas.training.recipe import beside, check_shares
        from nas.training.telemetry.loggers import check_installed

        self.config, self.folder = config, run
        self.base = Path(file).absolute().parent  # relative paths are relative to the config file
        self.space = SearchSpace.load(beside(Path(file), config.space))
        kinds = {name: entry.config for name, entry in STAGES.items()} | {"retrain": FinetuneConfig}
        check_names(config, kinds, file)
        self.own_device = device_tables.own_name(config.device)
        self.other_tables = device_tables.load(config.tables, self.base)
        for table in self.other_tables.values():  # before hours of profiling
            CostModel(self.space, table)
        try:
            config.search.constraints.permitted(self.space), config.search.constraints.counts(self.space)
        except ConfigError as error:
            raise ConfigError(f"{file}: search.constraints: {error}") from None
        options = {name: {"seed": config.seed, **config.stages.get(name, {})} for name in kinds}
        self.stages = {name: build(kind, options[name], file, f"stages.{name}") for name, kind in kinds.items()}
        self.objective = build(Objective, config.objective, file, "objective")
        self.protocol = build(Protocol, config.protocol, file, "protocol")
        self.execution = build(ExecutionConfig, config.execution, file, "execution")
        self.execution = self.execution if device is None else replace(self.execution, device=device)
        check_device(self.execution, "--" if device else f"{file}: execution.")  # before hours of profiling
        check_installed(self.execution.loggers or (), f"{file}: execution.")
        for name in STAGES:
            check_shares(name, self.stages[name], self.execution, config.workers, file)
        self.record = RunRecord.load(run) if (run / RECORD).exists() else _new_record(config, self.space)

    def run(self) -> None:
        """Run every unfinished step.

        Raises:
            ConfigError: the table of another device has changed since the run was started.
        """
        device_tables.keep(self.other_tables, self.folder)
        self.space.save(self.folder / "space.yaml")
        for number, (name, step) in enumerate(STEPS.items(), 1):
            if name in self.record.step_seconds:
                continue
            print(f"[{number}/{len(STEPS)}] {step.__doc__.splitlines()[0]}", file=sys.stderr, flush=True)
            started = time.monotonic()
            step(self)
            self.record.step_seconds[name] = round(time.monotonic() - started, 1)
            self.record.save(self.folder)

    # -- the steps -------------------------------------------------------------------------------------------------

    def profile(self) -> None:
        """Profile the search space's operators"""
        pipeline = bool(self.space.pipeline_workloads())
        out = self.folder / "table.csv"
        nas.profile(
            self.space, self.config.runtime, self.config.device, out=out, protocol=self.protocol, pipeline=pipeline
        )

    def decoder(self) -> None:
        """Train the autoencoder with its separable video decoder, and encode the data"""
        from nas.training.stages.decoder import REAL_CLIPS, REAL_SCENES

        metrics = self._train("decoder").metrics
        accuracy = metrics.get("digit_classifier", metrics.get("judge"))  # its name in earlier versions
        clips = REAL_CLIPS
        if "scene_judges" in metrics:
            accuracy, clips = metrics["scene_judges"], REAL_SCENES
        self._add_quality("real", [{"steps": 0, **accuracy["real"]}] if accuracy else [], clips)

    def distill(self) -> None:
        """Train the spatial backbone on images"""
        self._train("distill")

    def supernet(self) -> None:
        """Train the supernet: every operator in every slot, on images and clips"""
        self._train("supernet")

    def search(self) -> None:
        """Search for the best architecture within the budget"""
        from nas.search import run as run_search
        from nas.training import SupernetEvaluator

        config, evaluator = self.config.search, SupernetEvaluator(self._inputs("supernet"), self.config.search.clips)
        result = run_search(
            self.space,
            self.cost_model,
            evaluator,
            self.budget,
            trials=config.trials,
            sampler=config.sampler,
            storage=self.folder / "study.journal",
            seed=self.config.seed,
            constraints=config.constraints,
        )
        frame = result.frame
        slots = [*self.space.slots]
        write_atomic(self.folder / "front.csv", self._own_costs(result.front).to_csv(index=False))
        scores = frame.groupby(slots)["score"].max()
        self.record.trials = len(frame)
        self.record.infeasible_trials = int((~frame["feasible"]).sum())
        self.record.budget = self.own_budget.bounds() | {
            f"{key}@{name}": bound for name in self.other_tables for key, bound in self.budget.on(name).bounds().items()
        }
        best = result.top(config.shortlist)
        draws = [evaluator.score_many(best, seed) for seed in range(NOISE_DRAWS)]
        deviations = score_deviations([list(scores_of_one) for scores_of_one in zip(*draws)])
        self.record.candidates = tuple(
            Candidate(
                arch.choices, float(scores[tuple(arch.choices.values())]), self._predicted(arch), score_std=deviation
            )
            for arch, deviation in zip(best, deviations)
        )
        self.record.random_scores = tuple(evaluator.score_many(self._random(config.random)))

    def _random(self, count: int) -> list[Architecture]:
        """Random architectures within the budget."""
        from nas.search.problem import Problem
        from nas.search.samplers.repair import repair

        constraints, rng = self.config.search.constraints, np.random.default_rng(self.config.seed)
        problem = Problem.build(self.space, self.cost_model, self.budget, constraints)
        random_codes = (self.space.encode(self.space.random(rng)) for _ in range(count))
        return [self.space.decode(repair(problem, codes, rng)) for codes in random_codes]

    def choose(self) -> None:
        """Retrain the best candidates briefly, measure each whole model, and choose one"""
        from nas.profiling import measure_architectures
        from nas.training import retrain

        candidates = list(self.record.candidates)
        archs = [self.space.architecture(candidate.choices) for candidate in candidates]
        for i, arch in enumerate(archs):
            inputs = replace(self._inputs("supernet"), architecture=arch)
            loss = retrain(self.folder / "checkpoints" / f"retrain-{i}", inputs, self.stages["retrain"])
            candidates[i] = replace(candidates[i], retrained_loss=loss)
        rows = measure_architectures(
            self.space, archs, self.config.runtime, self.config.device, self.protocol, progress=True
        )
        measured = [
            DenoiserCost(row.latency_ms, row.memory_mb + row.weights_mb, row.params, row.source) for row in rows
        ]
        within = [self.own_budget.holds(cost) for cost in measured]
        best = min(range(len(archs)), key=lambda i: (not within[i], candidates[i].retrained_loss))
        self.record.candidates = tuple(candidates)
        self.record.choices = archs[best].choices
        self.record.predicted, self.record.measured = candidates[best].predicted, measured[best]
        self.record.predicted_on = {
            name: _denoiser_cost(cost)
            for name, cost in self.cost_model.predict(archs[best]).devices.items()
            if name != self.own_device
        }
        archs[best].save(self.folder / "architecture.json")

    def finetune(self) -> None:
        """Fine-tune all weights of the chosen architecture on images and clips"""
        metrics = self._train("finetune", architecture=self.chosen).metrics
        self._add_quality("finetune", metrics["quality"], self.stages["finetune"].eval_clips)

    def adversarial(self) -> None:
        """Adversarial fine-tuning to a few denoising steps, and the control if the config asks for one"""
        for model, rows in self._train("adversarial").metrics["quality"].items():
            self._add_quality(model, rows, self.stages["adversarial"].eval_clips)

    def previews(self) -> None:
        """Generate preview clips after each stage"""
        from nas.runs.previews import write_previews

        config, previews = self.config.previews, []
        for model, counts in config.steps.items():
            for steps in counts:
                folder, inputs = self.folder / "samples" / model, self._inputs(model)
                files = write_previews(folder, inputs, self.chosen, config.captions, steps, config.seed)
                gif, mp4 = (str(path.relative_to(self.folder)) for path in files)
                previews.append(Preview(model, steps, config.captions, gif, mp4))
        self.record.previews = tuple(previews)

    def export(self) -> None:
        """Export the four-step model"""
        from nas.export import FORMATS

        exported, checkpoint = [], self.folder / "checkpoints" / "adversarial"
        for name in self.config.formats:
            for path in FORMATS[name](
                checkpoint, self.folder / "export", table=LookupTable.load(self.folder / "table.csv")
            ):
                exported.append(
                    ExportedFile(name, str(Path(path).relative_to(self.folder)), round(_size_mb(Path(path)), 3))
                )
        self.record.exported = tuple(exported)

    # -- shared by the steps ---------------------------------------------------------------------------------------

    @cached_property
    def cost_model(self) -> Costs:
        """The costs on the device that the job measures on, and on the others that have a table."""
        own = CostModel(self.space, LookupTable.load(self.folder / "table.csv"))
        if not self.other_tables:
            return own
        kept = device_tables.kept_tables(self.folder)
        others = {name: CostModel(self.space, LookupTable.load(kept[name])) for name in self.other_tables}
        return DeviceCosts({self.own_device: own, **others})

    @cached_property
    def budget(self) -> Budget:
        """The budget with a bound on generation time converted to one on latency."""
        return self.cost_model.resolve_budget(Budget.parse(self.config.budget, self.cost_model.upper_bounds()))

    @property
    def own_budget(self) -> Budget:
        """What the budget bounds on the device that the job measures on."""
        return self.budget.on(self.own_device)

    def _own_costs(self, front: pd.DataFrame) -> pd.DataFrame:
        """The front with the costs on the job's own device, then the scores, the costs on others, and the slots."""
        columns = ["latency_ms", "memory_mb", "params"]
        if not self.other_tables:
            return front[[*columns, "score", *self.space.slots]]
        own = front.assign(**{column: front[f"{column}@{self.own_device}"] for column in columns})
        others = [f"{column}@{name}" for name in self.other_tables for column in columns]
        return own[[*columns, "score", *others, *self.space.slots]]

    @property
    def chosen(self) -> Architecture:
        return self.space.check(Architecture.load(self.folder / "architecture.json"))

    def _train(self, stage: str, **inputs: Any) -> Any:
        from nas.training.recipe import PREVIOUS_STAGE, run_on_workers

        stage_inputs = replace(self._inputs(PREVIOUS_STAGE[stage]), **inputs)
        return run_on_workers(stage, self._stage(stage), self.stages[stage], stage_inputs, self.config.workers)

    def _inputs(self, start: str | None) -> Any:
        """Inputs of a stage that starts from the finished stage `start`."""
        from nas.training import Inputs
        from nas.training.stage import file_hash

        decoder = self._stage("decoder") if start else None
        start_folder = self._stage(start) if start and start != "decoder" else None
        return Inputs(
            self.space,
            decoder,
            start_folder,
            objective=self.objective,
            execution=self.execution,
            table=file_hash(self.folder / "table.csv"),
            base=self.base,
        )

    def _stage(self, name: str) -> Path:
        return self.folder / "checkpoints" / name

    def _predicted(self, arch: Architecture) -> DenoiserCost:
        cost = self.cost_model.predict(arch)
        return _denoiser_cost(cost.devices.get(self.own_device, cost))

    def _add_quality(self, model: str, rows: list[dict[str, Any]], clips: int) -> None:
        others = tuple(quality for quality in self.record.quality if quality.model != model)
        self.record.quality = others + tuple(StageQuality(model, **row, clips=clips) for row in rows)


STEPS: dict[str, Callable[[Job], None]] = {
    step.__name__: step
    for step in (
        Job.profile,
        Job.decoder,
        Job.distill,
        Job.supernet,
        Job.search,
        Job.choose,
        Job.finetune,
        Job.adversarial,
        Job.previews,
        Job.export,
    )
}
"""All steps in order; the first line of a step's docstring is printed when it starts."""


def score_deviations(scores: list[list[float]]) -> list[float]:
    """Standard deviation of each architecture's score over noise seeds.

    A seed shifts the scores of all architectures by a common amount, which changes no ranking; it is subtracted.

    Args:
        scores: `(architectures, seeds)`.
    """
    draws = np.array(scores)
    if len(draws) > 1:
        draws = (draws - draws.mean(axis=0)) * np.sqrt(len(draws) / (len(draws) - 1))
    return [float(deviation) for deviation in draws.std(axis=1, ddof=1)]


def _denoiser_cost(cost: Cost) -> DenoiserCost:
    return DenoiserCost(cost.latency_ms, cost.memory_mb, cost.params)


def _new_record(config: JobConfig, space: SearchSpace) -> RunRecord:
    from importlib.metadata import version

    from nas.profiling.host import commit

    provenance = {
        "nas": nas.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}",
        "config": asdict(config),
    }
    return RunRecord(config.name, space.name, space.hash, provenance)


def _size_mb(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6

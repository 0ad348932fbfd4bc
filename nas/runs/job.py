"""The whole job in one run folder: profile, train the supernet, search, train the winner, export, report.

Steps run in the order of `STEPS`. Each leaves its results in the run folder (laid out in `nas.runs.record`) and is
marked in the record when it is finished, so that a run that was stopped at any moment goes on where it was.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import nas
from nas.config import AtLeast0, AtLeast1, build, load
from nas.costs import Budget, CostModel, LookupTable
from nas.errors import BudgetError, ConfigError, suggestion
from nas.files import read_text, write_atomic
from nas.locks import output_lock
from nas.runs.record import RECORD, Candidate, Costs, Exported, Quality, RunRecord, Sample
from nas.spaces import Architecture, SearchSpace

NOISE_DRAWS = 4
"""Draws of noise under which each candidate is scored, to tell how exact a score is."""


@dataclass(frozen=True)
class SearchConfig:
    """How to search.

    Attributes:
        trials: architectures the supernet scores.
        clips: held-out clips of each score.
        shortlist: how many of the best are retrained briefly before the choice.
        random: random architectures within the budget that are scored too, for the report to compare with.
    """

    trials: AtLeast1 = 60
    sampler: str = "budget"
    clips: AtLeast1 = 64
    shortlist: AtLeast1 = 3
    random: AtLeast0 = 8


@dataclass(frozen=True)
class SampleConfig:
    """Which clips to show: captions, and after which stage at how many denoising steps (`model: [steps, ...]`)."""

    captions: tuple[str, ...]
    steps: dict[str, tuple[AtLeast1, ...]]
    seed: AtLeast0 = 0


@dataclass(frozen=True)
class JobConfig:
    """A whole job, as YAML.

    Attributes:
        name: of the run, and of its folder under `runs/`.
        space: a shipped search space's name, or a path; relative paths, here and in `stages`, start in this file's folder.
        budget: as `Budget.parse` reads it; % is of the space's most expensive architecture.
        objective: what the denoiser predicts and at which timesteps it learns to, as in a recipe (`nas train`).
        stages: the config of each training stage, by its name; `retrain` is a finetune config for the shortlist.
        formats: what to export.
    """

    name: str
    space: str
    budget: str
    samples: SampleConfig
    runtime: str = "eager"
    device: str = "local"
    search: SearchConfig = field(default_factory=SearchConfig)
    objective: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, Any] = field(default_factory=dict)
    formats: tuple[str, ...] = ("coreml", "recipe")
    seed: AtLeast0 = 0


def run_job(config: str | Path, out: str | Path | None = None) -> Path:
    """Run the job that the YAML file `config` describes, or go on with it; returns the run folder.

    Raises:
        ConfigError: the file is wrong, or the run folder was begun with another one.
        NasError: a step cannot be done; what the steps before it did is kept.
    """
    asked = load(JobConfig, config, "job")
    run = Path(out) if out else Path("runs") / asked.name
    text, kept = read_text(config, "job"), run / "config.yaml"
    with output_lock(run, folder=True):
        if kept.exists() and read_text(kept, "job") != text:
            raise ConfigError(f"{kept}: this run was begun with another config than {config}; give another --out")
        write_atomic(kept, text)
        Job(asked, run, str(config)).run()
    return run


class Job:
    """One run, step by step.

    Args:
        config: what to do.
        run: the run folder.
        file: where the config was read from, for errors.
    """

    def __init__(self, config: JobConfig, run: Path, file: str) -> None:
        from nas.diffusion.objective import Objective
        from nas.training import STAGES, FinetuneConfig
        from nas.training.recipe import beside

        self.config, self.folder = config, run
        self.base = Path(file).absolute().parent  # relative paths start where they are written
        self.space = SearchSpace.load(beside(Path(file), config.space))
        kinds = {name: entry.config for name, entry in STAGES.items()} | {"retrain": FinetuneConfig}
        self._check_names(kinds, file)
        self.stages = {n: build(kind, config.stages.get(n, {}), file, f"stages.{n}") for n, kind in kinds.items()}
        self.objective = build(Objective, config.objective, file, "objective")
        self.record = RunRecord.load(run) if (run / RECORD).exists() else _new_record(config, self.space)

    def _check_names(self, stages: Collection[str], file: str) -> None:
        """Refuse at once what a step would only refuse hours later."""
        from nas.export import FORMATS
        from nas.search.samplers import SAMPLERS

        config = self.config
        shown = ("supernet", "finetune", "adversarial")
        sampler = config.search.sampler.removesuffix("+repair")
        given = [("stages", name, stages) for name in config.stages]
        given += [("formats", name, FORMATS) for name in config.formats]
        given += [("samples.steps", name, shown) for name in config.samples.steps]
        given += [("search.sampler", sampler, SAMPLERS)]
        for field_name, name, known in given:
            if name not in known:
                raise ConfigError(f"{file}: {field_name}: nothing called '{name}'{suggestion(name, known)}")
        try:
            Budget.parse(config.budget, upper_bounds=Budget(1.0, 1.0, 1.0, 1.0))
        except BudgetError as error:
            raise BudgetError(f"{file}: {error}") from None

    def run(self) -> None:
        """Every step that is not finished yet."""
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
        nas.profile(self.space, self.config.runtime, self.config.device, out=out, pipeline=pipeline)

    def decoder(self) -> None:
        """Train the autoencoder with its separable video decoder, and encode the data"""
        from nas.training.stages.decoder import JUDGED_REAL

        metrics = self._train("decoder").metrics
        judged = metrics.get("judge", {})
        self._add_quality("real", [{"steps": 0, **judged["real"]}] if judged else [], JUDGED_REAL)

    def distill(self) -> None:
        """Train the spatial backbone on images"""
        self._train("distill")

    def supernet(self) -> None:
        """Train the supernet: every operator in every slot, on images and clips"""
        self._train("supernet")

    def search(self) -> None:
        """Search for the best placement inside the budget"""
        from nas.search import run as run_search
        from nas.training import SupernetEvaluator

        config, evaluator = self.config.search, SupernetEvaluator(self._inputs("supernet"), self.config.search.clips)
        result = run_search(
            self.space,
            self.cost,
            evaluator,
            self.budget,
            trials=config.trials,
            sampler=config.sampler,
            storage=self.folder / "study.journal",
            seed=self.config.seed,
        )
        frame = result.frame
        slots = [*self.space.slots]
        columns = ["latency_ms", "memory_mb", "params", "score", *slots]
        write_atomic(self.folder / "front.csv", result.front[columns].to_csv(index=False))
        scores = frame.groupby(slots)["score"].max()
        self.record.trials = len(frame)
        self.record.infeasible_trials = int((~frame["feasible"]).sum())
        self.record.budget = self.budget.bounds()
        best = result.top(config.shortlist)
        noise = _noise([[evaluator.score(arch, seed) for seed in range(NOISE_DRAWS)] for arch in best])
        self.record.candidates = tuple(
            Candidate(
                arch.choices, float(scores[tuple(arch.choices.values())]), self._predicted(arch), score_std=deviation
            )
            for arch, deviation in zip(best, noise)
        )
        self.record.random_scores = tuple(evaluator(arch) for arch in self._random(config.random))

    def _random(self, count: int) -> list[Architecture]:
        """Random architectures within the budget."""
        from nas.search.problem import Problem
        from nas.search.samplers.repair import repair

        problem, rng = Problem.build(self.space, self.cost, self.budget), np.random.default_rng(self.config.seed)
        drawn = (self.space.encode(self.space.random(rng)) for _ in range(count))
        return [self.space.decode(repair(problem, codes, rng)) for codes in drawn]

    def choose(self) -> None:
        """Retrain the best few briefly, profile each whole, and choose"""
        from nas.profiling import measure_architectures
        from nas.training import retrain

        candidates = list(self.record.candidates)
        archs = [self.space.architecture(candidate.choices) for candidate in candidates]
        for i, arch in enumerate(archs):
            inputs = replace(self._inputs("supernet"), architecture=arch)
            loss = retrain(self.folder / "checkpoints" / f"retrain-{i}", inputs, self.stages["retrain"])
            candidates[i] = replace(candidates[i], retrained_loss=loss)
        rows = measure_architectures(self.space, archs, self.config.runtime, self.config.device, progress=True)
        measured = [Costs(row.latency_ms, row.memory_mb + row.weights_mb, row.params, row.source) for row in rows]
        best = min(range(len(archs)), key=lambda i: (not self.budget.holds(measured[i]), candidates[i].retrained_loss))
        self.record.candidates = tuple(candidates)
        self.record.choices = archs[best].choices
        self.record.predicted, self.record.measured = candidates[best].predicted, measured[best]
        archs[best].save(self.folder / "architecture.json")

    def finetune(self) -> None:
        """Fine-tune the chosen architecture, all weights, on images and clips"""
        metrics = self._train("finetune", architecture=self.chosen).metrics
        self._add_quality("finetune", metrics["quality"], self.stages["finetune"].judged_clips)

    def adversarial(self) -> None:
        """Adversarial fine-tuning to a few steps, and the control: as much training as before"""
        for model, rows in self._train("adversarial").metrics["quality"].items():
            self._add_quality(model, rows, self.stages["adversarial"].judged_clips)

    def samples(self) -> None:
        """Generate samples after each stage"""
        from nas.runs.previews import write_samples

        config, made = self.config.samples, []
        for model, counts in config.steps.items():
            for steps in counts:
                folder, inputs = self.folder / "samples" / model, self._inputs(model)
                files = write_samples(folder, inputs, self.chosen, config.captions, steps, config.seed)
                gif, mp4 = (str(path.relative_to(self.folder)) for path in files)
                made.append(Sample(model, steps, config.captions, gif, mp4))
        self.record.samples = tuple(made)

    def export(self) -> None:
        """Export the four-step model"""
        from nas.export import FORMATS

        made, checkpoint = [], self.folder / "checkpoints" / "adversarial"
        for name in self.config.formats:
            for path in FORMATS[name](checkpoint, self.folder / "export", table=self.cost.table):
                made.append(Exported(name, str(Path(path).relative_to(self.folder)), round(_size_mb(Path(path)), 3)))
        self.record.exported = tuple(made)

    # -- what the steps share --------------------------------------------------------------------------------------

    @cached_property
    def cost(self) -> CostModel:
        return CostModel(self.space, LookupTable.load(self.folder / "table.csv"))

    @cached_property
    def budget(self) -> Budget:
        """With a bound on the generation time as one on the latency, which a whole model can be held to."""
        return self.cost.resolve_budget(Budget.parse(self.config.budget, self.cost.upper_bounds()))

    @property
    def chosen(self) -> Architecture:
        return self.space.check(Architecture.load(self.folder / "architecture.json"))

    def _train(self, stage: str, **inputs: Any) -> Any:
        from nas.training import run_stage
        from nas.training.recipe import BEFORE

        return run_stage(stage, self._stage(stage), self.stages[stage], replace(self._inputs(BEFORE[stage]), **inputs))

    def _inputs(self, start: str | None) -> Any:
        """What a stage that starts from the finished stage `start` builds on."""
        from nas.training import Inputs
        from nas.training.stage import hash_of

        decoder = self._stage("decoder") if start else None
        begun = self._stage(start) if start and start != "decoder" else None
        return Inputs(
            self.space,
            decoder,
            begun,
            objective=self.objective,
            table=hash_of(self.folder / "table.csv"),
            base=self.base,
        )

    def _stage(self, name: str) -> Path:
        return self.folder / "checkpoints" / name

    def _predicted(self, arch: Architecture) -> Costs:
        cost = self.cost.predict(arch)
        return Costs(cost.latency_ms, cost.memory_mb, cost.params)

    def _add_quality(self, model: str, rows: list[dict[str, Any]], clips: int) -> None:
        kept = tuple(quality for quality in self.record.quality if quality.model != model)
        self.record.quality = kept + tuple(Quality(model, **row, clips=clips) for row in rows)


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
        Job.samples,
        Job.export,
    )
}
"""Every step in order; the first line of its docstring is what a person reads while it runs."""


def _noise(scores: list[list[float]]) -> list[float]:
    """The standard deviation of each architecture's scores over draws of the noise, `(architectures, draws)`.

    A draw moves the scores of all architectures together, which changes no ranking; that part is taken out.
    """
    draws = np.array(scores)
    if len(draws) > 1:
        draws = (draws - draws.mean(axis=0)) * np.sqrt(len(draws) / (len(draws) - 1))
    return [float(deviation) for deviation in draws.std(axis=1, ddof=1)]


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

"""Throughput, experiment loggers, the profiler's trace and the advice when memory runs out."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from nas.cli import main
from nas.diffusion.losses import batch_loss
from nas.errors import ConfigError, MissingDependency, NasError
from nas.models import build
from nas.training import DistillConfig, ExecutionConfig, FinetuneConfig, Inputs, read_history, run_stage
from nas.training.execution import memory_advice
from nas.training.learner import Learner
from nas.training.loop import run
from nas.training.optimization import Optimization
from nas.training.telemetry.loggers import RUN_ID, Loggers, Run
from nas.training.telemetry.throughput import THROUGHPUT, StepTimer, known_peak, long_text, short_text

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Rows:
    """A batch `(B, 3)`."""

    x: Tensor

    def split(self, parts: int) -> list[Rows]:
        return [Rows(x) for x in self.x.chunk(parts)]


def learner(**execution) -> Learner:
    torch.manual_seed(0)
    return Learner(nn.Linear(3, 5), Optimization(lr=0.01), 60, execution=ExecutionConfig(**execution))


def step_of(trained: Learner, dies_at: int | None = None):
    def step(number: int) -> dict[str, float]:
        if number == dies_at:
            raise KeyboardInterrupt
        size = 4 if number % 2 else 2
        return trained.train_step(
            lambda part: trained.module(part.x).square().mean(), Rows(torch.ones(size, 3)), number
        )

    return step


def test_throughput_has_a_row_per_window_that_adds_up(tmp_path, capsys):
    trained = learner(peak_tflops=0.5)
    run("line", tmp_path, 50, {"x": trained}, step_of(trained), save_every=50)
    rows = read_history(tmp_path, THROUGHPUT)
    assert [row["step"] for row in rows] == [20, 40, 50]
    for row in rows:
        parts = [row[f"{name}_s"] for name in ("data", "forward", "backward", "optimizer")]
        assert all(part > 0 for part in parts) and sum(parts) <= row["step_s"] * 1.001
        assert row["clips_per_s"] == pytest.approx(3 / row["step_s"], rel=0.4)  # 2 and 4 by turns, some not timed
        # 2 x 3 x 5 operations forward and, for the weight only, as many backward.
        assert row["tflops"] * 1e12 == pytest.approx(60 * row["clips_per_s"], rel=1e-4)
        assert row["mfu"] == pytest.approx(row["tflops"] / 0.5, rel=1e-4) and row["memory_gb"] > 0.01
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("line: a step takes ")]
    assert "forward" in line and "clips/s" in line and "MFU" in line
    assert "clips_per_s" not in read_history(tmp_path)[0]  # the history is the same however often it is resumed


def test_throughput_of_repeated_steps_is_replaced(tmp_path):
    for dies_at in (35, None):
        trained = learner()
        with contextlib.suppress(KeyboardInterrupt):
            run("line", tmp_path, 50, {"x": trained}, step_of(trained, dies_at), save_every=10)
    assert [row["step"] for row in read_history(tmp_path, THROUGHPUT)] == [20, 40, 50]
    assert math.isnan(read_history(tmp_path, THROUGHPUT)[0]["mfu"])  # no peak is known of a CPU


def test_recomputed_activations_are_not_counted(space):
    """A denoiser with checkpointing has the operations of the one without."""
    shape = space.input_shape()[1:]
    flops = {}
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = build(space, space.architecture({"mid.0/0": "SelfAttention1D"}))
        trained = Learner(model, Optimization(lr=1e-3), 4, execution=ExecutionConfig(checkpointing=checkpointing))
        trained.timer = timer = StepTimer(CPU, None)
        batch = Denoised(torch.ones(2, *shape), torch.ones(2, 16, 384), torch.ones(2, *shape), torch.full((2,), 0.5))
        with timer.step():
            trained.train_step(lambda part, t=trained: batch_loss(t.model, part), batch, 0)
        row = timer.row()
        flops[checkpointing] = row["tflops"] * row["step_s"]
    assert flops[True] == pytest.approx(flops[False], rel=1e-6) and flops[True] > 0


@dataclass(frozen=True)
class Denoised:
    latents: Tensor
    context: Tensor
    noise: Tensor
    t: Tensor

    def split(self, parts: int) -> list[Denoised]:
        return [self]


def test_counting_changes_nothing_and_steps_of_one_shape_are_counted_ever_more_rarely():
    counted, timer = [], StepTimer(CPU, None)
    for _number in range(20):
        with timer.step():
            timer.begin(torch.ones(4, 3))
        counted.append(timer._steps[-1].counted)
    assert [number for number, was in enumerate(counted, 1) if was] == [1, 2, 4, 8, 16]


def test_the_peak_of_known_gpus_depends_on_the_precision():
    assert known_peak("NVIDIA H100 80GB HBM3", "bf16") == 989 and known_peak("NVIDIA H100 80GB HBM3", "fp32") == 494
    assert known_peak("NVIDIA H100 PCIe", "bf16") == 756 and known_peak("NVIDIA A100-SXM4-80GB", "fp16") == 312
    assert known_peak("NVIDIA L40S", "bf16") == 362 and known_peak("Tesla T4", "fp32") == 8.1
    for name in ("NVIDIA L400", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "Another"):
        assert known_peak(name, "bf16") is None


def test_texts_without_a_known_peak():
    row = {"clips_per_s": 12.34, "step_s": 0.5, "data_s": 0.1, "forward_s": 0.2, "backward_s": 0.15, "optimizer_s": 0.0}
    row |= {"tflops": 1.5, "mfu": math.nan, "memory_gb": 3.21}
    assert short_text(row) == "12.3 clips/s, 1.5 TFLOP/s, 3.2 GB"
    assert long_text(row).startswith(
        "a step takes 0.5 s (data 20%, forward 40%, backward 30%, optimizer 0%); 12.3 clips/s"
    )


def test_the_trace_of_a_few_steps_is_written(tmp_path, capsys):
    trained = learner(profile_steps=2)
    run("line", tmp_path, 8, {"x": trained}, step_of(trained), save_every=50)
    (path,) = (tmp_path / "profile").iterdir()
    assert path.name == "step-0000005.json"
    names = [event.get("name", "") for event in json.loads(path.read_text())["traceEvents"]]
    assert sum(name.startswith("Optimizer.step") for name in names) == 2 and "aten::addmm" in names
    assert f"{path}: the trace of 2 steps" in capsys.readouterr().err


def test_the_trace_of_a_run_that_is_shorter(tmp_path):
    trained = learner(profile_steps=5)
    run("line", tmp_path, 3, {"x": trained}, step_of(trained), save_every=50)
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["step-0000003.json"]


def test_tensorboard_has_every_step_once_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first, second = learner(), learner()
    with pytest.raises(KeyboardInterrupt):
        run("a", tmp_path, 40, {"x": first}, step_of(first, 25), save_every=10)
    time.sleep(1.1)  # TensorBoard reads files in the order of their names, and a name's time is in whole seconds
    run("a", tmp_path, 40, {"x": second}, step_of(second), save_every=10)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    history = read_history(tmp_path)
    for column in ("loss", "grad_norm"):
        scalars = events.Scalars(column)
        assert [scalar.step for scalar in scalars] == list(range(1, 41))
        assert [scalar.value for scalar in scalars] == pytest.approx([row[column] for row in history], rel=1e-4)
    assert [scalar.step for scalar in events.Scalars("throughput/clips_per_s")] == [20, 40]


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it fails
    board = Loggers(None, Run(tmp_path, "a", 0))
    board.add(1, {"loss": 1.0})
    board.close()
    assert not list(tmp_path.iterdir())


def test_no_loggers_at_all(tmp_path):
    trained = learner(loggers=())
    run("a", tmp_path, 2, {"x": trained}, step_of(trained), save_every=10)
    assert not (tmp_path / "tensorboard").exists()


class FakeWandb(ModuleType):
    """Weights & Biases: runs by id, in which steps only rise."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: dict[str, SimpleNamespace] = {}

    def init(self, *, project, id, name, dir, config, resume):
        assert resume == "allow" and Path(dir).is_dir()
        run = self.runs.setdefault(id, SimpleNamespace(step=0, rows={}, ended=[], project=project, name=name, id=id))
        run.config = config

        def log(row, step):
            assert step >= run.step
            run.rows.setdefault(step, {}).update(row)
            run.step = step

        run.log, run.finish = log, lambda exit_code: run.ended.append(exit_code)
        return run


def test_wandb_continues_the_same_run_after_a_crash(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    monkeypatch.setenv("WANDB_PROJECT", "clips")
    for dies_at in (25, None):
        trained = learner(loggers=("wandb",))
        with contextlib.suppress(KeyboardInterrupt):
            run("line", tmp_path / "a", 40, {"x": trained}, step_of(trained, dies_at), save_every=10)
    (made,) = fake.runs.values()
    assert (made.project, made.name, made.ended) == ("clips", f"{tmp_path.name}/line", [1, 0])
    assert sorted(made.rows) == list(range(1, 41)) and (tmp_path / "a" / RUN_ID).read_text() == f"{made.id}\n"
    assert [made.rows[row["step"]]["loss"] for row in read_history(tmp_path / "a")] == pytest.approx(
        [row["loss"] for row in read_history(tmp_path / "a")], rel=1e-4
    )
    assert "throughput/clips_per_s" in made.rows[40]
    assert not (tmp_path / "a" / "tensorboard").exists()


class FakeMlflow(ModuleType):
    """MLflow: one experiment, runs with tags, and a client that can fail."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.runs: list[SimpleNamespace] = []
        self.offline, self.experiments = False, {}
        self.entities = SimpleNamespace(Metric=lambda key, value, timestamp, step: (key, step, value))

    def MlflowClient(self):
        return self

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name):
        return self.experiments.setdefault(name, f"{len(self.experiments)}")

    def search_runs(self, experiments, filter_string, max_results):
        key, _, value = filter_string.partition(" = ")
        return [r for r in self.runs if r.tags.get(key.removeprefix("tags.")) == value.strip("'")][:max_results]

    def create_run(self, experiment, tags, run_name):
        info = SimpleNamespace(run_id=f"run-{len(self.runs)}")
        self.runs.append(SimpleNamespace(info=info, tags=tags, params={}, metrics=[], status=["RUNNING"]))
        return self.runs[-1]

    def _of(self, run_id):
        return next(run for run in self.runs if run.info.run_id == run_id)

    def log_param(self, run_id, key, value):
        self._of(run_id).params[key] = value

    def log_batch(self, run_id, metrics):
        if self.offline:
            raise ConnectionError("the server is away")
        self._of(run_id).metrics += metrics

    def update_run(self, run_id, status):
        self._of(run_id).status.append(status)

    def set_terminated(self, run_id, status):
        self._of(run_id).status.append(status)


def test_mlflow_finds_the_run_again_after_a_crash(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", fake := FakeMlflow())
    (tmp_path / "stage.json").write_text(json.dumps({"stage": "line", "config": {"steps": 40}}))
    for dies_at in (25, None):
        trained = learner(loggers=("mlflow", "tensorboard"))
        with contextlib.suppress(KeyboardInterrupt):
            run("line", tmp_path, 40, {"x": trained}, step_of(trained, dies_at), save_every=10)
    (made,) = fake.runs
    assert made.status == ["RUNNING", "FAILED", "RUNNING", "FINISHED"] and made.params["config.steps"] == "40"
    assert {step for key, step, _ in made.metrics if key == "loss"} == set(range(1, 41))
    assert not any(math.isnan(value) for *_, value in made.metrics)
    assert (tmp_path / "tensorboard").exists()


def test_a_logger_that_fails_does_not_end_the_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", fake := FakeMlflow())
    fake.offline = True
    trained = learner(loggers=("mlflow",))
    run("line", tmp_path, 20, {"x": trained}, step_of(trained), save_every=10)
    assert "mlflow: cannot be written and is not updated any more: the server is away" in capsys.readouterr().err
    assert len(read_history(tmp_path)) == 20


@pytest.mark.parametrize(
    ("names", "error", "text"),
    [
        (("wandb",), MissingDependency, "loggers: wandb is not installed; run: pip install wandb"),
        (("wanddb",), ConfigError, "loggers: unknown logger 'wanddb'; did you mean 'wandb'?"),
    ],
)
def test_a_logger_that_is_missing_or_unknown_is_refused(names, error, text, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(error) as caught:
        Loggers(names, Run(tmp_path, "a", 0))
    assert str(caught.value) == text


def test_a_logger_that_refuses_to_start_is_an_error_of_one_line(tmp_path, monkeypatch):
    def nobody(**options):
        raise RuntimeError("api_key not configured (no-tty)\ncall wandb.login()")

    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    fake.init = nobody
    with pytest.raises(
        ConfigError, match=r"^loggers: wandb: api_key not configured \(no-tty\) call wandb.login\(\); log in"
    ):
        Loggers(("wandb",), Run(tmp_path, "a", 0))


def test_the_command_line_names_the_file_and_the_field(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = tmp_path / "recipe.yaml"
    for line, text in (
        ("loggers: [wandb]", "execution.loggers: wandb is not installed"),
        ("loggers: [wandbb]", "execution.loggers: unknown logger 'wandbb'"),
        ("peak_tflops: 0", "peak_tflops: must be above 0"),
        ("profile_steps: -1", "profile_steps: must be"),
    ):
        recipe.write_text(f"space: demo\nexecution: {{{line}}}\n")
        assert main(["train", "decoder", "--config", str(recipe), "--out", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err.strip()
        assert "\n" not in error and str(recipe) in error and text in error


def test_the_advice_when_memory_runs_out_names_options_that_are_left():
    cuda, plain = torch.device("cuda"), ExecutionConfig()
    advice = memory_advice("finetune", FinetuneConfig(), plain, cuda)
    assert advice.startswith(
        "set execution.precision: bf16, or set execution.checkpointing: true, or raise execution.acc"
    )
    assert advice.endswith(", or set execution.optimizer_bits: 8")
    used = replace(plain, precision="bf16", checkpointing=True, accumulate=16, optimizer_bits=8)
    assert memory_advice("finetune", FinetuneConfig(), used, cuda) == "use a device with more memory"
    from nas.training import AdversarialConfig, DecoderConfig

    assert "lower stages.adversarial.batch (now 16)" in memory_advice("adversarial", AdversarialConfig(), used, cuda)
    assert "frames" in memory_advice("decoder", DecoderConfig(), plain, CPU)


@pytest.mark.slow
def test_a_stage_that_runs_out_of_memory_says_so_in_one_line(space, decoder, tmp_path, monkeypatch):
    def refuses(*anything):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Learner, "train_step", refuses)
    config = DistillConfig(steps=2, batch=4, validation=4)
    with pytest.raises(
        NasError, match=r"out of memory; .*execution.checkpointing: true, or raise execution.accumulate"
    ):
        run_stage("distill", tmp_path / "distill", config, Inputs(space, decoder))

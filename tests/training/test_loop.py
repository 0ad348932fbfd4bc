"""The training loop: resuming, kept states, accumulation, divergence and damaged files."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from nas import distributed
from nas.diffusion.seeding import generator
from nas.errors import ConfigError, NasError
from nas.models import safetensors_io
from nas.training.execution import ExecutionConfig
from nas.training.learner import Learner
from nas.training.loop import run
from nas.training.optimization import Optimization
from nas.training.stage import Inputs, run_in_folder
from nas.training.state_folders import share
from nas.training.states import older_states
from nas.training.telemetry.history import read_history


def learner(steps: int = 40, execution: ExecutionConfig | None = None) -> Learner:
    torch.manual_seed(0)
    return Learner(nn.Linear(3, 1), Optimization(lr=0.05, warmup=2), steps, execution=execution)


def step_of(trained: Learner):
    def step(number: int) -> dict[str, float]:
        x = torch.randn(8, 3, generator=generator(0, number))
        loss = (trained.module(x) - x.sum(1, keepdim=True)).square().mean()
        return {"loss": loss.item(), "grad_norm": trained.update(loss, number)}

    return step


def test_an_interrupted_run_ends_where_a_straight_one_does(tmp_path):
    straight, first, second = learner(), learner(), learner()
    run("a", tmp_path / "a", 40, {"x": straight}, step_of(straight), save_every=100)

    def dies(number: int) -> dict[str, float]:
        if number == 25:  # after the state of step 20, with rows up to 25 in the history
            raise KeyboardInterrupt
        return step_of(first)(number)

    with pytest.raises(KeyboardInterrupt):
        run("b", tmp_path / "b", 40, {"x": first}, dies, save_every=10)
    assert len(read_history(tmp_path / "b")) == 25
    run("b", tmp_path / "b", 40, {"x": second}, step_of(second), save_every=10)
    for key, value in straight.state().items():
        assert torch.equal(value, second.state()[key]), key
    assert (tmp_path / "a/history.csv").read_text() == (tmp_path / "b/history.csv").read_text()


def test_an_incomplete_last_row_is_dropped(tmp_path):
    first, second = learner(), learner()
    run("a", tmp_path, 10, {"x": first}, step_of(first), save_every=5)
    with (tmp_path / "history.csv").open("a") as file:
        file.write("11,0.5")
    run("a", tmp_path, 12, {"x": second}, step_of(second), save_every=5)
    assert [row["step"] for row in read_history(tmp_path)] == list(range(1, 13))


def test_training_lowers_the_loss_and_the_ema_weights_follow(tmp_path):
    trained = learner(200)
    run("a", tmp_path, 200, {"x": trained}, step_of(trained), save_every=1000)
    rows = read_history(tmp_path)
    assert rows[-1]["loss"] < 0.01 * rows[0]["loss"]
    assert torch.allclose(trained.ema_state()["weight"], trained.module.weight, atol=0.05)


def test_a_non_finite_step_is_skipped_and_too_many_end_the_run():
    trained = learner()
    before = trained.module.weight.detach().clone()
    assert math.isnan(trained.update(trained.module(torch.full((1, 3), math.nan)).sum(), 0))
    assert torch.equal(before, trained.module.weight)
    trained.update(trained.module(torch.ones(1, 3)).sum(), 1)
    assert not torch.equal(before, trained.module.weight)
    with pytest.raises(NasError, match="no finite gradient"):
        for number in range(30):
            trained.update(trained.module(torch.full((1, 3), math.nan)).sum(), number)


def test_the_state_of_another_model_is_refused(tmp_path):
    trained = learner()
    run("a", tmp_path, 2, {"x": trained}, step_of(trained), save_every=1)
    other = Learner(nn.Linear(4, 1), Optimization(lr=0.1), 4)
    with pytest.raises(ConfigError, match="is the state of another model"):
        run("a", tmp_path, 4, {"x": other}, step_of(trained), save_every=1)


def test_the_newest_states_are_kept_and_an_older_one_can_be_resumed(tmp_path):
    trained = learner(execution=ExecutionConfig(keep=3))
    run("a", tmp_path, 40, {"x": trained}, step_of(trained), save_every=5)
    assert [path.name for path in older_states(tmp_path)] == [
        "state-00000030.safetensors",
        "state-00000035.safetensors",
    ]
    end = {key: value.clone() for key, value in trained.state().items()}
    older_states(tmp_path)[0].rename(tmp_path / "state.safetensors")
    again = learner(execution=ExecutionConfig(keep=3))
    seen = []
    run("a", tmp_path, 40, {"x": again}, lambda n: seen.append(n) or step_of(again)(n), save_every=5)
    assert seen == list(range(30, 40))
    assert all(torch.equal(value, again.state()[key]) for key, value in end.items())


@dataclass(frozen=True)
class Rows:
    """Data of the tests here, in as many parts as asked."""

    x: torch.Tensor

    def split(self, parts: int) -> list[Rows]:
        return [Rows(x) for x in self.x.chunk(parts)]


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_take_the_steps_of_the_whole_batch(parts):
    """Same weights, same history, same learning rates: those are counted in steps, not in parts."""
    trained = {n: learner(execution=ExecutionConfig(accumulate=n)) for n in (1, parts)}
    for number in range(20):
        rows = Rows(torch.randn(8, 3, generator=generator(0, number)))
        losses = [
            t.train_step(
                lambda part, t=t: (t.module(part.x) - part.x.sum(1, keepdim=True)).square().mean(), rows, number
            )
            for t in trained.values()
        ]
        assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], abs=1e-6)
    for key, value in trained[1].state().items():
        assert torch.allclose(value, trained[parts].state()[key], atol=1e-6), key
    rates = [t.optimizer.param_groups[0]["lr"] for t in trained.values()]
    assert rates == [trained[1].config.rate(19, 40)] * 2


@pytest.mark.parametrize("lr, steps", [(1e30, 1), (1e30, 6), (1e30, 19)])
def test_a_training_that_diverged_is_an_error_and_nothing_of_it_is_saved(tmp_path, lr, steps):
    """Shorter than the row of bad steps that ends a long one."""
    torch.manual_seed(0)
    trained = Learner(nn.Linear(3, 1), Optimization(lr=lr, warmup=0), steps)

    def step(number: int) -> dict[str, float]:
        row = step_of(trained)(number)
        return row if number + 1 < steps else {**row, "loss": math.nan}

    with pytest.raises(NasError, match=r"'loss' is nan at the last step.*lower the learning rate"):
        run("a", tmp_path, steps, {"x": trained}, step, save_every=100)
    assert not (tmp_path / "state.safetensors").exists()


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    trained = learner()

    def step(number: int) -> dict[str, float]:
        row = step_of(trained)(number)
        if number == 7:
            trained.module.weight.data[0, 0] = math.inf
        return {**row, "loss": 0.0}

    with pytest.raises(NasError, match="NaN or infinity"):
        run("a", tmp_path, 40, {"x": trained}, step, save_every=5)
    assert safetensors_io.metadata(tmp_path / "state.safetensors")["step"] == "5"


def test_a_run_of_which_no_step_was_finite_is_an_error(tmp_path):
    trained = learner(steps=4)

    def step(number: int) -> dict[str, float]:
        return {"loss": 1.0, "grad_norm": trained.update(trained.module(torch.full((1, 3), math.nan)).sum(), number)}

    with pytest.raises(NasError, match="no step of 'x' was finite"):
        run("a", tmp_path, 4, {"x": trained}, step, save_every=100)


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("history.csv", "step,loss\n1,0.5\n2,x\n", r"history\.csv:3"),
        ("history.csv", "step,loss\n1,0.5\n2\n", r"history\.csv:3"),
        ("history.csv", "loss\n1\n", r"history\.csv:2"),
        ("state.safetensors", "torn", "training state"),
    ],
)
def test_a_damaged_file_of_the_folder_is_one_line(tmp_path, name, text, words):
    trained = learner()
    run("a", tmp_path, 5, {"x": trained}, step_of(trained), save_every=5)
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        run("a", tmp_path, 10, {"x": trained}, step_of(trained), save_every=5)


def test_a_state_without_its_step_is_one_line(tmp_path):
    trained = learner()
    safetensors_io.save(
        tmp_path / "state.safetensors", {f"x/{k}": v for k, v in trained.state().items()}, {"step": "many"}
    )
    with pytest.raises(ConfigError, match="state"):
        run("a", tmp_path, 10, {"x": trained}, step_of(trained), save_every=5)


OPTIMIZATIONS = [
    {"lr": math.nan},
    {"lr": math.inf},
    {"lr": -1.0},
    {"clip": 0.0},
    {"ema": 1.5},
    {"betas": (0.5, 1.0)},
    {"betas": (-0.1, 0.9)},
    {"warmup": -1},
    {"weight_decay": math.nan},
]


@pytest.mark.parametrize("fields", OPTIMIZATIONS, ids=str)
def test_an_optimization_out_of_range_is_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        Optimization(**{"lr": 1e-3, **fields})


@dataclass(frozen=True)
class LineConfig:
    """Of the stage here."""

    steps: int
    seed: int = 0


def line_stage(folder, config: LineConfig, inputs: Inputs) -> tuple[dict, float]:
    trained = learner(config.steps, inputs.execution)
    seconds = run("line", folder, config.steps, {"x": trained}, step_of(trained), save_every=4)
    return {"norm": trained.result().weight.norm().item()}, seconds


def test_a_finished_stage_whose_states_were_kept_can_be_extended(space, tmp_path):
    kept = Inputs(space, execution=ExecutionConfig(keep=2))
    first = run_in_folder("line", line_stage, tmp_path / "a", LineConfig(10), kept)
    assert (tmp_path / "a/state.safetensors").exists() and len(older_states(tmp_path / "a")) == 1
    assert run_in_folder("line", line_stage, tmp_path / "a", LineConfig(10), kept) == first
    with pytest.raises(ConfigError, match=r"another config.seed \(0, now 1\)"):
        run_in_folder("line", line_stage, tmp_path / "a", LineConfig(20, seed=1), kept)
    assert (tmp_path / "a/result.json").exists()
    more = run_in_folder("line", line_stage, tmp_path / "a", LineConfig(20), kept)
    assert more.metrics != first.metrics
    assert [row["step"] for row in read_history(tmp_path / "a")] == list(range(1, 21))
    with pytest.raises(ConfigError, match=r"another config.steps \(20, now 10\)"):
        run_in_folder("line", line_stage, tmp_path / "a", LineConfig(10), kept)


def test_a_finished_stage_without_its_state_or_with_encoded_data_cannot_be_extended(space, tmp_path):
    for name, keep, reason in (("line", 1, "set execution.keep above 1"), ("decoder", 2, "have to be encoded again")):
        inputs = Inputs(space, execution=ExecutionConfig(keep=keep))
        first = run_in_folder(name, line_stage, tmp_path / name, LineConfig(4), inputs)
        assert (tmp_path / name / "state.safetensors").exists() == (keep > 1)
        with pytest.raises(ConfigError, match=f"finished its 4 steps and cannot be extended to 5: .*{reason}"):
            run_in_folder(name, line_stage, tmp_path / name, LineConfig(5), inputs)
        assert run_in_folder(name, line_stage, tmp_path / name, LineConfig(4), inputs) == first


def test_only_the_first_worker_keeps_the_weights_of_the_checkpoint(monkeypatch):
    trained = learner()
    assert "weight" in trained.ema_state()
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert trained.ema_state() == {}


def test_each_worker_writes_an_equal_part_of_what_all_hold(monkeypatch):
    state = {f"w{number}": torch.zeros(size) for number, size in enumerate((40, 30, 20, 10, 20, 25, 15, 5, 35))}
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    parts = []
    for worker in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda worker=worker: worker)
        parts.append(share(state))
    assert sorted([*parts[0], *parts[1]]) == sorted(state)
    assert [sum(value.numel() for value in part.values()) for part in parts] == [
        85,
        115,
    ]  # of 200, the largest being 40


def test_a_state_with_other_weights_besides_is_refused(tmp_path):
    trained = learner()
    state = {f"x/{name}": value for name, value in trained.state().items()}
    state["x/weights.more"] = torch.zeros(1)
    safetensors_io.save(tmp_path / "state.safetensors", state, {"step": "1", "seconds": "1"})
    with pytest.raises(ConfigError, match=r"is the state of another model .*more"):
        run("a", tmp_path, 10, {"x": trained}, step_of(trained), save_every=5)

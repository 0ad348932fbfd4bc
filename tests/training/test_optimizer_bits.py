"""AdamW with moments in 8 bits: learns as in 32, takes a quarter of the memory, and resumes exactly."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.training import states
from nas.training.execution import ExecutionConfig
from nas.training.learner import Learner
from nas.training.optimization import Optimization

pytest.importorskip("torchao")
TARGET = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) / 8


@dataclass
class Rows:
    values: Tensor

    def split(self, parts: int) -> list[Rows]:
        return [self]


def learner(bits: int) -> Learner:
    torch.manual_seed(0)
    module = nn.Linear(64, 64, bias=False)  # 8 bits begin at 4096 values
    return Learner(module, Optimization(lr=1e-2, warmup=0), 40, execution=ExecutionConfig(optimizer_bits=bits))


def train(learner: Learner, steps: range) -> list[float]:
    def loss(rows: Rows) -> Tensor:
        return (learner.model(rows.values) - rows.values @ TARGET).square().mean()

    draws = (torch.randn(32, 64, generator=torch.Generator().manual_seed(step)) for step in steps)
    return [learner.train_step(loss, Rows(values), step)["loss"] for step, values in zip(steps, draws)]


def moment_bytes(learner: Learner) -> int:
    return sum(value.nbytes for name, value in learner.state().items() if name.startswith("exp_avg"))


@pytest.mark.slow
def test_eight_bits_learn_as_32_do_and_resume_where_they_were(tmp_path):
    whole, small = learner(32), learner(8)
    expected, losses = train(whole, range(40)), train(small, range(20))
    assert moment_bytes(small) < 0.3 * moment_bytes(whole)
    with states.StateWriter(tmp_path, {"model": small}) as writer:
        writer.save(20, 1.0)
    resumed = learner(8)
    assert states.restore(tmp_path, {"model": resumed}) == (20, 1.0)
    rest = train(small, range(20, 40))
    assert train(resumed, range(20, 40)) == rest
    assert expected[-1] < 0.2 * expected[0]
    assert losses + rest == pytest.approx(expected, rel=0.1)
    assert losses != expected[:20]
    with pytest.raises(ConfigError, match=r"optimizer_bits: the saved state has moments in 8 bits; set it to 8"):
        states.restore(tmp_path, {"model": learner(32)})


def test_other_numbers_of_bits_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="optimizer_bits: must be 8 or 32, not 4"):
        ExecutionConfig(optimizer_bits=4)
    with pytest.raises(ConfigError, match="optimizer_bits: 8 does not work with 'shard: true'"):
        ExecutionConfig(optimizer_bits=8, shard=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="optimizer_bits: 8 needs torchao"):
        ExecutionConfig(optimizer_bits=8).check(torch.device("cpu"))

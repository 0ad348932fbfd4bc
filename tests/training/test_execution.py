"""Gradient accumulation, activation checkpointing and half precision give the same gradients."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch

import nas
from nas import distributed
from nas.data.batches import Batch
from nas.diffusion.losses import batch_loss
from nas.diffusion.schedules import logit_normal
from nas.diffusion.seeding import generator
from nas.errors import ConfigError
from nas.models.layers import attend, attend_explicitly
from nas.training.execution import ExecutionConfig, allow_tf32, blocks, checkpoint_blocks
from nas.training.learner import Learner
from nas.training.optimization import Optimization
from nas.training.stage import Inputs, run_in_folder

CPU, CONFIG = torch.device("cpu"), Optimization(lr=1.0)


def denoiser(space: nas.SearchSpace, seed: int = 0) -> nas.models.Denoiser:
    """With temporal layers that do something: their outputs are not zero."""
    torch.manual_seed(seed)
    model = nas.models.build(space, space.architecture({"down.0.0/0": "Conv1D", "up.1.1/0": "SelfAttention1D"}))
    for parameter in model.temporal.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def batch(space: nas.SearchSpace, size: int = 4) -> Batch:
    stream = generator(1, size)
    shape = (size, *space.input_shape()[1:])
    x, noise = (torch.randn(shape, generator=stream) for _ in range(2))
    context = torch.randn(size, *space.context_shape()[1:], generator=stream)
    return Batch(x, context, noise, logit_normal(size, stream))


def gradients(model: torch.nn.Module, data: Batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    batch_loss(model, data).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_checkpointed_blocks_give_the_same_gradients(space):
    plain, again = denoiser(space), denoiser(space)
    names = list(again.state_dict())
    checkpoint_blocks(again)
    assert len(list(blocks(again))) > 10 and list(again.state_dict()) == names
    expected, got = gradients(plain, batch(space)), gradients(again, batch(space))
    assert expected.keys() == got.keys()
    assert all(torch.allclose(value, got[name], rtol=1e-5, atol=1e-7) for name, value in expected.items())


def test_checkpointing_keeps_less_for_the_backward_pass(space):
    """Bytes of the tensors that autograd saves, each counted once."""

    def saved_bytes(model: torch.nn.Module) -> int:
        kept = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # alive, so that no address returns
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = batch_loss(model, batch(space))
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        del loss
        return sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in weights)

    plain, again = denoiser(space), denoiser(space)
    checkpoint_blocks(again)
    assert saved_bytes(again) < 0.5 * saved_bytes(plain)


def test_accumulated_gradients_are_the_whole_batchs(space):
    got = {}
    for parts in (1, 2, 4):
        learner = Learner(denoiser(space), Optimization(lr=1e-3), 10, execution=ExecutionConfig(accumulate=parts))
        row = learner.train_step(lambda part: batch_loss(learner.model, part), batch(space), 0)  # noqa: B023
        got[parts] = row, {name: p.grad for name, p in learner.module.named_parameters() if p.grad is not None}
    for parts in (2, 4):
        assert got[parts][0] == pytest.approx(got[1][0], rel=1e-6)
        assert all(torch.allclose(value, got[parts][1][name], atol=1e-6) for name, value in got[1][1].items())
    with pytest.raises(ConfigError, match="4 clips cannot be accumulated in 3 equal parts"):
        batch(space).split(3)


def test_bf16_runs_the_layers_in_half_precision_and_learns_the_same(space):
    """The path that a GPU takes, on this machine's bf16: float32 weights and loss, bf16 inside."""
    seen = {}
    learners = {
        name: Learner(denoiser(space), Optimization(lr=1e-3), 10, execution=ExecutionConfig(precision=name))
        for name in ("fp32", "bf16")
    }
    losses = {}
    for name, learner in learners.items():
        learner.module.conv_in.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out.dtype}))
        losses[name] = [
            learner.train_step(lambda part, t=learner: batch_loss(t.model, part), batch(space), step)["loss"]
            for step in range(5)
        ]
    assert seen == {"fp32": torch.float32, "bf16": torch.bfloat16}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)
    assert all(p.dtype == torch.float32 for p in learners["bf16"].parameters)


def test_what_a_device_cannot_compute_is_refused():
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        ExecutionConfig(precision="fp16").autocast(CPU)
    with pytest.raises(ConfigError, match="unknown precision 'fp8'"):
        ExecutionConfig(precision="fp8")
    with pytest.raises(ConfigError, match="accumulate: must be at least 1"):
        ExecutionConfig(accumulate=0)


def test_bf16_is_refused_on_a_gpu_that_emulates_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(ConfigError, match="does not support bf16, it can only emulate it; use fp16"):
        ExecutionConfig(precision="bf16").check(torch.device("cuda", 0))
    ExecutionConfig(precision="fp16").check(torch.device("cuda", 0))


def test_a_gpu_computes_in_tf32_and_the_cpu_as_before():
    before = torch.get_float32_matmul_precision()
    try:
        allow_tf32(CPU)
        assert torch.get_float32_matmul_precision() == before == "highest"
        allow_tf32(torch.device("cuda", 0))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gpu", "unknown device 'gpu'; give cpu, cuda, cuda:1 or mps"),
        ("cuda", "'cuda': this machine has none"),
        ("cuda:3", "'cuda:3': this machine has none"),
        ("meta", "'meta': this machine has none"),
        ("", "unknown device ''"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(name, reason, space, tmp_path):
    for use in (
        lambda: run_in_folder("x", lambda *_: ({}, 0.0), tmp_path, CONFIG, Inputs(space, execution=ExecutionConfig(device=name))),
        lambda: distributed.find_device(name),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"device: {reason}"):
            use()
    assert distributed.device() == CPU and not list(tmp_path.glob("stage.json"))


def test_attention_that_is_written_out_is_that_of_the_fused_kernel():
    """Forward and backward, at the lengths at which GPUs use it."""
    for length in (2, 8, 32):
        given = [torch.randn(6, length, 12, generator=generator(length, i)).requires_grad_() for i in range(3)]
        again = [value.detach().clone().requires_grad_() for value in given]
        a, b = attend(*given, 3), attend_explicitly(*again, 3)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        for output in (a, b):
            output.square().sum().backward()
        for one, other in zip(given, again):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_the_scaled_loss_of_fp16_takes_the_same_steps_and_its_scale_is_part_of_the_state(space, monkeypatch):
    """The scaler that a GPU needs, run here in float32: only autocast is left out."""
    monkeypatch.setattr(ExecutionConfig, "autocast", lambda self, device: contextlib.nullcontext())

    def learner(precision: str) -> Learner:
        torch.manual_seed(0)
        return Learner(torch.nn.Linear(3, 1), Optimization(lr=0.05), 10, execution=ExecutionConfig(precision=precision))

    def step(trained: Learner, number: int, factor: float = 1.0) -> float:
        x = torch.randn(8, 3, generator=generator(0, number))
        return trained.update(factor * (trained.module(x) - x.sum(1, keepdim=True)).square().mean(), number)

    plain, scaled = learner("fp32"), learner("fp16")
    for number in range(4):
        assert step(plain, number) == pytest.approx(step(scaled, number), rel=1e-5)
    assert torch.allclose(plain.module.weight, scaled.module.weight, atol=1e-6)
    scale, weight = scaled.scaler.get_scale(), scaled.module.weight.detach().clone()
    assert math.isnan(step(scaled, 4, factor=3e38))  # scaled, it overflows
    assert scaled.scaler.get_scale() == scale / 2 and torch.equal(weight, scaled.module.weight)
    again = learner("fp16")
    saved = {name: value.clone() for name, value in scaled.state().items()}
    again.load(saved, lambda tensors: [tensor.copy_(saved[name]) for name, tensor in tensors.items()])
    assert again.scaler.get_scale() == scale / 2
    assert step(again, 5) == step(scaled, 5)

"""`torch.compile`: no graph breaks in what is trained, and `execution.compile` computes the same steps.

The backend is `eager`: these tests are of the graphs that are captured; what the compiler makes of a graph is its own
affair.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

import nas
from nas.data.batches import Batch
from nas.diffusion.losses import batch_loss
from nas.diffusion.seeding import generator
from nas.models import Autoencoder, Discriminator, Supernet, VAEConfig, build
from nas.training.execution import ExecutionConfig, compile_blocks
from nas.training.learner import Learner
from nas.training.optimization import Optimization

pytestmark = pytest.mark.slow

CHOICES = {"down.0.0/0": "Conv3D", "down.1.0/0": "SelfAttention1D", "mid.0/0": "CrossAttention3D", "up.0.0/0": "Conv1D"}


@pytest.fixture(autouse=True)
def graphs_only(monkeypatch):
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    yield
    torch._dynamo.reset()


def denoiser(space: nas.SearchSpace) -> nas.models.Denoiser:
    torch.manual_seed(0)
    model = build(space, space.architecture(CHOICES))
    for parameter in model.temporal.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def batch(space: nas.SearchSpace, frames: int | None = None) -> Batch:
    stream, shape = generator(1), list(space.input_shape())
    shape[0], shape[2] = 2, frames or shape[2]
    x, noise = (torch.randn(shape, generator=stream) for _ in range(2))
    context = torch.randn(2, *space.context_shape()[1:], generator=stream)
    return Batch(x, context, noise, torch.tensor([0.3, 0.8]))


def test_the_discriminator_has_no_graph_break(space):
    discriminator, data = Discriminator(denoiser(space)), batch(space)
    given = data.latents, 1000 * data.t, data.context
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(discriminator)(*given), discriminator(*given))


@pytest.mark.parametrize("temporal_compression", [1, 4])
def test_the_autoencoder_has_no_graph_break(temporal_compression):
    torch.manual_seed(0)
    config = VAEConfig((8, 8, 16), image_channels=1, norm_groups=4, temporal_compression=temporal_compression)
    autoencoder = Autoencoder(config)
    clip = torch.randn(1, 1, 1 + temporal_compression, 8, 8)
    with torch.no_grad():
        mean, log_variance = torch.compile(autoencoder.encode_moments)(clip)
        for one, other in zip((mean, log_variance), autoencoder.encode_moments(clip)):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(torch.compile(autoencoder.decode_unscaled)(mean), autoencoder.decode_unscaled(mean))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_take_the_same_steps_on_clips_and_images(space, checkpointing):
    losses = {}
    for compiled in (False, True):
        execution = ExecutionConfig(compile=compiled, checkpointing=checkpointing)
        learner = Learner(denoiser(space), Optimization(lr=1e-2), 10, execution=execution)
        losses[compiled] = [
            learner.train_step(lambda part, t=learner: batch_loss(t.model, part), batch(space, frames), step)["loss"]
            for step, frames in enumerate((None, 1, None, 1))
        ]
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert counters["stats"]["unique_graphs"] >= len(CHOICES)
    assert not counters["graph_break"] and not counters["frames"]["skipped"]


def test_a_supernet_is_not_compiled_again_for_every_path(space):
    torch.manual_seed(0)
    supernet, data = Supernet(space), batch(space)
    compile_blocks(supernet)
    slots = list(space.slots)
    paths = [space.architecture({slot: "Conv1D"}) for slot in slots[:3]] + [
        space.architecture({slot: "SelfAttention1D"}) for slot in slots[:3]
    ]

    def loss(arch: nas.Architecture) -> float:
        return batch_loss(supernet, data, arch).item()

    first = [loss(arch) for arch in paths]
    compiled = counters["stats"]["unique_graphs"]
    both = space.architecture({slots[0]: "Conv1D", slots[1]: "SelfAttention1D", slots[2]: "Conv1D"})
    loss(both)  # a path that is new, of blocks that are not
    assert [loss(arch) for arch in paths] == first
    assert counters["stats"]["unique_graphs"] == compiled > 0


def test_blocks_are_compiled_for_fixed_shapes(space, monkeypatch):
    """The default backend fails on the backward pass of a `SpatialTransformer` of dynamic shapes (torch 2.13)."""
    inputs = []

    def backend(graph, given):
        inputs.extend(given)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile.func, backend=backend))
    model = denoiser(space)
    compile_blocks(model)
    for frames in (None, 1):
        batch_loss(model, batch(space, frames))
    assert inputs and not [value for value in inputs if isinstance(value, torch.SymInt)]

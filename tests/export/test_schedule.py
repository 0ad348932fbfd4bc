"""The sampling steps in `export.json` reproduce the sampler."""

import dataclasses

import pytest
import torch

from nas import checkpoint
from nas.diffusion.predictions import Objective
from nas.diffusion.sampling import generate
from nas.diffusion.seeding import generator
from nas.export.schedule import sampling


@pytest.mark.parametrize("sampler", ["euler", "renoise"])
@pytest.mark.parametrize("prediction", ["flow", "epsilon", "v"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_steps_reproduce_the_sampler(tiny_checkpoint, sampler, prediction, guidance):
    loaded = checkpoint.load(tiny_checkpoint)
    shift = 2.0 if prediction == "flow" else 1.0
    loaded.denoiser.objective = Objective(prediction, shift=shift)
    info = dataclasses.replace(loaded.info, sampler=sampler, guidance=guidance, steps=3)
    loaded = dataclasses.replace(loaded, info=info)
    shape = loaded.space.input_shape()
    context, empty = torch.randn(1, 8, 32), torch.randn(1, 8, 32)
    expected = generate(loaded.denoiser, context, empty, shape[1:], 3, guidance, sampler, seed=5)

    plan = sampling(loaded)
    x = plan.initial_scale * torch.randn(shape[1:], generator=generator(5, 0))[None]
    stream = generator(5, 0, 3)
    for step in plan.steps:
        scaled, t = step.input_scale * x, torch.tensor([step.timestep])
        with torch.no_grad():
            predicted = loaded.denoiser(scaled, t, context)
            if guidance != 1:
                without = loaded.denoiser(scaled, t, empty)
                predicted = without + guidance * (predicted - without)
        x = step.keep * x + step.add * predicted
        if sampler == "renoise":
            x = x + step.noise * torch.randn(shape, generator=stream)
    assert torch.allclose(x, expected, atol=1e-4 * expected.abs().max().item())

from __future__ import annotations

import torch

from nas.diffusion.losses import flow_loss, validation_loss
from nas.diffusion.predictions import add_noise, guided_velocity_fn, per_clip, predict_x0
from nas.diffusion.sampling import sample_euler, sample_renoise
from nas.diffusion.schedules import timesteps
from nas.diffusion.seeding import generator


def test_euler_with_the_true_velocity_of_one_clip_ends_at_the_clip():
    """For data that is a single clip the flow is a straight line: any number of steps lands on it."""
    clip, noise = torch.randn(2, 3, 4, 5, 5), torch.randn(2, 3, 4, 5, 5)

    def velocity(x, t):
        return (x - clip) / per_clip(t)

    for steps in (1, 4, 25):
        end = sample_euler(velocity, noise, timesteps(steps))
        assert torch.allclose(end, clip, atol=1e-4)
        end = sample_renoise(velocity, noise, timesteps(steps), torch.Generator().manual_seed(0))
        assert torch.allclose(end, clip, atol=1e-4)


def test_clean_undoes_noising_with_the_true_velocity():
    x0, noise, t = torch.randn(4, 2, 3, 4, 4), torch.randn(4, 2, 3, 4, 4), torch.rand(4)
    xt = add_noise(x0, noise, t)
    assert torch.allclose(predict_x0(xt, noise - x0, t), x0, atol=1e-5)
    assert flow_loss(lambda x, t: noise - x0, x0, noise, t) == 0


class _Linear(torch.nn.Module):
    """Answers with the first number of its context, and keeps the timesteps it was given."""

    def forward(self, x, timestep, context):
        self.seen = timestep
        return torch.ones_like(x) * context[:, 0, 0].view(-1, 1, 1, 1, 1)


def test_guidance_extrapolates_from_the_empty_caption():
    model, x, t = _Linear(), torch.zeros(2, 1, 1, 1, 1), torch.full((2,), 0.5)
    context, empty = torch.tensor([3.0, 5.0]).view(2, 1, 1), torch.ones(1, 1, 1)
    assert guided_velocity_fn(model, context, empty, 2.0)(x, t).flatten().tolist() == [5.0, 9.0]
    assert guided_velocity_fn(model, context, empty, 1.0)(x, t).flatten().tolist() == [3.0, 5.0]
    assert model.seen.tolist() == [500.0, 500.0]


def test_streams_are_functions_of_their_numbers():
    draws = {tuple(torch.randn(2, generator=generator(a, b)).tolist()) for a in range(20) for b in range(20)}
    assert len(draws) == 400
    again = torch.randn(3, generator=generator(7, 8))
    assert torch.equal(again, torch.randn(3, generator=generator(7, 8)))


def test_validation_loss_is_the_same_whatever_the_batch():
    model, latents, contexts = _Linear(), torch.randn(10, 1, 2, 3, 3), torch.randn(10, 1, 1)
    losses = [validation_loss(model, latents, contexts, batch=batch) for batch in (1, 3, 10)]
    assert max(losses) - min(losses) < 1e-6

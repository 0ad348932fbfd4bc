"""Noise coupled to a teacher's clips, and the game of student and discriminator that is played with them."""

from pathlib import Path

import pytest
import torch

import nas
from nas.models import build
from nas.training import AdversarialConfig
from nas.training.adversarial import Game
from nas.training.batches import Batches
from nas.training.coupling import Coupling


@pytest.fixture
def teacher(space: nas.SearchSpace):
    torch.manual_seed(3)
    model = build(space, space.architecture({"mid.0/0": "SelfAttention1D"}))
    for parameter in model.parameters():  # zero-initialised layers too
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def test_the_clips_are_what_the_teacher_samples_from_that_noise(decoder: Path, teacher, tmp_path: Path):
    batches = Batches(decoder, seed=1, videos=3, images=2, drop=0.0)
    coupling = Coupling(tmp_path, batches, count=2)
    coupling.make(teacher, steps=2, guidance=2.0)
    batch, taught = coupling(3)  # the second batch, again
    assert torch.equal(batch.noise, batches.joint(1).noise)
    again = [
        sampled_by_hand(teacher, batch.noise[i : i + 1], batch.context[i : i + 1], batches.cache.empty)
        for i in range(3)
    ]
    torch.testing.assert_close(taught, torch.cat(again), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(taught, batch.latents)


def sampled_by_hand(teacher, noise, context, empty):
    """Two Euler steps with guidance 2, written out."""
    x = noise
    for t, after in ((1.0, 0.5), (0.5, 0.0)):
        time = torch.full((1,), 1000 * t)
        with torch.no_grad():
            with_text, without = teacher(x, time, context), teacher(x, time, empty)
        x = x + (after - t) * (without + 2 * (with_text - without))
    return x


def test_what_is_made_is_not_made_again(decoder: Path, teacher, tmp_path: Path):
    batches = Batches(decoder, seed=1, videos=2, images=2, drop=0.0)
    Coupling(tmp_path, batches, count=1).make(teacher, steps=2, guidance=1.0)
    (made,) = tmp_path.glob("*.safetensors")
    before = made.stat().st_mtime_ns
    Coupling(tmp_path, batches, count=2).make(teacher, steps=2, guidance=1.0)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2 and made.stat().st_mtime_ns == before


def test_the_heads_learn_to_tell_real_from_generated(decoder: Path, teacher):
    """They once settled at -1 for everything: two kinds of negatives outweighed the real clips."""
    batches = Batches(decoder, seed=1, videos=8, images=2, drop=0.0)
    game = Game(teacher, AdversarialConfig(steps=400, batch=8))
    game.generator.update = lambda loss, step: 0.0  # a generator that stands still
    for step in range(40):
        batch = batches.of_videos(step)
        row = game.step(batch, torch.randn_like(batch.latents), step)
    assert row["real"] > row["fake"] + 0.3
    assert row["real"] > -0.5


def test_images_are_taught_as_clips_are(decoder: Path, teacher, tmp_path: Path):
    coupling = Coupling(tmp_path, Batches(decoder, 1, videos=2, images=3, image_share=0.5, drop=0.0), count=2)
    coupling.make(teacher, steps=1, guidance=1.0)
    assert [coupling(step)[1].shape[::2][:2] for step in (0, 1)] == [(2, 8), (3, 1)]

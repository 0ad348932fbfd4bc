import pytest
import torch

from nas.models import Discriminator, build

CHOICES = {"down.0.0/0": "Conv3D", "down.1.0/0": "SelfAttention1D", "mid.0/0": "Conv1D", "up.0.0/0": "Conv1D"}


@pytest.fixture
def denoiser(space, randomize):
    return randomize(build(space, space.architecture(CHOICES)), 0.1)


@pytest.mark.parametrize("frames", [1, 3])
def test_only_heads_train_and_gradients_reach_the_input(denoiser, inputs, frames):
    discriminator = Discriminator(denoiser)
    x, timestep, text = inputs(frames)
    x.requires_grad_()
    logits = discriminator(x, timestep, text)
    assert logits.shape == (2, 2 * frames)
    logits.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.encoder.parameters())
    silent = {name for name, p in discriminator.heads.named_parameters() if p.grad is None}
    assert all("temporal" in name for name in silent) and (frames == 1) == bool(silent)


def test_the_encoder_is_a_copy_of_down_blocks_and_their_temporal_layers_only(denoiser, inputs):
    discriminator = Discriminator(denoiser)
    x = inputs()
    with torch.no_grad():
        before = discriminator(*x)
        for parameter in denoiser.parameters():
            parameter.zero_()
        assert torch.equal(discriminator(*x), before)
    assert list(discriminator.encoder.temporal) == ["down_0_0_0", "down_1_0_0"]
    names = {name.split(".")[0] for name, _ in discriminator.encoder.named_parameters()}
    assert names == {"conv_in", "time_embedding", "down_blocks", "temporal"}


def test_logits_depend_on_text_through_the_heads_too(denoiser, inputs):
    discriminator = Discriminator(denoiser)
    x, timestep, text = inputs()
    with torch.no_grad():
        mean = discriminator(x, timestep, text)
        assert torch.equal(mean, discriminator(x, timestep, text, pooled=text.mean(1)))
        assert not torch.allclose(mean, discriminator(x, timestep, text, pooled=torch.randn(2, 12)))


def test_frames_are_judged_together(denoiser, inputs, randomize):
    """The temporal attention of a head lets one frame's logit see another frame."""
    discriminator = Discriminator(denoiser)
    randomize(discriminator.heads, 0.2)
    discriminator.encoder.temporal.clear()  # so that only the heads mix frames
    discriminator.encoder._layers_at = {}
    x, timestep, text = inputs()
    changed = x.clone()
    changed[:, :, 2] = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        difference = (discriminator(x, timestep, text) - discriminator(changed, timestep, text)).reshape(2, 2, 3)
    assert (difference[..., 0].abs() > 1e-6).all()

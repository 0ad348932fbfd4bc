import pytest
import torch

from nas.errors import ConfigError
from nas.models import Autoencoder, VAEConfig, decode_chunks

CONFIGS = [
    VAEConfig((32, 64, 64), image_channels=1, scaling_factor=0.7),
    VAEConfig((32, 64), layers_per_block=2, mid_attention=False),
    VAEConfig((16, 24, 32, 32), norm_groups=8, latent_channels=8),
]


def diffusers_autoencoder(config):
    from diffusers import AutoencoderKL

    levels = len(config.channels)
    return AutoencoderKL(
        in_channels=config.image_channels,
        out_channels=config.image_channels,
        block_out_channels=config.channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        mid_block_add_attention=config.mid_attention,
    )


def clip(config, frames=5):
    return torch.rand(2, config.image_channels, frames, 32, 32) * 2 - 1


@pytest.fixture(params=CONFIGS, ids=str)
def config(request):
    return request.param


def test_each_frame_equals_diffusers(config):
    reference, autoencoder = diffusers_autoencoder(config), Autoencoder(config)
    autoencoder.load_image_weights(reference.state_dict())
    video = clip(config)
    with torch.no_grad():
        mean, log_variance = autoencoder.encode_moments(video)
        decoded = autoencoder.decode(mean * config.scaling_factor)
        torch.testing.assert_close(autoencoder.encode(video), mean * config.scaling_factor)
        for t in range(video.shape[2]):
            expected = reference.encode(video[:, :, t]).latent_dist
            torch.testing.assert_close(mean[:, :, t], expected.mean, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(log_variance[:, :, t], expected.logvar, rtol=1e-5, atol=1e-5)
            frame = reference.decode(mean[:, :, t]).sample
            torch.testing.assert_close(decoded[:, :, t], frame, rtol=1e-4, atol=1e-5)


def test_stable_diffusions_autoencoder_loads():
    config = VAEConfig.stable_diffusion()
    with torch.device("meta"):
        state, autoencoder = diffusers_autoencoder(config).state_dict(), Autoencoder(config)
        autoencoder.load_image_weights(state)
    assert config.downsampling == 8
    spatial = {k: v.shape for k, v in autoencoder.state_dict().items() if ".temporal." not in k}
    assert spatial == {k: v.shape for k, v in state.items()}


def test_weights_of_another_autoencoder_are_refused(config):
    other = diffusers_autoencoder(VAEConfig((32,), latent_channels=3))
    with pytest.raises(ConfigError, match="does not match"):
        Autoencoder(config).load_image_weights(other.state_dict())


def test_images_decode_as_before_after_the_temporal_factors_are_trained(config, randomize):
    autoencoder = Autoencoder(config)
    video = clip(config)
    with torch.no_grad():
        latents = autoencoder.encode(video)
        before = autoencoder.decode(latents)
        assert torch.equal(before[:, :, :1], autoencoder.decode(latents[:, :, :1]))
        for parameter in autoencoder.temporal_parameters():
            parameter.normal_(0, 0.02)
        assert not torch.allclose(autoencoder.decode(latents), before, atol=1e-3)
        assert torch.equal(autoencoder.decode(latents[:, :, :1]), before[:, :, :1])


def test_the_temporal_factor_is_a_causal_convolution():
    from nas.models.autoencoder import TemporalConv

    factor = TemporalConv(6)
    torch.nn.init.normal_(factor.conv.weight)
    x = torch.randn(2, 6, 5, 3, 4)
    frames = x.transpose(1, 2).flatten(0, 1)
    got = factor(frames, 5).reshape(2, 5, 6, 3, 4).transpose(1, 2)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 2, 0))
    expected = x + torch.nn.functional.conv3d(padded, factor.conv.weight[..., None])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_training_reaches_every_parameter(config):
    autoencoder = Autoencoder(config)
    video = clip(config, frames=3)
    reconstruction, mean, log_variance = autoencoder(video)
    ((reconstruction - video).square().mean() + (mean.square() + log_variance.exp()).mean()).backward()
    idle = [name for name, p in autoencoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def with_trained_temporal_factors(config):
    autoencoder = Autoencoder(config)
    with torch.no_grad():
        for parameter in autoencoder.temporal_parameters():
            parameter.normal_(0, 0.02)
    return autoencoder


@pytest.mark.parametrize("frames", [1, 2, 4, 9])
def test_chunks_give_the_whole_video(config, frames):
    autoencoder = with_trained_temporal_factors(config)
    latents = torch.randn(1, config.latent_channels, 7, 4, 6)
    pieces = list(decode_chunks(autoencoder, latents, frames))
    assert max(piece.shape[2] for piece in pieces) <= frames
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(pieces, 2), autoencoder.decode(latents), rtol=1e-4, atol=1e-4)


def test_an_image_in_chunks_is_the_image():
    autoencoder = with_trained_temporal_factors(CONFIGS[1])
    latents = torch.randn(1, 4, 1, 4, 4)
    with torch.no_grad():
        assert torch.equal(next(decode_chunks(autoencoder, latents)), autoencoder.decode(latents))


def test_tiles_cover_and_blend():
    """A decoder that only scales latents up has no statistics to differ in: its tiles must join without a seam."""
    autoencoder = with_trained_temporal_factors(VAEConfig((32, 64), mid_attention=False))
    autoencoder.decode_unscaled = lambda chunk, past: chunk[:, :3].repeat_interleave(2, 3).repeat_interleave(2, 4)
    latents = torch.randn(1, 4, 3, 13, 10)
    pieces = torch.cat(list(decode_chunks(autoencoder, latents, frames=2, tile=6, overlap=2)), 2)
    torch.testing.assert_close(pieces, autoencoder.decode_unscaled(latents, None))


def test_tiles_remember_their_own_past():
    autoencoder = with_trained_temporal_factors(VAEConfig((32, 64), mid_attention=False))
    latents = torch.randn(1, 4, 5, 12, 8)
    one, many = (torch.cat(list(decode_chunks(autoencoder, latents, n, tile=8, overlap=4)), 2) for n in (5, 2))
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options, message", [({"frames": 0}, "frames"), ({"tile": 4, "overlap": 4}, "overlap")])
def test_impossible_pieces_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        next(decode_chunks(Autoencoder(CONFIGS[0]), torch.randn(1, 4, 2, 8, 8), **options))


@pytest.mark.parametrize("config", CONFIGS[:2], ids=str, indirect=True)  # with attention and without
def test_the_decoder_exports_with_tensors_of_rank_five_at_most(config):
    class Decode(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.autoencoder = with_trained_temporal_factors(config)

        def forward(self, latents):
            return self.autoencoder.decode(latents)

    module, latents = Decode().eval(), torch.randn(1, config.latent_channels, 3, 4, 4)
    program = torch.export.export(module, (latents,))
    torch.testing.assert_close(program.module()(latents), module(latents))
    nodes = program.run_decompositions({}).graph.nodes
    assert "aten.alias.default" not in {str(node.target) for node in nodes}
    assert max(n.meta["val"].dim() for n in nodes if isinstance(n.meta.get("val"), torch.Tensor)) <= 5

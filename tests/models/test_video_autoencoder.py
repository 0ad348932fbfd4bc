"""Temporal compression: images as before, the first frame alone, and parts of a clip that give the whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import ConfigError
from nas.models import Autoencoder, VAEConfig, decode_chunks, encode_chunks
from nas.models.autoencoder import TemporalDownsampler, TemporalUpsampler, encode_clips, streaming

COMPRESSIONS = (1, 2, 4, 8)


def config(compression: int, **options) -> VAEConfig:
    channels = options.pop("channels", (8, 16, 8, 16)[: max(2, compression.bit_length())])
    return VAEConfig(
        channels, norm_groups=4, temporal_compression=compression, mid_attention=False, image_channels=1, **options
    )


def trained(autoencoder: Autoencoder) -> Autoencoder:
    """With temporal layers that change what they see."""
    torch.manual_seed(1)
    for parameter in autoencoder.temporal_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return autoencoder.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def autoencoders() -> dict[int, Autoencoder]:
    torch.manual_seed(0)
    return {compression: trained(Autoencoder(config(compression))) for compression in COMPRESSIONS}


def clip_of(autoencoder: Autoencoder, latent_frames: int, batch: int = 1) -> torch.Tensor:
    frames = autoencoder.config.pixel_frames(latent_frames)
    return torch.randn(batch, 1, frames, 16, 24)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_shapes_are_those_of_the_configuration(autoencoders, compression):
    autoencoder = autoencoders[compression]
    video = clip_of(autoencoder, 3, batch=2)
    latents = autoencoder.encode(video)
    factor = autoencoder.config.downsampling
    assert latents.shape == (2, 4, 3, 16 // factor, 24 // factor)
    assert autoencoder.decode(latents).shape == video.shape


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(
    "options",
    [{}, {"layers_per_block": 2, "latent_channels": 16}, {"channels": (8, 8, 16, 16, 8), "latent_channels": 128}],
    ids=["small", "deep", "16x"],
)
def test_images_are_those_of_autoencoderkl(compression, options):
    """At T=1 the weights of diffusers' image autoencoder encode and decode as there, whatever the temporal layers are."""
    from tests.models.test_autoencoder import diffusers_autoencoder

    described = config(compression, **options)
    reference, autoencoder = diffusers_autoencoder(described).eval(), Autoencoder(described)
    autoencoder.load_image_weights(reference.state_dict())
    trained(autoencoder)
    image = torch.rand(2, 1, 32, 48) * 2 - 1
    with torch.no_grad():
        expected = reference.encode(image).latent_dist
        mean, log_variance = autoencoder.encode_moments(image[:, :, None])
        torch.testing.assert_close(mean[:, :, 0], expected.mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(log_variance[:, :, 0], expected.logvar, rtol=1e-5, atol=1e-5)
        decoded = autoencoder.decode_unscaled(mean)[:, :, 0]
        torch.testing.assert_close(decoded, reference.decode(mean[:, :, 0]).sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_first_frame_of_a_clip_is_encoded_as_an_image(autoencoders, compression):
    video = clip_of(autoencoders[compression], 3)
    image = autoencoders[compression].encode(video[:, :, :1])
    torch.testing.assert_close(autoencoders[compression].encode(video)[:, :, :1], image, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
def test_untrained_temporal_layers_repeat_frames(compression):
    """A start at which an image decoder's weights decode a still clip."""
    autoencoder = Autoencoder(config(compression)).eval()
    latents = torch.randn(1, 4, 3, 4, 4)
    with torch.no_grad():
        video = autoencoder.decode(latents)
        images = [autoencoder.decode(latents[:, :, t : t + 1]) for t in range(3)]
    expected = torch.cat([images[0], *(image.expand(-1, -1, compression, -1, -1) for image in images[1:])], dim=2)
    torch.testing.assert_close(video, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_no_frame_depends_on_a_later_one(autoencoders, compression):
    autoencoder = autoencoders[compression]
    video = clip_of(autoencoder, 4)
    changed = video.clone()
    changed[:, :, autoencoder.config.pixel_frames(2) :] += 1
    before, after = autoencoder.encode(video), autoencoder.encode(changed)
    torch.testing.assert_close(after[:, :, :2], before[:, :, :2])
    assert not torch.allclose(after[:, :, 2], before[:, :, 2], atol=1e-3)
    shown = autoencoder.config.pixel_frames(2)
    first, second = autoencoder.decode(before), autoencoder.decode(torch.cat([before[:, :, :2], after[:, :, 2:]], 2))
    torch.testing.assert_close(first[:, :, :shown], second[:, :, :shown])
    assert not torch.allclose(first[:, :, shown], second[:, :, shown], atol=1e-3)


@settings(max_examples=30)
@given(st.sampled_from(COMPRESSIONS), st.integers(1, 9), st.integers(1, 9))
def test_parts_give_the_whole(autoencoders, compression, latent_frames, chunk):
    autoencoder = autoencoders[compression]
    torch.manual_seed(latent_frames)
    video = clip_of(autoencoder, latent_frames)
    whole = autoencoder.encode(video)
    parts = list(encode_chunks(autoencoder, video, chunk))
    assert max(part.shape[2] for part in parts) <= chunk and len(parts) == -(-latent_frames // chunk)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=1e-5, atol=1e-5)
    decoded = list(decode_chunks(autoencoder, whole, chunk))
    assert max(part.shape[2] for part in decoded) <= chunk * compression and len(decoded) == len(parts)
    torch.testing.assert_close(torch.cat(decoded, dim=2), autoencoder.decode(whole), rtol=1e-5, atol=1e-5)


@settings(max_examples=30)
@given(st.sampled_from(COMPRESSIONS), st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_parts_of_different_lengths_give_the_whole(autoencoders, compression, lengths):
    autoencoder = autoencoders[compression]
    latents = torch.randn(1, 4, sum(lengths), 2, 3)
    past: dict = {}
    parts = [autoencoder.decode_unscaled(part, past) for part in latents.split(lengths, dim=2)]
    whole = autoencoder.decode_unscaled(latents, {})
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
def test_long_clips_are_encoded_in_parts(autoencoders, compression, monkeypatch):
    autoencoder = autoencoders[compression]
    video, calls = clip_of(autoencoder, 5), []
    whole = autoencoder.encode(video)
    encode = autoencoder.encode_moments
    monkeypatch.setattr(streaming, "MAX_PIXELS", 2 * compression * 16 * 24)
    monkeypatch.setattr(autoencoder, "encode_moments", lambda v, past=None: calls.append(v.shape[2]) or encode(v, past))
    torch.testing.assert_close(encode_clips(autoencoder, video), whole, rtol=1e-5, atol=1e-5)
    assert calls == [1 + compression, 2 * compression, compression]


class LiveTensors(torch.utils._python_dispatch.TorchDispatchMode):
    """The most bytes of tensors that were alive at once among those created inside; views of `given` do not count."""

    def __init__(self, given: torch.Tensor) -> None:
        super().__init__()
        self.live, self.peak = {given.untyped_storage()._cdata: 0}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        import weakref

        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.live:
                    self.live[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.live.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self.live.values()))
        return result


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_memory_does_not_grow_with_the_length(autoencoders, compression, direction):
    autoencoder, peaks = autoencoders[compression], []
    for latent_frames in (4, 32):
        clip = clip_of(autoencoder, latent_frames)
        given, run = (clip, encode_chunks) if direction == "encode" else (autoencoder.encode(clip), decode_chunks)
        with LiveTensors(given) as counter:
            for chunk in run(autoencoder, given, 2):
                del chunk
        peaks.append(counter.peak)
    assert peaks[0] > 0 and peaks[1] <= 1.02 * peaks[0]


@pytest.mark.parametrize(("frames", "compression"), [(2, 2), (8, 4), (16, 8), (6, 4)])
def test_lengths_without_latents_are_refused(autoencoders, frames, compression):
    with pytest.raises(ConfigError, match=rf"{frames} frames: .*1 \+ a multiple of {compression}"):
        autoencoders[compression].encode(torch.zeros(1, 1, frames, 16, 16))
    with pytest.raises(ConfigError, match=rf"{frames} frames"):
        next(encode_chunks(autoencoders[compression], torch.zeros(1, 1, frames, 16, 16)))


def test_a_part_that_does_not_fill_a_latent_is_refused(autoencoders):
    past: dict = {}
    autoencoders[4].encode(torch.zeros(1, 1, 5, 16, 16), past)
    with pytest.raises(ConfigError, match="encodes multiples of 4 frames"):
        autoencoders[4].encode(torch.zeros(1, 1, 3, 16, 16), past)


def test_the_temporal_upsampler_is_a_causal_convolution_to_twice_the_frames():
    layer, x = TemporalUpsampler(3), torch.randn(2, 3, 4, 2, 5)
    torch.nn.init.normal_(layer.conv.weight)
    got = layer(x.transpose(1, 2).flatten(0, 1), 4).reshape(2, 8, 3, 2, 5).transpose(1, 2)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 2, 0))
    earlier, later = torch.nn.functional.conv3d(padded, layer.conv.weight[..., None]).chunk(2, dim=1)
    expected = x.repeat_interleave(2, 2) + torch.stack([earlier, later], 3).flatten(2, 3)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_the_temporal_downsampler_keeps_the_first_frame_and_halves_the_rest():
    layer, x = TemporalDownsampler(3), torch.randn(2, 3, 5, 2, 5)
    torch.nn.init.normal_(layer.conv.weight)
    got = layer(x.transpose(1, 2).flatten(0, 1), 5).reshape(2, 3, 3, 2, 5).transpose(1, 2)
    change = torch.nn.functional.conv3d(x, layer.conv.weight[..., None], stride=(2, 1, 1))
    expected = torch.cat([x[:, :, :1], (x[:, :, 1::2] + x[:, :, 2::2]) / 2 + change], 2)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_training_reaches_every_temporal_layer():
    autoencoder = Autoencoder(config(4))
    video = clip_of(autoencoder, 3)
    rebuilt, mean, log_variance = autoencoder(video)
    ((rebuilt - video).square().mean() + (mean.square() + log_variance.exp()).mean()).backward()
    idle = [name for name, p in autoencoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_training_learns_the_motion_within_a_latent_frame():
    """A growing bar: the error falls below that of the best clip whose frames are equal within each latent frame."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(config(2, channels=(8, 16)))
    video = torch.full((1, 1, 5, 8, 8), -1.0)
    for t in range(5):
        video[0, 0, t, 2:6, t : t + 3] = 1
    pairs = video[:, :, 1:].unflatten(2, (2, 2))
    still = (pairs - pairs.mean(3, keepdim=True)).square().mean()
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        error = (autoencoder.decode_unscaled(autoencoder.encode_moments(video)[0]) - video).square().mean()
        error.backward()
        optimizer.step()
    assert error < still / 2

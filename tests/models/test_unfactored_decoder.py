"""The decoders that the benchmark compares the separable one with are what it says they are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from nas.models import Autoencoder, VAEConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from unfactored import DECODERS, FORMS, UNFACTORED, with_decoder


@pytest.fixture(scope="module")
def image() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(VAEConfig((8, 16, 16), norm_groups=8, mid_attention=False, temporal_compression=4)).eval()


@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_starts_as_the_image_decoder(image, kind):
    latents = torch.randn(2, 4, 4, 4, 4)
    with torch.no_grad():
        images = [image.decode_unscaled(latents[:, :, t : t + 1]) for t in range(4)]
        found = with_decoder(image, kind).decode_unscaled(latents)
        alone = with_decoder(image, kind).decode_unscaled(latents[:, :, :1])
    frames = torch.cat([images[0], *(frame.expand(-1, -1, 4, -1, -1) for frame in images[1:])], dim=2)
    assert torch.allclose(found, frames, atol=1e-5) and torch.allclose(alone, images[0], atol=1e-5)


@pytest.mark.parametrize("kind", UNFACTORED)
def test_both_forms_of_the_unfactored_decoders_are_causal_and_equal(image, kind):
    forms = [with_decoder(image, kind, form) for form in FORMS]
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in forms[0].decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        forms[1].load_state_dict(forms[0].state_dict())
        latents = torch.randn(2, 4, 5, 4, 4)
        found = [autoencoder.decode_unscaled(latents) for autoencoder in forms]
        assert torch.allclose(*found, atol=1e-4)
        later = latents.clone()
        later[:, :, 3:] += 1
        changed = (forms[0].decode_unscaled(later) - found[0]).abs().amax((0, 1, 3, 4))
    shown = image.config.pixel_frames(3)
    assert (changed[:shown] == 0).all() and (changed[shown:] > 0).all()
    assert len(found[0][0, 0].diff(dim=0).abs().amax((1, 2)).nonzero()) == found[0].shape[2] - 1  # no frame is repeated
    separable = list(image.decoder.modules())
    convolutions = [m for m in separable if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    paired = sum(getattr(module, "temporal", None) is not None for module in separable)
    assert len(forms[0].decoder.convolutions) == (len(convolutions) if kind == "full" else paired)

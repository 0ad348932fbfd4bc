"""The decoders that the benchmark compares the separable one with are what it says they are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from nas.models import Autoencoder

PATH = Path(__file__).resolve().parents[2] / "benchmarks/decoder.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("decoder_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def image(benchmark) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(benchmark.CONFIG).eval()


@pytest.mark.parametrize("kind", ["image", "separable", "paired", "full"])
def test_every_decoder_starts_as_the_image_decoder(benchmark, image, kind):
    latents = torch.randn(2, 4, 5, 8, 8)
    with torch.no_grad():
        frames = torch.stack([image.decode_unscaled(latents[:, :, t : t + 1])[:, :, 0] for t in range(5)], dim=2)
        found = benchmark.with_decoder(image, kind).decode_unscaled(latents)
    assert torch.allclose(found, frames, atol=1e-5)


@pytest.mark.parametrize("kind", ["paired", "full"])
def test_both_forms_of_the_unfactored_decoders_are_causal_and_equal(benchmark, image, kind):
    forms = [benchmark.with_decoder(image, kind, form) for form in benchmark.FORMS]
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in forms[0].decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        forms[1].load_state_dict(forms[0].state_dict())
        latents = torch.randn(2, 4, 5, 8, 8)
        found = [autoencoder.decode_unscaled(latents) for autoencoder in forms]
        assert torch.allclose(*found, atol=1e-4)
        later = latents.clone()
        later[:, :, 3:] += 1
        changed = (forms[0].decode_unscaled(later) - found[0]).abs().amax((0, 1, 3, 4))
    assert (changed[:3] == 0).all() and (changed[3:] > 0).all()
    separable = image.decoder
    convolutions = [m for m in separable.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    paired = sum(module.temporal is not None for module in separable.modules() if hasattr(module, "temporal"))
    assert len(forms[0].decoder.convolutions) == (len(convolutions) if kind == "full" else paired)

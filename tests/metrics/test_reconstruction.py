"""PSNR and SSIM against implementations that take the definitions at their word."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas.metrics.reconstruction import Fidelity, reconstruct, ssim
from nas.models import Autoencoder, VAEConfig


def naive_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Of two gray images: window after window, as the paper's equation 13 says; pixels span 2."""
    places = np.arange(11) - 5
    window = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
            found.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(found))


def test_ssim_is_that_of_its_definition():
    drawn = np.random.default_rng(0)
    a = drawn.uniform(-1, 1, (2, 2, 2, 15, 19)).astype(np.float32)
    b = (0.6 * a + drawn.normal(0, 0.2, a.shape)).clip(-1, 1).astype(np.float32)
    found = ssim(torch.from_numpy(a), torch.from_numpy(b))
    expected = [[np.mean([naive_ssim(a[i, c, t], b[i, c, t]) for c in range(2)]) for t in range(2)] for i in range(2)]
    assert found.shape == (2, 2) and np.allclose(found, expected, atol=1e-6)
    assert torch.allclose(ssim(torch.from_numpy(a), torch.from_numpy(a)), torch.ones(2, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="smaller than the window"):
        ssim(torch.zeros(1, 1, 1, 10, 20), torch.zeros(1, 1, 1, 10, 20))


def test_psnr_is_of_all_clips_together_and_clamps_as_a_display_does():
    original = torch.zeros(1, 3, 2, 16, 16)
    fidelity = Fidelity()
    fidelity.add(original + 0.2, original)
    assert fidelity.psnr_db == pytest.approx(20.0, abs=1e-4)  # (2 / 0.2)^2 is 20 dB
    fidelity.add(original, original)
    assert fidelity.psnr_db == pytest.approx(20 + 10 * np.log10(2), abs=1e-4)
    bright = Fidelity()
    bright.add(original + 1.5, original + 1)
    assert bright.squares == 0


def test_the_psnr_of_differences_sees_flicker_but_no_constant_error():
    original = torch.rand(1, 3, 4, 16, 16) - 0.5
    constant, flicker = Fidelity(), Fidelity()
    constant.add(original + 0.2, original)
    flicker.add(original + 0.1 * torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 4, 1, 1), original)
    assert constant.difference_psnr_db > 100
    assert flicker.difference_psnr_db == pytest.approx(20.0, abs=1e-3)  # the changes are wrong by 0.2
    image = Fidelity()
    image.add(original[:, :, :1] + 0.2, original[:, :, :1])
    assert np.isnan(image.difference_psnr_db) and image.psnr_db == pytest.approx(20.0, abs=1e-3)


def test_a_long_clip_is_reconstructed_in_pieces_with_the_same_result():
    torch.manual_seed(0)
    autoencoder = Autoencoder(VAEConfig((8, 16), norm_groups=8, mid_attention=False)).eval()
    for parameter in autoencoder.temporal_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    video = torch.rand(1, 3, 7, 256, 256) * 2 - 1
    with torch.no_grad():
        whole = autoencoder.decode_unscaled(autoencoder.encode_moments(video)[0])
    assert torch.allclose(reconstruct(autoencoder, video), whole, atol=1e-5)

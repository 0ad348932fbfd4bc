"""The Frechet video distance through a TorchScript network that is called as I3D's is, against scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.errors import ConfigError, MissingDependency
from nas.metrics.fvd import FVD


class Network(nn.Module):
    """Five features of clips `(B, 3, T, H, W)` from 0 to 255; like I3D it needs so many frames."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 5, (10, 4, 4), (1, 4, 4))

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if rescale:
            x = x / 127.5 - 1
        if resize:
            x = F.interpolate(x, size=[x.shape[2], 16, 16], mode="trilinear", align_corners=False)
        x = self.conv(x).mean([2, 3, 4])
        return x if return_features else x.softmax(1)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "i3d.pt"
    torch.jit.script(Network()).save(str(path))
    return path


def test_the_distance_is_that_of_scipy_on_the_same_features(network):
    torch.manual_seed(1)
    real, generated = torch.rand(30, 3, 12, 20, 24) * 2 - 1, torch.rand(21, 3, 12, 20, 24) * 1.4 - 1
    module = torch.jit.load(str(network))
    with torch.no_grad():
        a, b = (
            module(((x + 1) * 127.5).round(), rescale=True, resize=True, return_features=True).double().numpy()
            for x in (real, generated)
        )
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)
    distance = FVD(network, batch=4)
    assert distance([real[:7], real[7:]], iter([generated])) == pytest.approx(expected, rel=1e-4)
    assert distance([real], [real]) == pytest.approx(0, abs=1e-6)
    assert expected > 1e-3


def test_gray_clips_are_shown_as_color_ones(network):
    gray = torch.rand(3, 1, 10, 16, 16) * 2 - 1
    distance = FVD(network)
    assert np.allclose(distance.features([gray]), distance.features([gray.expand(-1, 3, -1, -1, -1)]))


def test_mistakes_are_one_line(network, tmp_path):
    with pytest.raises(
        MissingDependency, match=r"nowhere.pt: no such file; .* get i3d_torchscript.pt as described at https"
    ):
        FVD("nowhere.pt")
    (tmp_path / "prose.pt").write_text("no network")
    with pytest.raises(ConfigError, match=r"prose.pt: is not a TorchScript module"):
        FVD(tmp_path / "prose.pt")
    clips = torch.zeros(2, 3, 10, 16, 16)
    with pytest.raises(ConfigError, match="1 generated clip"):
        FVD(network)([clips], [clips[:1]])
    with pytest.raises(ConfigError, match=r"real clips \(2, 3, 8, 16, 16\); I3D needs at least 10 frames") as error:
        FVD(network)([clips[:, :, :8]], [clips])
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="not finite"):
        FVD(network)([clips * np.nan], [clips])

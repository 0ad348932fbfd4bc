import pytest
import torch

import nas

TINY = """
name: tiny
latent: {channels: 4, frames: 3, height: 8, width: 8}
text: {tokens: 5, dim: 12}
backbone: {channels: [16, 32], attention_levels: [1], heads: 4, norm_groups: 8}
depth: 2
operators:
  none:
  SelfAttention1D: {heads: 4}
  SelfAttention3D: {heads: 4}
  Conv1D: {kernel: 3}
  Conv3D: {kernel: 3}
  CrossAttention1D: {heads: 4}
  CrossAttention3D: {heads: 4}
"""


@pytest.fixture(scope="session")
def space(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "tiny.yaml"
    path.write_text(TINY)
    return nas.SearchSpace.load(path)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def randomize():
    """Draw every parameter anew: what is zero-initialized would hide what it multiplies."""

    def draw(module, scale=0.3):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(0, scale)
        return module

    return draw


@pytest.fixture
def inputs(space):
    """`inputs(frames)` -> noisy latents, timesteps, text for two clips of the tiny space."""

    def make(frames=3):
        return torch.randn(2, 4, frames, 8, 8), torch.tensor([17.0, 902.5]), torch.randn(2, 5, 12)

    return make

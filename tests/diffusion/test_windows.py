"""Velocities of clips that are longer than the denoiser's window."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.diffusion.sampling import generate, sample_euler
from nas.diffusion.windows import window_starts, windowed
from nas.errors import ConfigError
from nas.models import build
from nas.spaces import SearchSpace
from tests.support.tiny import SPACE


@given(st.integers(1, 200), st.integers(1, 40))
def test_windows_cover_every_frame_and_overlap_by_half(length, window):
    starts = window_starts(length, window)
    covered = {frame for start in starts for frame in range(start, start + min(window, length))}
    assert covered == set(range(length))
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < step <= max(1, window // 2) for step in steps)


@given(st.integers(1, 40), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_a_denoiser_that_sees_frames_one_by_one_gives_the_same_in_windows(length, window):
    x, t = torch.randn(2, 3, length, 2, 2, dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)

    def velocity(x, t):
        assert x.shape[2] <= window
        return torch.sin(3 * x) * t.reshape(-1, 1, 1, 1, 1)

    expected = torch.sin(3 * x) * t.reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(windowed(velocity, window)(x, t), expected, rtol=1e-12, atol=1e-12)


def borders_and_insides(window: int, length: int, velocity) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences of consecutive frames of a sampled clip: where a window begins or ends, and elsewhere."""
    clip = sample_euler(velocity, torch.zeros(1, 1, length, 1, 1), [1.0, 0.5, 0.0]).flatten()
    difference = clip.diff().abs()
    starts = window_starts(length, window)
    ends = {start - 1 for start in starts if start} | {
        start + window - 1 for start in starts if start + window < length
    }
    at_border = torch.tensor([i in ends for i in range(length - 1)])
    return difference[at_border], difference[~at_border]


def position_in_window(x, t):
    """Stands in for a denoiser whose output depends on a frame's position in its window, and drifts from end to end."""
    return torch.arange(x.shape[2], dtype=x.dtype).reshape(1, 1, -1, 1, 1).expand_as(x) / x.shape[2]


@pytest.mark.parametrize(("window", "length"), [(8, 16), (8, 29), (9, 40), (21, 84)])
def test_no_seam_at_window_borders(window, length):
    borders, insides = borders_and_insides(window, length, windowed(position_in_window, window))
    assert borders.max() <= insides.max() * (1 + 1e-4)

    def abutting(x, t):
        return torch.cat([position_in_window(part, t) for part in x.split(window, dim=2)], dim=2)

    clip = sample_euler(abutting, torch.zeros(1, 1, length, 1, 1), [1.0, 0.5, 0.0]).flatten()
    assert clip.diff().abs().max() > 3 * borders.max(), "windows that do not overlap have seams"


def test_generate_in_windows_equals_generate_up_to_the_window_and_differs_beyond(tmp_path):
    (tmp_path / "tiny.yaml").write_text(SPACE)
    space = SearchSpace.load(tmp_path / "tiny.yaml")
    torch.manual_seed(0)
    (slot,) = space.slots
    denoiser = build(space, space.architecture({slot: "SelfAttention1D"})).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.normal_(0, 0.3)  # a zero-initialized layer would hide the others
    context, empty = torch.randn(1, *space.context_shape()[1:]), torch.zeros(1, *space.context_shape()[1:])
    channels, frames, height, width = space.input_shape()[1:]

    def latents(length, window):
        return generate(denoiser, context, empty, (channels, length, height, width), 2, seed=1, window=window)

    assert torch.equal(latents(frames, frames), latents(frames, None))
    longer = latents(2 * frames, frames)
    assert longer.shape[2] == 2 * frames and torch.isfinite(longer).all()
    assert not torch.allclose(longer, latents(2 * frames, None), rtol=0.05)


def test_a_window_without_frames_is_an_error():
    with pytest.raises(ConfigError, match="window: must be at least 1"):
        windowed(position_in_window, 0)

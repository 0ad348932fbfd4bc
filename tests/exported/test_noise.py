"""The noise of exported pipelines is torch's."""

import numpy as np
import pytest
import torch

from nas.diffusion.seeding import generator
from nas.exported.noise import Generator

SHAPES = [(1,), (3,), (15,), (16,), (17,), (31,), (32,), (33,), (100,), (1, 4, 3, 5, 7), (1, 4, 8, 8, 8), (70_001,)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "numbers", [(0, 0), (7, 0), (-1, 0), (2**31, 5), (2**70 + 3, 0, 4), (123456789, 0, 1)], ids=str
)
def test_matches_torch(shape, numbers):
    expected = torch.randn(shape, generator=generator(*numbers)).numpy()
    values = Generator(*numbers).randn(shape)
    assert values.dtype == np.float32 and values.shape == shape
    np.testing.assert_allclose(values, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "shapes", [((3,), (5,), (16,), (1,)), ((2, 3),) * 4, ((20,), (7,), (20,)), ((1,), (1,), (50,))]
)
def test_consecutive_draws_match_torch(shapes):
    stream, ours = generator(3, 0, 2), Generator(3, 0, 2)
    for shape in shapes:
        np.testing.assert_allclose(
            ours.randn(shape), torch.randn(shape, generator=stream).numpy(), atol=2e-6, rtol=1e-5
        )


def test_many_seeds():
    for seed in range(300):
        expected = torch.randn(64, generator=generator(seed, 0)).numpy()
        np.testing.assert_allclose(Generator(seed, 0).randn((64,)), expected, atol=2e-6, rtol=1e-5)

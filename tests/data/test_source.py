from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nas.data.digits import DIRECTIONS, WORDS, MovingDigits
from nas.data.source import batch_indices


@given(st.integers(0, 5), st.integers(1, 7), st.integers(1, 40))
def test_every_item_is_seen_once_per_epoch(seed, batch, count):
    steps = count  # `batch` whole epochs
    seen = [i for step in range(steps) for i in batch_indices(seed, step, batch, count)]
    epochs = np.array(seen).reshape(batch, count)
    assert (np.sort(epochs, axis=1) == np.arange(count)).all()


def test_a_step_far_into_the_run_needs_no_fast_forward():
    assert batch_indices(3, 10**9, 4, 1000) == batch_indices(3, 10**9, 4, 1000)
    assert batch_indices(3, 10**9, 4, 1000) != batch_indices(4, 10**9, 4, 1000)


def test_test_clips_show_digits_never_trained_on():
    train, test = MovingDigits("train"), MovingDigits("test")
    drawn = {train._digits[0][i].tobytes() for i in range(len(train._digits[0]))}
    assert not any(image.tobytes() in drawn for image in test._digits[0])
    assert train.videos + test.videos == 4 * 1797


def test_digits_move_where_the_caption_says_and_enter_where_they_left():
    source = MovingDigits("test", frames=40)
    for index in range(0, 400, 7):
        sample, (digit, direction) = source.video(index), source.labels(index)
        name = list(DIRECTIONS)[direction]
        assert sample.caption == f"the digit {WORDS[digit]} moves {name}"
        clip = sample.pixels[0]
        assert clip.shape == (40, 32, 32) and clip.min() >= -1 and clip.max() <= 1
        for before, after in itertools.pairwise(clip):
            assert (after == np.roll(before, DIRECTIONS[name], (0, 1))).all()
        assert (clip[32] == clip[0]).all() and not (clip[16] == clip[0]).all()
        (across,) = (clip[0] > -1).any(axis=int(name in ("left", "right"))).nonzero()
        assert np.ptp(across) < 16, "the digit is whole across its path"


def test_an_image_is_a_clip_of_one_frame_whose_caption_says_no_direction():
    sample = MovingDigits().image(5)
    assert sample.pixels.shape == (1, 1, 32, 32)
    assert sample.caption.startswith("the digit ") and "moves" not in sample.caption

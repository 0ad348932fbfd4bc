from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import scipy.linalg
import torch

from nas.errors import NasError
from nas.metrics.digit_classifier import DigitClassifier, DigitEvaluator, load_digit_evaluator
from nas.metrics.fvd import frechet_distance


def test_frechet_distance_agrees_with_scipy_and_is_zero_to_itself():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)), rng.normal(1, 2, size=(150, 6))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_the_evaluator_tells_real_clips_from_wrong_and_broken_ones(decoder):
    evaluator = load_digit_evaluator(decoder, 8, 60)
    clips, labels = evaluator.held_out(200)
    real = evaluator(clips, labels)
    backwards = evaluator(clips.flip(2), labels)
    noisy = evaluator(torch.randn_like(clips), labels)
    assert real.direction_accuracy >= 0.97
    assert backwards.direction_accuracy < 0.1
    assert noisy.frechet > 5 * real.frechet


def test_an_inaccurate_classifier_is_refused():
    with pytest.raises(NasError, match=r"direction of only 0\.\d+ of held-out real clips, 0.97 are needed"):
        DigitEvaluator(DigitClassifier(), frames=8, real=50)


def test_the_evaluator_of_a_file_is_made_once_until_the_file_changes(decoder, tmp_path):
    path = shutil.copy(decoder / "classifier-8x20-0.safetensors", tmp_path)
    evaluator = load_digit_evaluator(tmp_path, 8, 20)
    assert load_digit_evaluator(tmp_path, 8, 20) is evaluator
    os.utime(path, ns=(1, 1))
    again = load_digit_evaluator(tmp_path, 8, 20)
    assert again is not evaluator and torch.equal(again.real, evaluator.real)

"""How exact the scores of a search's candidates are."""

import numpy as np
import pytest

from nas.runs.job import score_deviations


def test_what_moves_all_candidates_together_is_no_noise_of_one():
    rng = np.random.default_rng(0)
    shared, own = rng.normal(0, 1.0, 400), rng.normal(0, 0.01, (3, 400))
    found = score_deviations((shared + own + [[0.1], [0.2], [0.3]]).tolist())
    assert found == pytest.approx([0.01] * 3, rel=0.2)
    assert score_deviations([[1.0, 2.0, 3.0]]) == [1.0]  # of one alone nothing can be told apart

"""Optuna's own conformance suite, run on every sampler of this library."""

import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase

from nas.search import BudgetSampler, EvolutionSampler
from tests.support.instances import make


class TestBudgetSampler(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        space, cost, budget, _ = make(0, 3, 3)
        return lambda: BudgetSampler(space, cost, budget, seed=0)


class TestEvolutionSampler(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        space, cost, budget, _ = make(0, 3, 3)
        return lambda: EvolutionSampler(space, cost, budget, seed=0)

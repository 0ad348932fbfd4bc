"""Optuna's conformance tests and this library's, run on every sampler of this library."""

import pytest

from nas.search import BudgetSampler, EvolutionSampler
from nas.testing.samplers import ArchitectureSamplerTestCase


class TestBudgetSampler(ArchitectureSamplerTestCase):
    trials = 16

    @pytest.fixture
    def make_sampler(self):
        return lambda space, cost, budget, seed: BudgetSampler(space, cost, budget, seed=seed)

    @pytest.fixture
    def make_constrained_sampler(self):
        return lambda space, cost, budget, seed, constraints: BudgetSampler(
            space, cost, budget, seed=seed, constraints=constraints
        )


class TestEvolutionSampler(ArchitectureSamplerTestCase):
    @pytest.fixture
    def make_sampler(self):
        return lambda space, cost, budget, seed: EvolutionSampler(space, cost, budget, seed=seed)

    @pytest.fixture
    def make_constrained_sampler(self):
        return lambda space, cost, budget, seed, constraints: EvolutionSampler(
            space, cost, budget, seed=seed, constraints=constraints
        )

"""Conformance tests for samplers of architectures, and random searches to run them on.

    class TestMySampler(ArchitectureSamplerTestCase):
        @pytest.fixture
        def make_sampler(self):
            return MySampler  # (space, cost, budget, seed) -> optuna.samplers.BaseSampler

        @pytest.fixture
        def make_constrained_sampler(self):
            return MySampler  # (space, cost, budget, seed, constraints) -> optuna.samplers.BaseSampler

Optuna's own `BasicSamplerTestCase`, `RelativeSamplerTestCase` and `MultiObjectiveSamplerTestCase` run as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase

from nas.costs import Budget, CostModel, Costs, DeviceCosts, LookupTable
from nas.search import Constraints, ScoreTable
from nas.search.problem import Pairs
from nas.spaces import Architecture, SearchSpace

MakeSampler = Callable[[SearchSpace, Costs, Budget, int], BaseSampler]
MakeConstrainedSampler = Callable[[SearchSpace, Costs, Budget, int, Constraints], BaseSampler]


@dataclass(frozen=True)
class SearchInstance:
    """A small search whose scores are known.

    Attributes:
        cost: of one device, or of several.
        budget: bounds on latency, memory and parameters, of every device if there are several.
        scores: scores any architecture of the space; higher is better.
    """

    space: SearchSpace
    cost: Costs
    budget: Budget
    scores: ScoreTable
    slots: dict[str, CategoricalDistribution] = field(init=False)

    def __post_init__(self) -> None:
        slots = {slot: CategoricalDistribution(choices) for slot, choices in self.space.slots.items()}
        object.__setattr__(self, "slots", slots)


def random_search_instance(
    seed: int, slots: int, choices: int, share: float = 0.3, pairs: bool = False, devices: int = 0
) -> SearchInstance:
    """A cost-only space with random costs and scores.

    Args:
        choices: per slot, `none` included.
        share: quantile of random architectures' costs at which each bound of the budget lies.
        pairs: whether pairs of successive slots have scores, too.
        devices: number of devices, named d0, d1, ..., each with its own costs and bounds; 0 is one without a name.
    """
    rng = np.random.default_rng(seed)
    names = ["none", *(f"o{number}" for number in range(choices - 1))]
    space = SearchSpace(name="test", slots={f"s{number}": names for number in range(slots)})
    cost: Costs = _random_costs(space, rng)
    if devices:
        cost = DeviceCosts({f"d{number}": _random_costs(space, rng) for number in range(devices)})
    costs = cost.predict_many(rng.integers(choices, size=(4000, slots)))
    bounded = [name for name in costs if not devices or "@" in name]
    budget = Budget.of({name: max(float(costs[name].quantile(share)), 1e-3) for name in bounded})
    scores = {slot: {choice: float(rng.gamma(2.0)) for choice in names[1:]} for slot in space.slots}
    tables: Pairs = {}
    if pairs:
        for first, second in itertools.pairwise(space.slots):
            tables[first, second] = {(a, b): float(rng.normal()) for a in names for b in names if rng.random() < 0.7}
    return SearchInstance(space, cost, budget, ScoreTable(scores, tables))


def _random_costs(space: SearchSpace, rng: np.random.Generator) -> CostModel:
    rows = [
        {
            "workload": f"{slot}/{choice}",
            "latency_ms": rng.gamma(2.0),
            "memory_mb": 20 * rng.gamma(2.0),
            "weights_mb": rng.gamma(2.0),
            "params": int(1e6 * rng.gamma(2.0)),
        }
        for slot, choices in space.slots.items()
        for choice in choices[1:]
    ]
    return CostModel(space, LookupTable.from_frame(pd.DataFrame(rows)))


class ArchitectureSamplerTestCase(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """What `nas.search.run` expects of a sampler that proposes whole architectures within the budget.

    A subclass defines the fixture `make_sampler`.
    """

    trials = 30
    """Trials per test: more than the sampler's random ones, so that it also proposes from what it has learned."""

    @pytest.fixture
    def make_sampler(self) -> MakeSampler:
        raise NotImplementedError("define the fixture make_sampler: (space, cost, budget, seed) -> sampler")

    @pytest.fixture
    def make_constrained_sampler(self) -> MakeConstrainedSampler:
        pytest.skip("define the fixture make_constrained_sampler: (space, cost, budget, seed, constraints) -> sampler")

    @pytest.fixture
    def sampler(self, make_sampler: MakeSampler) -> Callable[[], BaseSampler]:
        """What Optuna's test cases ask for."""
        small = random_search_instance(0, 3, 3)
        return lambda: make_sampler(small.space, small.cost, small.budget, 0)

    @pytest.fixture
    def instance(self) -> SearchInstance:
        return random_search_instance(0, 5, 4, pairs=True)

    def test_proposals_are_within_the_budget(self, make_sampler: MakeSampler, instance: SearchInstance) -> None:
        for arch in self._proposals(self._study(make_sampler, instance), instance, self.trials):
            assert instance.budget.holds(instance.cost.predict(arch)), f"{arch} is over {instance.budget}"

    def test_proposals_are_within_the_budget_of_every_device(self, make_sampler: MakeSampler) -> None:
        instance = random_search_instance(1, 5, 4, devices=3)
        for arch in self._proposals(self._study(make_sampler, instance), instance, self.trials):
            cost = instance.cost.predict(arch)
            for name in cost.devices:
                assert instance.budget.on(name).holds(cost.devices[name]), f"{arch} is over {instance.budget}"

    def test_proposals_satisfy_the_constraints(self, make_constrained_sampler: MakeConstrainedSampler) -> None:
        """A fixed choice, an excluded one, and bounds on counts; within the budget as well."""
        instance = random_search_instance(2, 6, 4, share=0.6)
        constraints = Constraints(("s0=o1",), ("s1:o0", "s4|s5:o2"), ("count(o0)<=2", "count(*)>=3", "count(none)=2"))
        sampler = make_constrained_sampler(instance.space, instance.cost, instance.budget, 0, constraints)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for arch in self._proposals(study, instance, self.trials):
            choices = list(arch.choices.values())
            assert instance.budget.holds(instance.cost.predict(arch)), f"{arch} is over {instance.budget}"
            assert choices[0] == "o1" and choices[1] != "o0" and "o2" not in choices[4:]
            assert choices.count("o0") <= 2 and choices.count("none") == 2

    def test_the_seed_determines_the_proposals(self, make_sampler: MakeSampler, instance: SearchInstance) -> None:
        first, again = (self._proposals(self._study(make_sampler, instance), instance, self.trials) for _ in range(2))
        other = self._proposals(self._study(make_sampler, instance, seed=1), instance, self.trials)
        assert first == again
        assert first != other

    def test_a_new_sampler_continues_a_study(self, make_sampler: MakeSampler, instance: SearchInstance) -> None:
        """Proposals depend on the seed, the trial's number and the other trials alone, not on the sampler's state."""
        whole = self._proposals(self._study(make_sampler, instance), instance, self.trials)
        study = self._study(make_sampler, instance)
        parts = []
        for _ in range(self.trials):
            study.sampler = make_sampler(instance.space, instance.cost, instance.budget, 0)
            parts += self._proposals(study, instance, 1)
        assert parts == whole

    def test_running_and_failed_trials_are_accepted(self, make_sampler: MakeSampler, instance: SearchInstance) -> None:
        study = self._study(make_sampler, instance)
        for number in range(self.trials):
            trial = study.ask(instance.slots)
            arch = instance.space.architecture(trial.params)
            assert instance.budget.holds(instance.cost.predict(arch))
            if number % 3 == 0:
                trial.set_user_attr("error", "RuntimeError: out of memory")
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            elif number % 3 == 1:
                study.tell(trial, instance.scores(arch))

    def test_an_exhausted_space_is_proposed_again(self, make_sampler: MakeSampler) -> None:
        tiny = random_search_instance(1, 2, 2, share=1.0)
        assert len(self._proposals(self._study(make_sampler, tiny), tiny, 8)) == 8

    def _study(self, make_sampler: MakeSampler, instance: SearchInstance, seed: int = 0) -> optuna.Study:
        sampler = make_sampler(instance.space, instance.cost, instance.budget, seed)
        return optuna.create_study(direction="maximize", sampler=sampler)

    def _proposals(self, study: optuna.Study, instance: SearchInstance, count: int) -> list[Architecture]:
        """Ask for so many architectures, one after the other, and tell their scores."""
        proposals = []
        for _ in range(count):
            trial = study.ask(instance.slots)
            arch = instance.space.architecture(trial.params)
            study.tell(trial, instance.scores(arch))
            proposals.append(arch)
        return proposals

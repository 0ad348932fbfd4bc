"""Searches whose optimum is known: 24 slots x 7 choices, tight budgets on latency, peak memory and parameters at once.

Costs are those of a UNet's 12 sites with two slots each (`none` and six operators; arithmetic and memory traffic with 15%
spread), or Gamma-distributed without any structure where a family says so. The budgets are met by 1.6% of random
architectures. Every random number comes from the family and the seed.

`BENCHMARK` is what docs/benchmarks/search.md compares samplers on. `TUNING` are the families that the sampler's settings
were chosen on, with seeds from 1000; `HELD_OUT` were looked at afterwards only, as were seeds from 2000 of every family.
The same holds for the families with links between slots, `TUNING_LINKS` and `HELD_OUT_LINKS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nas.costs import Budget, CostModel, LookupTable
from nas.search import optimum
from nas.search.problem import Pairs, Problem, Scores
from nas.search.samplers.local_search import LocalSearch
from nas.search.samplers.repair import repair
from nas.spaces import Backbone, Latent, Operator, SearchSpace, Text
from nas.spaces.topology import linked_sites

OPERATORS = ("SelfAttention1D", "SelfAttention3D", "Conv1D", "Conv3D", "CrossAttention1D", "CrossAttention3D")
CHOICES = ("none", *OPERATORS)
WIDTHS, SIDES, FRAMES = (256, 512, 1024, 1152), (64, 32, 16, 8), 8
LEVELS = (0, 1, 2, 3, 3, 3, 2, 2, 1, 1, 0, 0)  # of the 12 sites, in order
SLOTS = 2 * len(LEVELS)

BENCHMARK = ("additive", "pairwise", "noisy")
TUNING = ("plain", "independent", "neighbors", "everywhere")
HELD_OUT = ("embedded", "redundant", "rugged")
TUNING_LINKS = ("skips", "unet_skips", "chain_only", "elsewhere")
HELD_OUT_LINKS = ("own_skips", "strong_skips", "only_skips", "deep_skips", "no_pairs")
LINKED = (*TUNING_LINKS, *HELD_OUT_LINKS)
FAMILIES = (*BENCHMARK, *TUNING, *HELD_OUT, *LINKED)
NOISY = ("noisy", "neighbors", "everywhere", "embedded", "redundant", "rugged", *LINKED)
"""Families whose scores are seen through noise of 1% of the optimum."""

CLIMBS = 300
"""Local searches that stand in for a proof where HiGHS has none within its time."""


Quality = Callable[[SearchSpace, np.random.Generator], tuple[Scores, Pairs]]
"""What makes the scores of a space."""


@dataclass(frozen=True)
class Instance:
    """A search whose optimum is known.

    Attributes:
        scores, pairs: the true score before saturation.
        saturation: s in `1 - exp(-sum / s)`; infinite for a plain sum.
        noise: standard deviation of what an evaluation adds, as a share of the optimum.
        best: the true score of the optimum.
        proved: by the exact solver; else the best of `CLIMBS` local searches.
    """

    space: SearchSpace
    cost: CostModel
    budget: Budget
    scores: Scores
    pairs: Pairs
    saturation: float
    noise: float
    best: float
    proved: bool

    def true(self, choices: dict[str, str]) -> float:
        total = sum(self.scores[slot][choice] for slot, choice in choices.items())
        total += sum(table.get((choices[a], choices[b]), 0.0) for (a, b), table in self.pairs.items())
        return saturated(total, self.saturation)


def saturated(total: float, s: float) -> float:
    return total if np.isinf(s) else 1.0 - float(np.exp(-total / s))


def make_instance(family: str, seed: int, time_limit_s: float = 120.0) -> Instance:
    """An instance of one of `FAMILIES`, with its optimum.

    - `additive`: what each layer adds, with diminishing returns: the second slot of a site adds less, and the total
      saturates, `1 - exp(-sum / s)`; its optimum is that of the sum;
    - `pairwise`, `noisy`: the sum, plus pairs of operators in neighboring slots, half of it alike everywhere;
    - `plain`: `additive` without the saturation;
    - `independent`: additive, costs and scores without structure;
    - `neighbors`, `everywhere`: pairs of neighboring slots, or of all slots, each with numbers of its own;
    - `embedded`: a pair's number is the product of two vectors of 3 numbers, falling off with distance;
    - `redundant`: the same operator again within three slots loses up to half of its score; two kinds of attention at one
      site, or a convolution after attention, gain;
    - `rugged`: costs without structure, scores as in `neighbors` but with pairs as strong as the layers.

    In the others the space has links, between the slots that lie equally far from both ends unless stated otherwise:

    - `skips`: as `noisy`, but with pairs of linked slots as well;
    - `unet_skips`: the links are those of a UNet with these sites, each slot at the one end with each at the other;
    - `own_skips`: as `skips`, with numbers of its own for every pair; `strong_skips`: pairs of linked slots are twice as
      strong as those of neighbors; `only_skips`: there are none of neighbors;
    - `deep_skips`: a UNet with two blocks a level and one slot at each of its 21 sites, and its own links;
    - `chain_only`, `no_pairs`, `elsewhere`: nothing happens across the links. There are pairs of neighbors only, none
      at all, or pairs of neighbors and as many of other slots as there are links.
    """
    rng = np.random.default_rng([FAMILIES.index(family), seed])
    space, cost = COSTS.get(family, costs)(rng)
    if family in LINKED and space.backbone is None:
        links = unet_links(space) if family == "unet_skips" else mirrored_links(space)
        space = SearchSpace(name=space.name, slots=space.slots, links=links)
        cost = CostModel(space, cost.table)
    budget = tight_budget(space, cost, rng)
    scores, pairs = QUALITY[family](space, rng)
    best, proved = known_optimum(space, cost, scores, pairs, budget, time_limit_s)
    saturation = best / 1.5 if family == "additive" else np.inf
    noise = 0.01 if family in NOISY else 0.0
    return Instance(space, cost, budget, scores, pairs, saturation, noise, saturated(best, saturation), proved)


def known_optimum(
    space: SearchSpace, cost: CostModel, scores: Scores, pairs: Pairs, budget: Budget, time_limit_s: float
) -> tuple[float, bool]:
    """The optimal score and whether it is proved."""
    if len(pairs) < SLOTS:  # a chain
        found = optimum(space, cost, scores, budget, pairs, time_limit_s=time_limit_s)
        if found.proved:
            return found.score, True
    problem, rng = Problem.build(space, cost, budget), np.random.default_rng(0)
    local_search = LocalSearch(problem, problem.utilities(scores), problem.interactions(pairs))
    if space.links:
        starts = (filled_up(problem, rng) for _ in range(CLIMBS))
    else:
        starts = (problem.columns(repair(problem, space.encode(space.random(rng)), rng)) for _ in range(CLIMBS))
    return max(local_search.climb(start)[1] for start in starts), False


def filled_up(problem: Problem, rng: np.random.Generator) -> np.ndarray:
    """Columns of a random architecture: from empty slots, random layers slot by slot as far as the budget allows."""
    x = problem.columns(np.zeros(problem.slots, dtype=np.intp))
    for slot in rng.permutation(problem.slots):
        y = x.copy()
        y[slot] = rng.integers(problem.start[slot], problem.start[slot + 1])
        costs = problem.cost.predict_many(problem.codes(y)[None])
        if problem.allowed[y].all() and problem.budget.mask(costs)[0]:
            x = y
    return x


def costs(rng: np.random.Generator) -> tuple[SearchSpace, CostModel]:
    rows, slots = [], {}
    for site, level in enumerate(LEVELS):
        for position in range(2):
            slot = f"site{site}/{position}"
            slots[slot] = list(CHOICES)
            for operator in OPERATORS:
                rows.append({"workload": f"{slot}/{operator}", **row(operator, WIDTHS[level], SIDES[level] ** 2, rng)})
    space = SearchSpace(name="benchmark", slots=slots)
    return space, CostModel(space, LookupTable.from_frame(pd.DataFrame(rows)))


def row(operator: str, width: int, pixels: int, rng: np.random.Generator) -> dict[str, float | str]:
    """Costs of one layer in fp16: multiplications at 25 GMAC/s, traffic at 0.3 G elements/s, 50 us to start."""
    tokens = pixels * FRAMES
    params = {"Conv1D": 3, "Conv3D": 9}.get(operator, 4) * width**2
    macs = params * tokens / (1 if operator != "Conv3D" else 2)
    keys = {
        "SelfAttention1D": FRAMES,
        "SelfAttention3D": tokens,
        "CrossAttention1D": 78,
        "CrossAttention3D": 77 + pixels,
    }
    macs += 2 * tokens * keys.get(operator, 0) * width
    traffic = tokens * width * {"Conv1D": 3, "Conv3D": 6, "CrossAttention1D": 7, "CrossAttention3D": 7}.get(operator, 8)
    scores_mb = tokens * min(tokens, 4096) * 16 / 1e6 if operator == "SelfAttention3D" else 0.0
    out_of_memory = operator == "SelfAttention3D" and pixels >= 4096
    latency = (0.05 + macs / 2.5e10 + traffic / 3e8) * np.exp(0.15 * rng.normal())
    return {
        "latency_ms": np.inf if out_of_memory else latency,
        "memory_mb": 2 * traffic / 1e6 + scores_mb,
        "weights_mb": 2 * params / 1e6,
        "params": params,
        "status": "infeasible" if out_of_memory else "ok",
    }


def unstructured_costs(rng: np.random.Generator) -> tuple[SearchSpace, CostModel]:
    """Choices whose costs say nothing about one another; slots that share nothing but their number of choices."""
    names = ["none", *(f"op{c}" for c in range(len(OPERATORS)))]
    space = SearchSpace(name="unstructured", slots={f"s{i}": names for i in range(SLOTS)})
    rows = [
        {
            "workload": f"{slot}/{name}",
            "latency_ms": rng.gamma(2.0),
            "memory_mb": 20 * rng.gamma(2.0),
            "weights_mb": rng.gamma(2.0),
            "params": int(1e6 * rng.gamma(2.0)),
        }
        for slot in space.slots
        for name in names[1:]
    ]
    return space, CostModel(space, LookupTable.from_frame(pd.DataFrame(rows)))


def deep_unet(rng: np.random.Generator) -> tuple[SearchSpace, CostModel]:
    """Costs of a UNet with a search space of its own, in which slots of one shape share rows."""
    backbone, latent, text = Backbone(WIDTHS, layers_per_block=2), Latent(4, FRAMES, SIDES[0], SIDES[0]), Text(77, 768)
    operators = {name: Operator(name) for name in OPERATORS}
    slots = {f"{site}/0": list(CHOICES) for site in backbone.sites(latent)}
    space = SearchSpace("deep", slots, operators, backbone, latent, text)
    rows = [
        {
            "workload": str(space.backbone_workload()),
            "latency_ms": 50.0,
            "memory_mb": 100.0,
            "weights_mb": 600.0,
            "params": 3e8,
            "status": "ok",
        }
    ]
    for workload in space.workloads()[1:]:
        _, width, _, height, side = workload.shape
        rows.append({"workload": str(workload), **row(workload.kind, width, height * side, rng)})
    return space, CostModel(space, LookupTable.from_frame(pd.DataFrame(rows)))


COSTS = {"independent": unstructured_costs, "rugged": unstructured_costs, "deep_skips": deep_unet}


def mirrored_links(space: SearchSpace) -> list[tuple[str, str]]:
    slots = list(space.slots)
    return [(slots[i], slots[-1 - i]) for i in range(len(slots) // 2)]


def unet_links(space: SearchSpace) -> list[tuple[str, str]]:
    """Those of a UNet with the sites of `LEVELS`."""
    backbone, slots = Backbone(WIDTHS, mid=False), list(space.slots)
    sites = list(backbone.sites(Latent(4, FRAMES, SIDES[0], SIDES[0])))
    joined = ((2 * sites.index(a), 2 * sites.index(b)) for a, b in linked_sites(backbone))
    return [(slots[i + p], slots[j + q]) for i, j in joined for p in (0, 1) for q in (0, 1)]


def levels(space: SearchSpace) -> np.ndarray:
    """`(slots,)`: the level of the UNet that each slot is at."""
    if space.backbone is None:
        return np.repeat(LEVELS, 2)
    return np.array([SIDES.index(space.sites[space.site_name(slot)].height) for slot in space.slots])


def tight_budget(space: SearchSpace, cost: CostModel, rng: np.random.Generator, share: float = 0.016) -> Budget:
    """Bounds at one common quantile of random architectures' costs, such that `share` of them meet all three."""
    frame = cost.predict_many(rng.integers(len(CHOICES), size=(50_000, len(space.slots))))
    runs = frame[np.isfinite(frame["latency_ms"])]
    low, high = 0.0, 1.0
    for _ in range(30):
        quantile = (low + high) / 2
        budget = Budget(*(float(runs[name].quantile(quantile)) for name in ("latency_ms", "memory_mb", "params")))
        low, high = (quantile, high) if budget.mask(frame).mean() < share else (low, quantile)
    return budget


def layered(space: SearchSpace, rng: np.random.Generator) -> np.ndarray:
    """What each layer adds, `(slots, operators)`: by operator, by operator and resolution, by slot, and by chance."""
    slots = len(space.slots)
    strength = rng.gamma(4, 0.25, len(OPERATORS))
    affinity = rng.gamma(4, 0.25, (len(SIDES), len(OPERATORS)))
    second = (np.arange(slots) % 2 == 1) & (space.backbone is None)
    importance = rng.gamma(4, 0.25, slots) * np.where(second, rng.uniform(0.4, 0.8), 1.0)
    spread = np.exp(0.3 * rng.normal(size=(slots, len(OPERATORS))))
    return importance[:, None] * strength * affinity[levels(space)] * spread


def layers_only(space: SearchSpace, rng: np.random.Generator) -> tuple[Scores, Pairs]:
    return named(space, layered(space, rng), {})


def independent(space: SearchSpace, rng: np.random.Generator) -> tuple[Scores, Pairs]:
    return named(space, rng.gamma(2.0, size=(SLOTS, len(OPERATORS))), {})


def neighbors(common: float, strength: float = 0.4) -> Quality:
    """Pairs of neighboring slots: `common` times one table for all, plus numbers of their own."""

    def quality(space: SearchSpace, rng: np.random.Generator) -> tuple[Scores, Pairs]:
        value = layered(space, rng)
        alike = rng.normal(size=(len(OPERATORS), len(OPERATORS)))
        own = np.sqrt(2.0 - common)
        tables = {
            pair: strength * value.mean() * (common * alike + own * rng.normal(size=alike.shape))
            for pair in itertools.pairwise(range(SLOTS))
        }
        return named(space, value, tables)

    return quality


def everywhere(space: SearchSpace, rng: np.random.Generator) -> tuple[Scores, Pairs]:
    """Pairs of all slots, weak ones: in a full network they vary as much as the strong ones of `neighbors`."""
    value = layered(space, rng)
    pairs = list(itertools.combinations(range(SLOTS), 2))
    strength = 0.4 * np.sqrt(2.0) * value.mean() * np.sqrt((SLOTS - 1) / len(pairs))
    return named(space, value, {pair: strength * rng.normal(size=(6, 6)) for pair in pairs})


def embedded(space: SearchSpace, rng: np.random.Generator) -> tuple[Scores, Pairs]:
    value, vectors = layered(space, rng), rng.normal(size=(SLOTS, len(OPERATORS), 3)) / np.sqrt(3.0)
    vectors = vectors + rng.normal(size=(len(OPERATORS), 3)) / np.sqrt(3.0)
    pairs = {(i, i + d): 0.4 / d for d in (1, 2, 3) for i in range(SLOTS - d)}
    return named(space, value, {(i, j): w * value.mean() * vectors[i] @ vectors[j].T for (i, j), w in pairs.items()})


def redundant(space: SearchSpace, rng: np.random.Generator) -> tuple[Scores, Pairs]:
    value, tables = layered(space, rng), {}
    attention = np.array(["Attention" in operator for operator in OPERATORS])
    for i, j in ((i, i + d) for d in (1, 2, 3) for i in range(SLOTS - d)):
        smaller = np.minimum(value[i][:, None], value[j][None, :])
        table = -smaller * np.eye(len(OPERATORS)) * rng.uniform(0.0, 0.5, size=smaller.shape)
        if i // 2 == j // 2:
            gains = (attention[:, None] & attention[None, :]) | (attention[:, None] & ~attention[None, :])
            table += smaller * gains * ~np.eye(len(OPERATORS), dtype=bool) * rng.uniform(0.0, 0.6, size=smaller.shape)
        tables[i, j] = table
    return named(space, value, tables)


def linked(common: float, chain: float = 0.4, across: float = 0.4, elsewhere: float = 0.0) -> Quality:
    """Pairs as in `neighbors`, of that strength: of neighboring slots, of linked ones, of as many others."""

    def quality(space: SearchSpace, rng: np.random.Generator) -> tuple[Scores, Pairs]:
        value, index = layered(space, rng), {slot: i for i, slot in enumerate(space.slots)}
        neighbors = set(itertools.pairwise(range(len(index))))
        joined = sorted({tuple(sorted((index[a], index[b]))) for a, b in space.links} - neighbors)
        others = sorted(set(itertools.combinations(range(len(index)), 2)) - neighbors - set(joined))
        others = [others[i] for i in rng.choice(len(others), len(joined), replace=False)]
        alike = rng.normal(size=(2, len(OPERATORS), len(OPERATORS)))
        own, tables = np.sqrt(2.0 - common), {}
        for kind, pairs, strength in ((0, sorted(neighbors), chain), (1, joined, across), (1, others, elsewhere)):
            for pair in pairs if strength else ():
                numbers = common * alike[kind] + own * rng.normal(size=alike[kind].shape)
                tables[pair] = strength * value.mean() * numbers
        return named(space, value, tables)

    return quality


QUALITY: dict[str, Quality] = {
    "additive": layers_only,
    "pairwise": neighbors(common=1.0),
    "noisy": neighbors(common=1.0),
    "plain": layers_only,
    "independent": independent,
    "neighbors": neighbors(common=0.0),
    "everywhere": everywhere,
    "embedded": embedded,
    "redundant": redundant,
    "rugged": neighbors(common=0.0, strength=0.7),
    "skips": linked(common=1.0),
    "unet_skips": linked(common=1.0, across=0.3),
    "own_skips": linked(common=0.0),
    "strong_skips": linked(common=1.0, across=0.8),
    "only_skips": linked(common=1.0, chain=0.0),
    "deep_skips": linked(common=1.0),
    "no_pairs": linked(common=1.0, chain=0.0, across=0.0),
    "chain_only": linked(common=1.0, across=0.0),
    "elsewhere": linked(common=1.0, across=0.0, elsewhere=0.4),
}


def named(space: SearchSpace, value: np.ndarray, tables: dict[tuple[int, int], np.ndarray]) -> tuple[Scores, Pairs]:
    """Arrays as dictionaries of slots and choices: value `(slots, operators)`, tables `(operators, operators)`."""
    slots, layers = list(space.slots), next(iter(space.slots.values()))[1:]
    scores = {slot: {"none": 0.0, **dict(zip(layers, map(float, value[i])))} for i, slot in enumerate(slots)}
    pairs = {
        (slots[i], slots[j]): {(a, b): float(table[m, n]) for m, a in enumerate(layers) for n, b in enumerate(layers)}
        for (i, j), table in tables.items()
    }
    return scores, pairs

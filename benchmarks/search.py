"""How good is the best architecture after 50, 100, 200, 500 evaluations, sampler by sampler, against a proved optimum?

Instances: 12 sites of a UNet with two slots each, `none` and six operators, costs from arithmetic and memory traffic with
15% spread, budgets on latency, peak memory and parameters that 1.6% of random architectures meet.

- `additive`: what each layer adds, with diminishing returns: the second slot of a site adds less, and the total
  saturates, `1 - exp(-sum / s)`; its optimum is that of the sum;
- `pairwise`: the sum, plus pairs of operators in neighbouring slots;
- `noisy`: pairwise, scores seen through noise of 1% of the optimum. Reported is the true score.

    python benchmarks/search.py --samplers budget tpe --out docs/benchmarks/search.csv

Finished runs are kept in --out and skipped when it is started again. `--table` prints the document's tables.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pandas as pd

from nas.costs import Budget, CostModel, LookupTable
from nas.search import optimum
from nas.search.placement import distributions
from nas.search.problem import Pairs, Problem, Scores
from nas.search.samplers import make_sampler
from nas.spaces import SearchSpace

OPERATORS = ("SelfAttention1D", "SelfAttention3D", "Conv1D", "Conv3D", "CrossAttention1D", "CrossAttention3D")
CHOICES = ("none", *OPERATORS)
KINDS = ("additive", "pairwise", "noisy")
SAMPLERS = ("budget", "tpe", "nsga2", "gp", "random+repair", "tpe+repair", "evolution")
POINTS = (50, 100, 200, 500)
WIDTHS, SIDES, FRAMES = (256, 512, 1024, 1152), (64, 32, 16, 8), 8
LEVELS = (0, 1, 2, 3, 3, 3, 2, 2, 1, 1, 0, 0)  # of the 12 sites, in order


@dataclass(frozen=True)
class Instance:
    """A search whose exact optimum is known.

    Attributes:
        scores, pairs: the true score before saturation.
        saturation: s in `1 - exp(-sum / s)`; infinite for a plain sum.
        noise: standard deviation of what an evaluation adds, as a share of the optimum.
        best: the true score of the optimum, proved.
    """

    space: SearchSpace
    cost: CostModel
    budget: Budget
    scores: Scores
    pairs: Pairs
    saturation: float
    noise: float
    best: float

    def true(self, choices: dict[str, str]) -> float:
        total = sum(self.scores[slot][choice] for slot, choice in choices.items())
        total += sum(table.get((choices[a], choices[b]), 0.0) for (a, b), table in self.pairs.items())
        return saturated(total, self.saturation)


def saturated(total: float, s: float) -> float:
    return total if np.isinf(s) else 1.0 - float(np.exp(-total / s))


def make_instance(kind: str, seed: int) -> Instance:
    """An instance of one of `KINDS`, and the proof of its optimum.

    Raises:
        RuntimeError: the solver could not prove it within two minutes.
    """
    rng = np.random.default_rng([KINDS.index(kind), seed])
    space, cost = costs(rng)
    budget = tight_budget(space, cost, rng)
    scores, pairs = quality(space, rng, with_pairs=kind != "additive")
    found = optimum(space, cost, scores, budget, pairs, time_limit_s=120.0)
    if not found.proved:
        raise RuntimeError(f"{kind} {seed}: not proved, gap {found.gap}")
    saturation = found.score / 1.5 if kind == "additive" else np.inf
    noise = 0.01 if kind == "noisy" else 0.0
    return Instance(space, cost, budget, scores, pairs, saturation, noise, saturated(found.score, saturation))


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


def quality(space: SearchSpace, rng: np.random.Generator, with_pairs: bool) -> tuple[Scores, Pairs]:
    slots = list(space.slots)
    strength = rng.gamma(4, 0.25, len(OPERATORS))
    affinity = rng.gamma(4, 0.25, (len(SIDES), len(OPERATORS)))
    level = np.repeat(LEVELS, 2)
    importance = rng.gamma(4, 0.25, len(slots)) * np.where(np.arange(len(slots)) % 2, rng.uniform(0.4, 0.8), 1.0)
    spread = np.exp(0.3 * rng.normal(size=(len(slots), len(OPERATORS))))
    value = importance[:, None] * strength * affinity[level] * spread
    scores = {s: {"none": 0.0, **dict(zip(OPERATORS, map(float, value[i])))} for i, s in enumerate(slots)}
    if not with_pairs:
        return scores, {}
    common = rng.normal(size=(len(OPERATORS), len(OPERATORS)))
    pairs: Pairs = {}
    for first, second in itertools.pairwise(slots):
        table = 0.4 * value.mean() * (common + rng.normal(size=common.shape))
        pairs[first, second] = {
            (a, b): float(table[i, j]) for i, a in enumerate(OPERATORS) for j, b in enumerate(OPERATORS)
        }
    return scores, pairs


def play(instance: Instance, sampler: str, trials: int, seed: int) -> pd.DataFrame:
    """One run, trial by trial: the best feasible true score so far in % of the optimum, feasible, seconds to propose."""
    problem = Problem.build(instance.space, instance.cost, instance.budget)
    study = optuna.create_study(direction="maximize", sampler=make_sampler(sampler, problem, seed))
    rng, best, rows = np.random.default_rng(seed), 0.0, []
    for _ in range(trials):
        start = time.perf_counter()
        trial = study.ask(distributions(problem))
        seconds = time.perf_counter() - start
        costs = instance.cost.predict(instance.space.architecture(trial.params))
        for name, bound in instance.budget.bounds().items():
            trial.set_constraint(name, min(getattr(costs, name) / bound - 1.0, 10.0))
        feasible, true = instance.budget.holds(costs), instance.true(trial.params)
        study.tell(trial, true + instance.noise * instance.best * rng.normal())
        best = max(best, true) if feasible else best
        rows.append((100 * best / instance.best, feasible, seconds))
    return pd.DataFrame(rows, columns=["percent", "feasible", "seconds"])


def summary(run: pd.DataFrame) -> dict[str, float]:
    """The row of one run; points beyond its trials are left empty."""
    at = {f"at_{k}": round(run["percent"][k - 1], 2) if len(run) >= k else float("nan") for k in POINTS}
    infeasible = 100 * (1 - run["feasible"].mean())
    return {**at, "infeasible_percent": round(infeasible, 1), "median_s": round(run["seconds"].median(), 4)}


def table(results: pd.DataFrame, column: Callable[[pd.DataFrame], pd.Series]) -> str:
    """Markdown: samplers x kinds of instance."""
    lines = ["| sampler | " + " | ".join(KINDS) + " |", "| --- " * (len(KINDS) + 1) + "|"]
    for sampler in [s for s in SAMPLERS if s in set(results["sampler"])]:
        cells = []
        for kind in KINDS:
            rows = results[(results["sampler"] == sampler) & (results["kind"] == kind)]
            cells.append(column(rows) if len(rows) else "")
        lines.append(f"| {sampler} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def document(results: pd.DataFrame) -> str:
    """Both tables of the document."""

    def quality_cell(rows: pd.DataFrame) -> str:
        shown = [(f"{rows[f'at_{k}'].mean():.1f}" if rows[f"at_{k}"].notna().any() else "-") for k in POINTS]
        return f"{' / '.join(shown)} (n={len(rows)})"

    def cost_cell(rows: pd.DataFrame) -> str:
        return f"{rows['infeasible_percent'].mean():.0f}% / {1000 * rows['median_s'].mean():.0f} ms"

    head = f"% of the proved optimum at {' / '.join(map(str, POINTS))} evaluations, mean over n seeds:"
    costs_head = "Share of infeasible proposals / median time per proposal:"
    return f"{head}\n\n{table(results, quality_cell)}\n\n{costs_head}\n\n{table(results, cost_cell)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/search.csv"))
    parser.add_argument("--table", action="store_true", help="print the tables of what --out holds, run nothing")
    options = parser.parse_args()
    results = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=["kind", "seed", "sampler"])
    if options.table:
        print(document(results))
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = set(zip(results["kind"], results["seed"], results["sampler"]))
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for kind in options.kinds:
            instance = make_instance(kind, seed)
            for sampler in options.samplers:
                if (kind, seed, sampler) in done:
                    continue
                row = summary(play(instance, sampler, options.trials, seed))
                line = pd.DataFrame([{"kind": kind, "seed": seed, "sampler": sampler, "trials": options.trials, **row}])
                line.to_csv(options.out, mode="a", header=not options.out.exists(), index=False)
                print(line.to_string(header=False, index=False), flush=True)


if __name__ == "__main__":
    main()

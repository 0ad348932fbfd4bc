"""How good is the best architecture after 50, 100, 200, 500 evaluations, sampler by sampler, against a known optimum?

Instances: `search_instances.py`. Scores are the true ones, also where the sampler saw noise.

    python benchmarks/search.py --samplers budget tpe --out docs/benchmarks/search.csv
    python benchmarks/search.py --samplers budget --families plain rugged --first-seed 2000 --trials 100

Each run is a row of --out, written anew whenever it reaches 50, 100, 200 or 500 evaluations. Started again, finished runs
are skipped; one that was cut keeps its row until its next attempt gets further. `--table` prints the document's tables.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from search_instances import BENCHMARK, FAMILIES, Instance, make_instance

from nas.files import write_atomic
from nas.search import BudgetSampler
from nas.search.problem import Problem
from nas.search.samplers import make_sampler
from nas.search.samplers.base import distributions

SAMPLERS = ("budget", "tpe", "nsga2", "gp", "random+repair", "tpe+repair", "evolution")
UNLINKED = "budget, links unknown"
"""The default sampler on a space whose links it is not told."""
POINTS = (50, 100, 200, 500)


def play(instance: Instance, sampler: str, trials: int, seed: int) -> Iterator[tuple[float, bool, float]]:
    """One run, trial by trial: the best feasible true score so far in % of the optimum, feasible, seconds to propose."""
    problem = Problem.build(instance.space, instance.cost, instance.budget)
    if sampler == UNLINKED:
        made = BudgetSampler(instance.space, instance.cost, instance.budget, seed=seed, links=())
    else:
        made = make_sampler(sampler, problem, seed)
    study = optuna.create_study(direction="maximize", sampler=made)
    rng, best = np.random.default_rng(seed), 0.0
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
        yield 100 * best / instance.best, feasible, seconds


def summary(run: list[tuple[float, bool, float]]) -> dict[str, float]:
    """The row of one run; points that it has not reached are left empty."""
    frame = pd.DataFrame(run, columns=["percent", "feasible", "seconds"])
    at = {f"at_{k}": round(frame["percent"][k - 1], 2) if len(frame) >= k else float("nan") for k in POINTS}
    infeasible = 100 * (1 - frame["feasible"].mean())
    costs = {"infeasible_percent": round(infeasible, 1), "median_s": round(frame["seconds"].median(), 4)}
    return {"trials": len(frame), **at, **costs}


class Results:
    """The rows of a CSV, one per (family, seed, sampler); every change is written at once."""

    KEY = ("family", "seed", "sampler")

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def frame(self) -> pd.DataFrame:
        return pd.read_csv(self.path) if self.path.exists() else pd.DataFrame(columns=[*self.KEY, "trials"])

    def trials(self, *key: object) -> int:
        """How far the run got that is stored for this key; 0 if there is none."""
        frame = self.frame
        found = frame[self._rows(frame, key)]
        return int(found["trials"].iloc[0]) if len(found) else 0

    def keep(self, key: tuple, row: dict[str, float]) -> None:
        """Store the row unless the stored one got further."""
        if row["trials"] < self.trials(*key):
            return
        line, frame = pd.DataFrame([dict(zip(self.KEY, key)) | row]), self.frame
        frame = pd.concat([frame[~self._rows(frame, key)], line]) if len(frame) else line
        write_atomic(self.path, frame.sort_values(list(self.KEY)).to_csv(index=False))

    def _rows(self, frame: pd.DataFrame, key: tuple) -> pd.Series:
        return (frame[list(self.KEY)] == list(key)).all(axis=1)


def table(results: pd.DataFrame, column: Callable[[pd.DataFrame], pd.Series]) -> str:
    """Markdown: samplers x families."""
    families = [family for family in FAMILIES if family in set(results["family"])]
    lines = ["| sampler | " + " | ".join(families) + " |", "| --- " * (len(families) + 1) + "|"]
    played = set(results["sampler"])
    for sampler in [*(s for s in SAMPLERS if s in played), *sorted(played - set(SAMPLERS))]:
        cells = []
        for family in families:
            rows = results[(results["sampler"] == sampler) & (results["family"] == family)]
            cells.append(column(rows) if len(rows) else "")
        lines.append(f"| {sampler} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def document(results: pd.DataFrame) -> str:
    """Both tables of the document."""

    def quality_cell(rows: pd.DataFrame) -> str:
        shown = [(f"{rows[f'at_{k}'].mean():.1f}" if rows[f"at_{k}"].notna().any() else "-") for k in POINTS]
        seeds = [int(rows[f"at_{k}"].notna().sum()) for k in POINTS]
        n = "/".join(map(str, seeds)) if len(set(filter(None, seeds))) > 1 else max(seeds)
        return f"{' / '.join(shown)} (n={n})"

    def cost_cell(rows: pd.DataFrame) -> str:
        return f"{rows['infeasible_percent'].mean():.0f}% / {1000 * rows['median_s'].mean():.0f} ms"

    head = f"% of the optimum at {' / '.join(map(str, POINTS))} evaluations, mean over n seeds:"
    costs_head = "Share of infeasible proposals / median time per proposal:"
    return f"{head}\n\n{table(results, quality_cell)}\n\n{costs_head}\n\n{table(results, cost_cell)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS))
    parser.add_argument("--families", nargs="+", default=list(BENCHMARK), choices=FAMILIES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which a run is cut")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/search.csv"))
    parser.add_argument("--table", action="store_true", help="print the tables of what --out holds, run nothing")
    options = parser.parse_args()
    results = Results(options.out)
    if options.table:
        print(document(results.frame))
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for sampler in options.samplers:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for family in options.families:
                if results.trials(family, seed, sampler) < options.trials:
                    run_one(results, family, seed, sampler, options.trials, options.minutes)


def run_one(results: Results, family: str, seed: int, sampler: str, trials: int, minutes: float) -> None:
    deadline, run = time.monotonic() + 60 * minutes, []
    for step in play(make_instance(family, seed), sampler, trials, seed):
        run.append(step)
        late = time.monotonic() > deadline
        if len(run) in POINTS or len(run) == trials or late:
            results.keep((family, seed, sampler), summary(run))
        if late:
            break
    print(family, seed, sampler, summary(run), flush=True)


if __name__ == "__main__":
    main()

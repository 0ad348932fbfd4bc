"""How long does the exact solver take to prove an optimum within the budgets of several devices?

    python benchmarks/devices.py --slots 24 --choices 7 --devices 3 --instances 40 --out docs/benchmarks/devices.csv

Random costs on each device, a bound on each of --costs on each device, and random scores that add up
(`nas.testing.samplers.random_search_instance`). `highs_s` is the same program solved by HiGHS alone. Times are of the
processor, so that other work on the machine hardly counts.
"""

from __future__ import annotations

import argparse
import time

import pandas as pd

from nas.costs import Budget
from nas.search import Constraints, optimum
from nas.search.problem import Problem
from nas.search.solver.program import Program
from nas.testing.samplers import random_search_instance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=24)
    parser.add_argument("--choices", type=int, default=7)
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.3, help="quantile of random costs at which the bounds lie")
    parser.add_argument(
        "--costs", nargs="+", default=["latency", "memory", "params"], help="what is bounded on each device"
    )
    parser.add_argument("--constrained", action="store_true", help="fix, exclude and count some choices as well")
    parser.add_argument("--out", help="a .csv file for the times")
    arguments = parser.parse_args()
    constraints = (
        Constraints(("s0=o1",), ("s1*:o2",), ("count(o0)<=4", "count(none)>=3")) if arguments.constrained else None
    )
    rows = []
    for seed in range(arguments.instances):
        instance = random_search_instance(
            seed, arguments.slots, arguments.choices, arguments.share, devices=arguments.devices
        )
        bounds = {
            key: bound for key, bound in instance.budget.bounds().items() if key.startswith(tuple(arguments.costs))
        }
        budget = Budget.of(bounds)
        begun = time.process_time()
        found = optimum(instance.space, instance.cost, instance.scores.scores, budget, constraints=constraints)
        solved = time.process_time()
        problem = Problem.build(instance.space, instance.cost, budget, constraints)
        _, bound, _ = Program.of(problem, problem.utilities(instance.scores.scores)).maximize(60.0)
        ended = time.process_time()
        rows.append((seed, solved - begun, ended - solved, found.score, bound, found.slack, found.proved))
    frame = pd.DataFrame(rows, columns=["seed", "cpu_s", "highs_s", "score", "highs_bound", "slack", "proved"])
    print(frame.to_string(index=False, float_format="{:.6g}".format))
    for name in ("cpu_s", "highs_s"):
        print(f"{name}: median {frame[name].median():.2f}, most {frame[name].max():.2f}")
    print(f"{frame['proved'].sum()} of {len(frame)} proved")
    if arguments.out:
        frame.round(4).to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()

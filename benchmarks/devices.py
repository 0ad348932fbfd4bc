"""How long does the exact solver take to prove an optimum within the budgets of several devices?

    python benchmarks/devices.py --slots 24 --choices 7 --devices 3 --instances 10

Random costs on each device, a bound on each of --costs on each device, and random scores that add up
(`nas.testing.samplers.random_search_instance`). Times are of the processor, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import time

import pandas as pd

from nas.costs import Budget
from nas.search import Constraints, optimum
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
        rows.append((seed, time.process_time() - begun, found.score, found.slack, found.proved))
    frame = pd.DataFrame(rows, columns=["seed", "cpu_s", "score", "slack", "proved"])
    print(frame.to_string(index=False, float_format="{:.4g}".format))
    print(f"median {frame['cpu_s'].median():.2f} s, most {frame['cpu_s'].max():.2f} s, {frame['proved'].sum()} proved")


if __name__ == "__main__":
    main()

"""Commands on costs: of one architecture, and the search for the best."""

from __future__ import annotations

import argparse

from nas.cli.command import (
    Joined,
    architecture,
    as_json,
    at_least_one,
    command,
    cost_model,
    print_json,
    space_and_table,
)
from nas.errors import TableError


def _declare_cost(parser: argparse.ArgumentParser) -> None:
    space_and_table(parser)
    parser.add_argument(
        "--arch", required=True, metavar="A.json", help="an architecture, as 'nas search --out' writes it"
    )
    as_json(parser)


@command(
    "cost",
    "latency, memory, parameters and generation time of an architecture",
    "nas cost --space demo --table table.csv --arch architecture.json",
    _declare_cost,
)
def cost(args: argparse.Namespace) -> None:
    import pandas as pd

    from nas.costs.sources import join_sources

    arch = architecture(args)
    model = cost_model(args)
    found = model.predict(arch)
    try:
        generation, unknown = model.generation(), ""
    except TableError as error:
        generation, unknown = None, str(error)
    source = join_sources(model.sources)
    parts = generation.parts(found.latency_ms, source) if generation else pd.DataFrame()
    if args.json:
        numbers = {name: getattr(found, name) for name in ("latency_ms", "memory_mb", "params", "generation_s")}
        tables = {"slots": found.breakdown.to_dict("records"), "generation": parts.to_dict("records")}
        print_json({**numbers, "sources": model.sources, **tables})
        return
    shown = found.breakdown.assign(params=found.breakdown["params"].map("{:,}".format)).rename(columns={"slot": ""})
    print(shown.to_string(index=False, float_format="{:.3f}".format))
    guessed = found.breakdown.loc[found.breakdown["source"] == "interpolated", "latency_ci_ms"]
    interval = f", +-{guessed.sum():.3f} ms in 90% of cases if interpolated rows err alike" if len(guessed) else ""
    print(f"\nlatency    {found.latency_ms:10.3f} ms   ({source}{interval})")
    if found.memory_mb == found.memory_mb:
        print(f"memory     {found.memory_mb:10.3f} MB   at its peak, weights included")
    else:
        print("memory        unknown      the device does not tell it of every layer")
    print(f"params     {found.params:10,}")
    stuck = found.breakdown[found.breakdown["latency_ms"] == float("inf")]
    if len(stuck):
        print(f"cannot run on the device: {', '.join(stuck['slot'] + ' ' + stuck['choice'])}")
        return
    if generation is None:
        print(f"generation    unknown      {unknown}")
        return
    shares = [f"{part.part} {part.runs} x {part.latency_ms:.3f} ms ({part.source})" for part in parts.itertuples()]
    print(f"generation {found.generation_s:10.3f} s    {' + '.join(shares)}")


def _declare_search(parser: argparse.ArgumentParser) -> None:
    space_and_table(parser)
    parser.add_argument(
        "--budget",
        required=True,
        action=Joined,
        metavar="B",
        help="such as 'latency<=80ms, memory<=1.2GB, params<=600M, generation<=5s'",
    )
    parser.add_argument(
        "--evaluator", required=True, metavar="E", help="a score table (.json/.csv) or a command with {arch}"
    )
    parser.add_argument("--out", required=True, metavar="A.json", help="where the best architecture goes")
    parser.add_argument("--trials", type=at_least_one, default=200, help="evaluations, earlier ones too (default: 200)")
    parser.add_argument(
        "--sampler", default="budget", help="budget, evolution, or one of Optuna's: tpe, nsga2, gp, ..."
    )
    parser.add_argument("--storage", metavar="J", help="the study's journal or database URL; default: A.json.journal")
    parser.add_argument("--workers", type=at_least_one, default=1, help="evaluations at once (default: 1)")
    parser.add_argument("--address", metavar="R", help="of a running Ray cluster, such as auto or ray://head:10001")
    parser.add_argument("--gpus", type=float, default=0.0, metavar="N", help="per worker; fractions share one GPU")
    parser.add_argument("--seed", type=int, default=0, help="of what the sampler draws (default: 0)")
    parser.add_argument("--join", action="store_true", help="share the study with a search that runs on it now")


@command(
    "search",
    "the best architecture inside a budget",
    "nas search --space demo --table table.csv --budget 'latency<=8ms' --evaluator scores.json --out best.json",
    _declare_search,
)
def search(args: argparse.Namespace) -> None:
    from nas.costs import Budget
    from nas.locks import output_lock
    from nas.search import parse_evaluator
    from nas.search import run as run_search
    from nas.search.storage import without_password

    model = cost_model(args)
    with output_lock(args.out):
        pass  # what cannot be written is known before anything is searched; searches that share a study end here too
    budget = Budget.parse(args.budget, model.upper_bounds())
    storage = args.storage or f"{args.out}.journal"
    result = run_search(
        model.space,
        model,
        parse_evaluator(args.evaluator, model.space),
        budget,
        trials=args.trials,
        sampler=args.sampler,
        storage=storage,
        workers=args.workers,
        seed=args.seed,
        address=args.address,
        gpus=args.gpus,
        join=args.join,
    )
    best = result.best
    best.save(args.out)
    found, frame = model.predict(best), result.frame
    score = frame.loc[frame["feasible"] & ~frame["pruned"], "score"].max()
    print(
        f"{args.out}: score {score:.4g}, {found.latency_ms:.3f} ms, {found.memory_mb:.3f} MB, {found.params:,} params"
        + (f", {found.generation_s:.3g} s a clip" if budget.generation_s else "")
    )
    if result.failures:
        print(f"{len(result.failures)} of {args.trials} trials failed, the last one with: {result.failures[-1]}")
    if result.reused:
        print(f"{result.reused} scores were known from searches with another budget or table")
    print(f"{without_password(storage)}: the study; open it with optuna-dashboard")

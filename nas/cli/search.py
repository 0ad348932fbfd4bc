"""Commands that cost one architecture, and that search for the best one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nas.cli.command import (
    COUNT,
    PATH,
    Command,
    check_outputs,
    cost_model,
    cost_options,
    json_option,
    load_architecture,
    option,
    print_json,
)
from nas.cli.searching.options import budget_option, constraint_options, cost_numbers, costs_line
from nas.errors import ConfigError, TableError

if TYPE_CHECKING:
    from nas.costs import DeviceCosts
    from nas.search import Constraints
    from nas.search.workers import Evaluator
    from nas.spaces import Architecture, SearchSpace


@click.command(
    cls=Command,
    help="predict latency, memory, parameters and generation time of an architecture",
    example="nas cost --space demo --table table.csv --arch architecture.json",
    also=("nas cost --space demo --table iphone=i.csv --table pixel=p.csv --arch architecture.json",),
)
@cost_options
@option("--arch", required=True, metavar="A.json", type=PATH, help="an architecture, as 'nas search --out' writes it")
@json_option
def cost(arch: str, as_json: bool, space: str, **options: object) -> None:
    from dataclasses import asdict

    import pandas as pd

    from nas.costs.clip_summary import clip_summary
    from nas.costs.sources import join_sources, transferred_part

    architecture = load_architecture(arch, space)
    model = cost_model(space, **options)
    found = model.predict(architecture)
    if found.devices:
        _print_devices(model, architecture, as_json)
        return
    try:
        generation, unknown = model.generation(), ""
    except TableError as error:
        generation, unknown = None, str(error)
    source = join_sources(model.sources)
    parts = generation.parts(found.latency_ms, source) if generation else pd.DataFrame()
    if as_json:
        names = ("latency_ms", "transferred_ms", "memory_mb", "params", "generation_s")
        numbers = {name: getattr(found, name) for name in names}
        tables = {"slots": found.breakdown.to_dict("records"), "generation": parts.to_dict("records")}
        clip = model.space.clip and {**asdict(model.space.clip), "seconds": model.space.clip.seconds}
        print_json({**numbers, "clip": clip, "sources": model.sources, **tables})
        return
    shown = found.breakdown.assign(params=found.breakdown["params"].map("{:,}".format)).rename(columns={"slot": ""})
    print(shown.to_string(index=False, float_format="{:.3f}".format))
    guessed = found.breakdown.loc[found.breakdown["source"] == "interpolated", "latency_ci_ms"]
    interval = f", +-{guessed.sum():.3f} ms in 90% of cases if interpolated rows err alike" if len(guessed) else ""
    print(f"\nlatency    {found.latency_ms:10.3f} ms   ({source}{interval})")
    if part := transferred_part(found):
        print(f"           of which {part}")
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
    print(clip_summary(model, architecture))


def _print_devices(model: DeviceCosts, architecture: Architecture, as_json: bool) -> None:
    """The costs of an architecture on several devices, a column each."""
    import pandas as pd

    from nas.costs.sources import join_sources

    found = model.predict(architecture)
    sources = {name: join_sources(own.sources) for name, own in model.models.items()}
    if as_json:
        print_json({**cost_numbers(found), "sources": sources, "slots": found.breakdown.to_dict("records")})
        return
    slots = found.breakdown.rename(columns=lambda name: name.replace("latency_ms@", "")).rename(columns={"slot": ""})
    print("latency / ms")
    print(slots.to_string(index=False, float_format="{:.3f}".format))
    rows = {
        "latency / ms": [f"{cost.latency_ms:.3f}" for cost in found.devices.values()],
        "memory / MB": [_or_unknown(cost.memory_mb, "{:.3f}") for cost in found.devices.values()],
        "params": [f"{cost.params:,}" for cost in found.devices.values()],
        "generation / s": [_or_unknown(cost.generation_s, "{:.3f}") for cost in found.devices.values()],
        "source": list(sources.values()),
        "transferred / ms": [f"{cost.transferred_ms:.3f}" for cost in found.devices.values()],
    }
    print(f"\n{pd.DataFrame(rows, index=list(found.devices)).T.to_string()}")


def _or_unknown(value: float | None, text: str) -> str:
    return "unknown" if value is None or value != value else text.format(value)


@click.command(
    cls=Command,
    resumable=True,
    help="search for the best architecture within a budget",
    example="nas search --space demo --table table.csv --budget 'latency<=8ms' --evaluator scores.json --out best.json",
    also=(
        "nas search --space demo --table iphone=i.csv --table pixel=p.csv "
        "--budget 'latency@iphone<=8ms, latency@pixel<=12ms' --evaluator scores.json --out best.json",
    ),
)
@cost_options
@budget_option(required=True)
@constraint_options
@option(
    "--evaluator",
    required=True,
    metavar="E",
    help="a score table (.json/.csv), a command with {arch}, a Python callable as module:function, or the folder of a "
    "finished supernet stage",
)
@option("--out", required=True, metavar="A.json", type=PATH, help="file for the best architecture")
@option("--trials", type=COUNT, default=200, metavar="N", help="number of evaluations, including those of earlier runs")
@option("--sampler", default="budget", metavar="S", help="budget, evolution, or one of Optuna's: tpe, nsga2, gp, ...")
@option(
    "--storage",
    metavar="J",
    type=PATH,
    help="a journal or database URL for the study, which may hold those of other budgets  [default: A.json.journal]",
)
@option(
    "--warm-start",
    multiple=True,
    metavar="FILE",
    type=PATH,
    help="known scores: a CSV with the columns score and one per slot, or the journal of a search with this evaluator",
)
@option("--workers", type=COUNT, default=1, metavar="N", help="evaluations in parallel")
@option("--batch", type=COUNT, default=1, metavar="N", help="evaluations at once by a supernet, which share layers")
@option("--address", metavar="R", help="of a running Ray cluster, such as auto or ray://head:10001")
@option("--gpus", type=float, default=0.0, metavar="N", help="GPUs per worker; fractions share one")
@option("--seed", type=int, default=0, metavar="N", help="of the sampler")
@option("--device", metavar="D", help="where a supernet computes: cpu, cuda, cuda:1 or mps  [default: a GPU if any]")
@option("--join", is_flag=True, help="share the study with a search that is running on it")
@option("--early-stop", is_flag=True, help="end once no better architecture can exist, by the bound of a score table")
def search(
    space: str,
    tables: tuple[str, ...],
    estimates: bool,
    interpolate: bool,
    steps: int,
    guidance: bool,
    budgets: tuple[str, ...],
    evaluator: str,
    out: str,
    trials: int,
    sampler: str,
    storage: str | None,
    warm_start: tuple[str, ...],
    workers: int,
    batch: int,
    address: str | None,
    gpus: float,
    seed: int,
    device: str | None,
    join: bool,
    early_stop: bool,
    constraints: Constraints,
) -> None:
    from nas.costs import Budget
    from nas.costs.devices.usage import tightest
    from nas.costs.sources import transferred_part
    from nas.locks import output_lock
    from nas.search import run as run_search
    from nas.search.optimize_loop import is_ended
    from nas.search.storage import without_password

    check_outputs({"--out": out}, tables, space, evaluator, *warm_start)
    model = cost_model(space, tables, estimates=estimates, interpolate=interpolate, steps=steps, guidance=guidance)
    with output_lock(out):
        pass  # what cannot be written is known before anything is searched; searches that share a study end here too
    budget = Budget.parse(", ".join(budgets), model.upper_bounds())
    strict = storage is None  # the journal beside --out is of one search; one that is named may hold several
    storage = storage or f"{out}.journal"
    result = run_search(
        model.space,
        model,
        _evaluator(evaluator, model.space, device),
        budget,
        trials=trials,
        sampler=sampler,
        storage=storage,
        workers=workers,
        seed=seed,
        address=address,
        gpus=gpus,
        join=join,
        warm_start=warm_start,
        batch=batch,
        constraints=constraints,
        early_stop=early_stop,
        strict=strict,
    )
    best = result.best
    best.save(out)
    cost, frame = model.predict(best), result.frame
    score = frame.loc[frame["feasible"] & ~frame["pruned"], "score"].max()
    print(f"{out}: score {score:.4g}, {costs_line(cost, budget)}")
    if cost.devices:
        print(tightest(cost, budget))
    ended = sum(is_ended(trial) for trial in result.study.get_trials(deepcopy=False))
    if early_stop and ended < trials:
        print(f"ended after {ended} trials: no better architecture exists within the budget")
    for name, on_device in (cost.devices or {"": cost}).items():
        if part := transferred_part(on_device):
            print(f"of its latency{name and f' on {name}'}, {part}")
    if result.failures:
        print(
            f"{len(result.failures)} of {trials} trials failed, and their architectures are excluded; "
            f"the first one with: {result.failures[0]}"
        )
    if result.reused:
        print(f"{result.reused} {'score was' if result.reused == 1 else 'scores were'} known from other searches")
    print(f"{without_password(storage)}: the study; open it with optuna-dashboard")


def _evaluator(text: str, space: SearchSpace, device: str | None) -> Evaluator:
    """What `--evaluator` names."""
    from nas.search import parse_evaluator

    if Path(text).is_dir():
        from nas.training import SupernetEvaluator

        return SupernetEvaluator.of_stage(text, space, device=device)
    if device is not None:
        raise ConfigError(f"--device is where a supernet computes; '{text}' is none")
    return parse_evaluator(text, space)

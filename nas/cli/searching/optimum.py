"""Commands that solve a search exactly, where the scores of slots and pairs of slots add up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nas.cli.command import (
    COUNT,
    PATH,
    Command,
    check_outputs,
    cost_model,
    cost_options,
    json_option,
    option,
    print_json,
)
from nas.cli.searching.options import budget_option, constraint_options, cost_numbers, costs_line
from nas.errors import BudgetError, ConfigError, suggestion

if TYPE_CHECKING:
    from nas.search import Constraints, Optimum, ScoreTable
    from nas.spaces import SearchSpace

PLOTS = (".svg", ".png", ".pdf")

_scores_option = option(
    "--scores", required=True, metavar="S.csv", type=PATH, help="a score table (.json/.csv), as for 'nas search'"
)
_time_option = option(
    "--time-limit",
    "time_limit_s",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    metavar="S",
    help="seconds for each solution, after which it is not proved",
)


@click.command(
    cls=Command,
    help="compute the best architectures within a budget exactly, from a score table",
    example="nas optimum --space demo --table table.csv --budget 'latency<=8ms' --scores scores.json --out best.json",
    also=(
        "nas optimum --space demo --table iphone=i.csv --table pixel=p.csv --budget 'latency@pixel<=12ms' "
        "--scores scores.json --k 5 --distance 3 --explain --out best.json",
    ),
)
@cost_options
@budget_option(required=False)
@constraint_options
@_scores_option
@option(
    "--out", required=True, metavar="A.json", type=PATH, help="file for the best architecture; A-2.json, ... for more"
)
@option("--k", type=COUNT, default=1, metavar="N", help="how many architectures, best first")
@option("--distance", type=COUNT, default=1, metavar="N", help="slots in which each differs from those before it")
@option(
    "--objective",
    type=click.Choice(["score", "slack"]),
    default="score",
    help="slack: of the best-scoring architectures, the one farthest from its tightest bound",
)
@option("--give", type=click.FloatRange(min=0), default=0.0, metavar="X", help="score that may be given up for slack")
@option("--explain", is_flag=True, help="say which bound of which device binds, and what it costs in score")
@_time_option
@json_option
def optimum(
    space: str,
    budgets: tuple[str, ...],
    constraints: Constraints,
    scores: str,
    out: str,
    k: int,
    distance: int,
    objective: str,
    give: float,
    explain: bool,
    time_limit_s: float,
    as_json: bool,
    **options: Any,
) -> None:
    from nas import search
    from nas.costs import Budget
    from nas.costs.devices.usage import tightest
    from nas.locks import output_lock
    from nas.search.solver.bound_effects import binding, explain_binding

    if k > 1 and objective != "score":
        raise ConfigError(f"--k {k}: several architectures are ranked by score; leave --objective {objective} out")
    if give and objective != "slack":
        raise ConfigError(f"--give {give:g}: is for --objective slack")
    if distance > 1 and k == 1:
        raise ConfigError(f"--distance {distance}: is between several architectures; give --k too")
    check_outputs({"--out": out}, options["tables"], space, scores)
    model = cost_model(space, **options)
    budget = Budget.parse(", ".join(budgets), model.upper_bounds())
    table = _score_table(scores, model.space)
    with output_lock(out):
        pass  # what cannot be written is known before anything is solved
    if k == 1:
        found = [
            search.optimum(
                model.space,
                model,
                table.scores,
                budget,
                table.pairs,
                time_limit_s,
                constraints=constraints,
                objective=objective,
                give=give,
            )
        ]
    else:
        found = search.shortlist(
            model.space, model, table.scores, budget, k, table.pairs, time_limit_s, constraints, distance
        )
    files = [Path(out) if i == 1 else Path(out).with_stem(f"{Path(out).stem}-{i}") for i in range(1, len(found) + 1)]
    for path in files:
        check_outputs({"--out": path}, options["tables"], space, scores)
    for path, best in zip(files, found):
        best.architecture.save(path)
    bounds = None
    if explain:
        bounds = binding(model.space, model, table.scores, budget, table.pairs, constraints, time_limit_s)
    costs = [model.predict(best.architecture) for best in found]
    if as_json:
        rows = [
            {
                "file": str(path),
                "score": best.score,
                "upper_bound": best.bound,
                "proved": best.proved,
                "slack": best.slack,
            }
            | cost_numbers(cost)
            | {"choices": best.architecture.choices}
            for path, best, cost in zip(files, found, costs)
        ]
        extra = {} if bounds is None else {"bounds": bounds.to_dict("records")}
        print_json({"architectures": rows, **extra})
        return
    for path, best, cost in zip(files, found, costs):
        print(f"{path}: score {best.score:.6g}, {_proof(best)}, {costs_line(cost, budget)}")
    if len(found) < k:
        print(
            f"{len(found)} of {k}: no more architectures within the budget were found that differ in {distance} slots"
        )
    if used := tightest(costs[0], budget):
        print(used)
    if bounds is not None:
        print(explain_binding(bounds))
        if len(bounds):
            print(f"\n{bounds.to_string(index=False, float_format='{:.4g}'.format)}")


def _proof(best: Optimum) -> str:
    return "proved" if best.proved else f"not proved (at most {best.bound:.6g})"


@click.command(
    cls=Command,
    help="compute the best architecture under each of several bounds, from tight to loose, with proofs",
    example="nas sweep --space demo --table table.csv --over latency --scores scores.json --out front.csv --plot front.svg",
    also=(
        "nas sweep --space demo --table iphone=i.csv --table pixel=p.csv --over latency@pixel --bounds 8ms,10ms,12ms "
        "--budget 'latency@iphone<=8ms' --scores scores.json --out front.csv",
    ),
)
@cost_options
@budget_option(required=False)
@constraint_options
@_scores_option
@option(
    "--over",
    default="latency",
    metavar="Q",
    help="what is bounded: latency, memory, params; latency@NAME on one device",
)
@option(
    "--bounds", metavar="B,B,...", help="the bounds, with units  [default: --points, from the cheapest to the best]"
)
@option("--points", type=click.IntRange(min=2), default=9, metavar="N", help="number of bounds, without --bounds")
@option("--out", required=True, metavar="F.csv", type=PATH, help="file for the front, a row for each bound")
@option("--plot", metavar="F.svg", type=PATH, help="draw the front: .svg, .png or .pdf")
@_time_option
@json_option
def sweep(
    space: str,
    budgets: tuple[str, ...],
    constraints: Constraints,
    scores: str,
    over: str,
    bounds: str | None,
    points: int,
    out: str,
    plot: str | None,
    time_limit_s: float,
    as_json: bool,
    **options: Any,
) -> None:
    from nas import search
    from nas.costs import Budget
    from nas.files import write_atomic
    from nas.locks import output_lock

    if plot is not None and Path(plot).suffix.lower() not in PLOTS:
        raise ConfigError(f"--plot {plot}: unknown suffix '{Path(plot).suffix}'{suggestion(Path(plot).suffix, PLOTS)}")
    check_outputs({"--out": out, "--plot": plot}, options["tables"], space, scores)
    model = cost_model(space, **options)
    budget = Budget.parse(", ".join(budgets), model.upper_bounds())
    table = _score_table(scores, model.space)
    limits = None if bounds is None else _limits(over, bounds, model)
    with output_lock(out):
        pass  # what cannot be written is known before anything is solved
    frame = search.sweep(
        model.space,
        model,
        table.scores,
        over,
        limits,
        points,
        budget,
        table.pairs,
        constraints,
        time_limit_s,
    )
    write_atomic(out, frame.to_csv(index=False))
    if plot is not None:
        _draw(frame, over, plot)
    if as_json:
        print_json(frame.to_dict("records"))
        return
    slots = set(model.space.slots)
    shown = frame[[column for column in frame if column not in slots]]
    print(shown.to_string(index=False, float_format="{:.6g}".format))
    print(
        f"{out}: {int(frame['score'].notna().sum())} optima, {int(frame['proved'].sum())} of {len(frame)} bounds proved"
    )


def _limits(over: str, bounds: str, model: Any) -> list[float]:
    """The numbers of `--bounds`."""
    from nas.costs import Budget

    found: list[float] = []
    for text in bounds.split(","):
        try:
            parsed = list(Budget.parse(f"{over}<={text.strip()}", model.upper_bounds()).bounds().values())
        except BudgetError as error:
            raise ConfigError(f"--bounds {bounds}: {str(error).removeprefix('budget: ')}") from None
        if len(parsed) != 1:
            raise ConfigError(
                f"--bounds {text}: a % of every device is not one bound; give a unit, or --over {over}@NAME"
            )
        found += parsed
    return found


def _draw(frame: Any, over: str, plot: str) -> None:
    import io

    from nas.costs.budget import QUANTITIES
    from nas.files import write_atomic
    from nas.report.plots import plot_sweep

    name, sign, device = over.partition("@")
    ax = plot_sweep(frame, f"{QUANTITIES[name]}{sign}{device}")
    drawn = io.BytesIO()
    ax.figure.savefig(drawn, format=Path(plot).suffix[1:].lower(), bbox_inches="tight")
    write_atomic(plot, drawn.getvalue())


def _score_table(path: str, space: SearchSpace) -> ScoreTable:
    """What `--scores` names, checked against the space."""
    from nas.search import ScoreTable, parse_evaluator

    if Path(path).suffix not in (".csv", ".json"):
        raise ConfigError(
            f"--scores {path}: needs a score table (.json or .csv): exact solutions are for scores that add up"
        )
    table = parse_evaluator(path, space)
    if not isinstance(table, ScoreTable):
        raise ConfigError(f"--scores {path}: needs a score table (.json or .csv)")
    return table

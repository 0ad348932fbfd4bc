"""Options of the commands that search: the budget and the constraints; and how their results are printed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nas.cli.command import option

if TYPE_CHECKING:
    from nas.costs import Budget, Cost


def budget_option(required: bool) -> Callable:
    """`--budget`, which may be repeated."""
    return option(
        "--budget",
        "budgets",
        required=required,
        multiple=True,
        metavar="B",
        help="such as 'latency<=80ms, memory<=1.2GB, params<=600M, generation<=5s'; 'latency@NAME<=80ms' for one device",
    )


def constraint_options(function: Callable) -> Callable:
    """`--fix`, `--exclude` and `--constraint`, which may be repeated: the command's argument `constraints`."""

    @functools.wraps(function)
    def command(*, fix: tuple[str, ...], exclude: tuple[str, ...], counts: tuple[str, ...], **arguments: Any) -> Any:
        from nas.search import Constraints

        return function(constraints=Constraints(fix, exclude, counts), **arguments)

    decorators = [
        option("--fix", multiple=True, metavar="F", help="a choice for a slot, a site or a pattern: 'mid.0/0=Conv1D'"),
        option(
            "--exclude", multiple=True, metavar="X", help="choices that slots may not take: 'up.3.*:SelfAttention3D'"
        ),
        option(
            "--constraint",
            "counts",
            multiple=True,
            metavar="C",
            help="how many slots take a choice: 'count(SelfAttention3D)<=2', 'count(*@down.*)>=1'",
        ),
    ]
    decorated: Callable = command
    for decorator in reversed(decorators):
        decorated = decorator(decorated)
    return decorated


def costs_line(cost: Cost, budget: Budget) -> str:
    """Costs on one line, those of each device if there are several."""
    clip = f", {cost.generation_s:.3g} s a clip" if cost.generation_s is not None and _bounds_clip(budget) else ""
    if not cost.devices:
        return f"{cost.latency_ms:.3f} ms, {cost.memory_mb:.3f} MB, {cost.params:,} params{clip}"
    return "; ".join(f"{name}: {costs_line(own, budget.on(name))}" for name, own in cost.devices.items())


def _bounds_clip(budget: Budget) -> bool:
    return any(key.startswith("generation_s") for key in budget.bounds())


def cost_numbers(cost: Cost) -> dict[str, Any]:
    """The costs of an architecture for JSON, with those of each device if there are several."""
    numbers: dict[str, Any] = {n: getattr(cost, n) for n in ("latency_ms", "memory_mb", "params", "generation_s")}
    devices: Mapping[str, Cost] = cost.devices
    return numbers | ({"devices": {name: cost_numbers(own) for name, own in devices.items()}} if devices else {})

"""How much of each bound of a budget an architecture uses."""

from __future__ import annotations

import pandas as pd

from nas.costs.budget import Budget, bound_text, cost_of
from nas.costs.cost import Cost


def usage(cost: Cost, budget: Budget, same_params: bool | None = None) -> pd.DataFrame:
    """One row for each bound and device that it holds on, the most used first.

    Args:
        same_params: whether parameters are one cost, the same on all devices; None: if the architecture's are.

    Returns:
        Columns bound (as text), key (`latency_ms`, or `latency_ms@pixel` for one device of several), device (empty if there
        is only one, or if it does not matter), cost, limit, and used, the cost as a share of the limit.
    """
    rows = []
    seen: set[float] = set()  # a bound in % is one for each device
    if same_params is None:
        same_params = len({own.params for own in cost.devices.values()}) == 1
    for key, limit in budget.bounds().items():
        column, _, device = key.partition("@")
        shared = column == "params" and same_params and bool(cost.devices)
        if shared and limit in seen:
            continue
        if shared:
            everywhere = all(budget.on(name).params == limit for name in cost.devices)
            key, device = ("params", "") if everywhere else (key, device)
            seen.add(limit)
        for name in [device] if device or shared or not cost.devices else cost.devices:
            own = f"{column}@{name}" if name and not shared else column
            value = float(cost_of(cost, own))
            rows.append((bound_text(key, limit), own, name, value, limit, value / limit))
    frame = pd.DataFrame(rows, columns=["bound", "key", "device", "cost", "limit", "used"])
    return frame.sort_values("used", ascending=False, kind="stable").reset_index(drop=True)


def slack(cost: Cost, budget: Budget) -> float:
    """The share of its limit that the tightest bound has left: negative over the budget, 1 without any bound."""
    used = usage(cost, budget)["used"]
    return 1.0 - float(used.max()) if len(used) else 1.0


def tightest(cost: Cost, budget: Budget) -> str:
    """`latency@pixel<=120ms is the tightest bound, 98.2% used`; a bound on several devices with the device. Empty without one."""
    frame = usage(cost, budget)
    if frame.empty:
        return ""
    first = frame.iloc[0]
    on = f" on {first['device']}" if first["device"] and "@" not in first["bound"] else ""
    return f"{first['bound']}{on} is the tightest bound, {first['used']:.1%} used"

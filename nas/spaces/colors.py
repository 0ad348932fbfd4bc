"""The color of each operator, the same in every figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nas.spaces import NONE, Operator, SearchSpace, operator_kinds

BACKBONE = "#8b9097"
OTHERS = ("#009e73", "#f0e442", "#56b4e9", "#d55e00", "#cc79a7", "#0072b2", "#e69f00")
"""For choices that are not registered operators (cost-only spaces): Okabe and Ito's palette."""


def choice_colors(space: SearchSpace | None, choices: Iterable[str] = ()) -> dict[str, str]:
    """Color by choice for every choice of `space` and every one in `choices`, apart from `none`.

    A choice has its operator's color; further choices of the same kind (say, another kernel size) get shades of it.
    """
    offered = [choice for offers in space.slots.values() for choice in offers] if space else []
    operators: Mapping[str, Operator] = (space.operators if space else None) or {}
    colors: dict[str, str] = {}
    own = {kind: spec.color for kind, spec in operator_kinds().items() if spec.color}
    uses = dict.fromkeys(own, 0)
    others = 0
    for choice in dict.fromkeys([*offered, *choices]):
        if choice == NONE:
            continue
        kind = operators[choice].kind if choice in operators else choice
        if kind in own:
            colors[choice] = _shade(own[kind], uses[kind])
            uses[kind] += 1
        else:
            colors[choice] = _shade(OTHERS[others % len(OTHERS)], others // len(OTHERS))
            others += 1
    return colors


def short_label(choice: str) -> str:
    """The choice's name as figures show it."""
    kinds = operator_kinds()
    return kinds[choice].label or choice if choice in kinds else choice


def _shade(color: str, step: int) -> str:
    """`color` mixed with white and black in turn, further with every step."""
    if step == 0:
        return color
    target, share = (255, 0)[step % 2 == 0], min(0.2 * ((step + 1) // 2), 0.7)
    parts = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(p + (target - p) * share):02x}" for p in parts)

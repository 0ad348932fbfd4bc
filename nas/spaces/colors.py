"""One colour per operator, the same in every plot, told apart by colour-blind readers.

A family is a hue (blue self-attention, orange convolution, purple cross-attention) and 3D is the darker of the two.
The six were chosen so that any two differ by more than 20 in CIELAB under normal vision, protanopia, deuteranopia and
tritanopia (simulated after Machado et al. 2009); plots name the operator in words as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nas.spaces import NONE, Operator, SearchSpace

OPERATORS = {
    "SelfAttention1D": "#5aa5ec",
    "SelfAttention3D": "#1257c4",
    "Conv1D": "#e0a03a",
    "Conv3D": "#b5401a",
    "CrossAttention1D": "#d29cc0",
    "CrossAttention3D": "#9c2488",
}
BACKBONE = "#8b9097"
OTHERS = ("#009e73", "#f0e442", "#56b4e9", "#d55e00", "#cc79a7", "#0072b2", "#e69f00")
"""For choices that are no known operator (cost-only spaces): Okabe and Ito's palette."""

SHORT = {
    "SelfAttention1D": "Self 1D",
    "SelfAttention3D": "Self 3D",
    "Conv1D": "Conv 1D",
    "Conv3D": "Conv 3D",
    "CrossAttention1D": "Cross 1D",
    "CrossAttention3D": "Cross 3D",
}


def of_space(space: SearchSpace | None, choices: Iterable[str] = ()) -> dict[str, str]:
    """Colour by choice for every choice of `space` and every one in `choices`, apart from `none`.

    A choice has its operator's colour; two choices of one kind (say kernels 3 and 5) get shades of it.
    """
    offered = [choice for offers in space.slots.values() for choice in offers] if space else []
    operators: Mapping[str, Operator] = (space.operators if space else None) or {}
    colours: dict[str, str] = {}
    uses = dict.fromkeys(OPERATORS, 0)
    others = 0
    for choice in dict.fromkeys([*offered, *choices]):
        if choice == NONE:
            continue
        kind = operators[choice].kind if choice in operators else choice
        if kind in OPERATORS:
            colours[choice] = _shade(OPERATORS[kind], uses[kind])
            uses[kind] += 1
        else:
            colours[choice] = _shade(OTHERS[others % len(OTHERS)], others // len(OTHERS))
            others += 1
    return colours


def short(choice: str) -> str:
    """A name that fits into a drawing."""
    return SHORT.get(choice, choice)


def _shade(colour: str, step: int) -> str:
    """`colour` mixed with white and black in turn, further with every step."""
    if step == 0:
        return colour
    target, share = (255, 0)[step % 2 == 0], min(0.2 * ((step + 1) // 2), 0.7)
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(p + (target - p) * share):02x}" for p in parts)

"""A workload: one thing to run at one concrete shape. Its text is the key of a lookup-table row."""

from __future__ import annotations

from dataclasses import dataclass

from nas.spaces.backbone import Backbone
from nas.spaces.operators import Operator
from nas.spaces.pipeline import Decoder, TextEncoder

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Workload:
    """One operator, the spatial backbone with nothing in its slots, or what stands around it, at one input shape.

    Attributes:
        part: what runs.
        shape: `(B, C, T, H, W)` of the input; `(B, tokens)` of a text encoder's.
        context: `(B, tokens, dim)` of the text, for what reads or makes it; else None, so that equal work is one
            workload.
        dtype: of inputs and weights.
    """

    part: Operator | Backbone | TextEncoder | Decoder
    shape: tuple[int, ...]
    context: tuple[int, int, int] | None = None
    dtype: str = "float32"

    @property
    def kind(self) -> str:
        """The operator's kind, or `Backbone`, `TextEncoder`, `Decoder`."""
        return self.part.kind if isinstance(self.part, Operator) else type(self.part).__name__

    def __str__(self) -> str:
        """The table's key, such as `CrossAttention1D[context=text+anchor,heads=8] 1x320x8x16x16 text1x77x768 float32`."""
        part = str(self.part) if isinstance(self.part, Operator) else f"{self.kind}[{self.part.hash()}]"
        text = [f"text{_times(self.context)}"] if self.context else []
        return " ".join([part, _times(self.shape), *text, self.dtype])


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))

"""A workload: an operator or model at one concrete input shape. Its string is the key of a lookup-table row."""

from __future__ import annotations

from dataclasses import dataclass

from nas.spaces.backbone import Backbone
from nas.spaces.operators import Operator
from nas.spaces.pipeline import Decoder, TextEncoder

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Workload:
    """An operator, the backbone with empty slots, the text encoder or the decoder, at one input shape.

    Attributes:
        part: the operator or model that runs.
        shape: `(B, C, T, H, W)` of the input; `(B, tokens)` of a text encoder's.
        context: `(B, tokens, dim)` of the text context, for parts that read or produce it. None for the others, so that
            equal computations are one workload.
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

"""The six temporal operators as data: a kind and its hyper-parameters. What they compute is in `nas.models`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nas.errors import SpaceError, shown, suggestion

NONE = "none"
"""The choice that puts nothing in a slot."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "SelfAttention1D": {"heads": 8},
    "SelfAttention3D": {"heads": 8},
    "Conv1D": {"kernel": 3},
    "Conv3D": {"kernel": 3},
    "CrossAttention1D": {"heads": 8, "context": "text+anchor"},
    "CrossAttention3D": {"heads": 8, "context": "text+anchor"},
}
"""Every kind of operator with its hyper-parameters and their defaults."""

LARGEST = 1024
"""Heads or kernel size."""

CONTEXTS = ("text", "anchor", "text+anchor")


@dataclass(frozen=True)
class Operator:
    """A temporal layer kind with its hyper-parameters, on a latent video `(B, C, T, H, W)`.

    - `SelfAttention1D` attends over T for each spatial position, `SelfAttention3D` over all T*H*W tokens;
    - `Conv1D` is a (kernel, 1, 1) convolution, `Conv3D` a (kernel, kernel, kernel) one;
    - `CrossAttention1D` / `CrossAttention3D` attend from the same two token arrangements to the text and to the
      anchor frame (the first one).

    Attributes:
        kind: one of `DEFAULTS`.
        options: hyper-parameters, sorted by name; defaults filled in.

    Raises:
        SpaceError: an unknown kind or hyper-parameter, or a value that makes no layer.
    """

    kind: str
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in DEFAULTS:
            raise SpaceError(f"unknown operator kind {shown(self.kind)}{suggestion(str(self.kind)[:60], DEFAULTS)}")
        options = {**DEFAULTS[self.kind]}
        for name, value in dict(self.options).items():
            if name not in options:
                raise SpaceError(f"{self.kind} has no {shown(name)}{suggestion(name, options)}")
            options[name] = value
        _check(self.kind, options)
        object.__setattr__(self, "options", tuple(sorted(options.items())))

    def __getitem__(self, name: str) -> Any:
        return dict(self.options)[name]

    @property
    def uses_text(self) -> bool:
        return self.kind.startswith("CrossAttention") and "text" in self["context"]

    def __str__(self) -> str:
        return f"{self.kind}[{','.join(f'{k}={v}' for k, v in self.options)}]"


def _check(kind: str, options: dict[str, Any]) -> None:
    heads, kernel, context = options.get("heads", 1), options.get("kernel", 1), options.get("context", "text")
    if type(heads) is not int or not 1 <= heads <= LARGEST:
        raise SpaceError(f"{kind}: heads must be a positive whole number up to {LARGEST}, not {shown(heads)}")
    if type(kernel) is not int or not 1 <= kernel <= LARGEST or kernel % 2 == 0:
        raise SpaceError(f"{kind}: kernel must be a positive odd number up to {LARGEST}, not {shown(kernel)}")
    if context not in CONTEXTS:
        raise SpaceError(f"{kind}: unknown context {shown(context)}{suggestion(str(context)[:60], CONTEXTS)}")

"""Temporal operators as data: the registry of kinds, and an operator as a kind with its hyperparameters.

Everything that the library knows of a kind is in its `OperatorSpec`, registered once. What imports torch (the module,
its variants) is named there by reference, `package.module:name`, and loaded when it is needed. Another package
registers its kinds through the entry-point group `nas.operators`, whose values are `OperatorSpec` objects, or by
`register_operator` when it is imported.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from nas.errors import ConfigError, SpaceError, shown, suggestion

NONE = "none"
"""The choice that puts nothing in a slot."""

CONTEXTS = ("text", "anchor", "text+anchor")
ENTRY_POINTS = "nas.operators"
LARGEST = 1024
"""Heads or kernel size."""


@dataclass(frozen=True)
class OperatorSpec:
    """A kind of temporal operator.

    Attributes:
        kind: its name in search spaces and lookup tables.
        module: reference of its torch module, or the class itself. It is built as `Module(channels, **options)` and
            called as `module(x, context)`: `x` `(B, C, T, H, W)` to the same shape, `context` `(B, tokens, dim)`.
        options: its hyperparameters and their defaults.
        count_ops: reference of a function `(operator, shape, context) -> nas.costs.op_counts.OpCounts`, or the function
            itself: operations, memory traffic and memory of one run, for estimates and interpolation.
        takes_text: whether the module reads the text. It is then built with `context_dim=`, the dimension of a token,
            too; with a hyperparameter `context`, its workloads depend on the text only if that names `text`.
        check: called with all hyperparameters; raises SpaceError for values that make no layer.
        variants: name -> reference of a function `module -> module`: the same numbers in an order of operations that
            some runtimes run faster.
        color: `#rrggbb` in every figure; chosen from a palette if empty.
        label: a short name for figures; the kind if empty.

    Raises:
        SpaceError: `module` or `count_ops` is something that no other process can find, such as a lambda.
    """

    kind: str
    module: str | type
    options: Mapping[str, Any] = field(default_factory=dict)
    count_ops: str | Callable[..., Any] = ""
    takes_text: bool = False
    check: Callable[[Mapping[str, Any]], None] | None = None
    variants: Mapping[str, str | Callable[..., Any]] = field(default_factory=dict)
    color: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        for name in ("module", "count_ops"):
            object.__setattr__(self, name, _reference(self.kind, name, getattr(self, name)))
        variants = {name: _reference(self.kind, f"variants.{name}", value) for name, value in self.variants.items()}
        object.__setattr__(self, "variants", variants)


def _reference(kind: str, name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    qualified = getattr(value, "__qualname__", "<none>")
    if "<" in qualified:
        raise SpaceError(f"operator {kind}: {name}: {value!r} is not at the top of a module; move it there")
    return f"{value.__module__}:{qualified}"


def resolve(reference: str | type | Callable[..., Any]) -> Any:
    """The object that a reference `package.module:name` names; an object that is not a string is returned as it is.

    Raises:
        ConfigError: it cannot be imported.
    """
    if not isinstance(reference, str):
        return reference
    try:
        return pkgutil.resolve_name(reference)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "; define it in a module that other processes can import" if reference.startswith("__main__") else ""
        raise ConfigError(f"operator reference '{reference}' cannot be loaded: {error}{hint}") from None


_SPECS: dict[str, OperatorSpec] = {}
_loaded_entry_points = False


def register_operator(spec: OperatorSpec) -> OperatorSpec:
    """Make a kind known to search spaces, models, costs, runtimes, exports and reports; returns the spec.

    Raises:
        SpaceError: another kind of that name is registered already.
    """
    if _SPECS.setdefault(spec.kind, spec) != spec:
        raise SpaceError(f"operator kind '{spec.kind}' is registered already; give yours another name")
    return spec


def operator_kinds() -> dict[str, OperatorSpec]:
    """Every registered kind by name, those of installed packages included."""
    global _loaded_entry_points
    if not _loaded_entry_points:
        _loaded_entry_points = True
        for point in entry_points(group=ENTRY_POINTS):
            spec = point.load()
            if not isinstance(spec, OperatorSpec):
                raise SpaceError(f"entry point '{point.name}' of {ENTRY_POINTS}: {point.value} is not an OperatorSpec")
            register_operator(spec)
    return dict(_SPECS)


def operator_spec(kind: str) -> OperatorSpec:
    """The registered kind of that name.

    Raises:
        SpaceError: there is none; the text suggests the nearest.
    """
    if isinstance(kind, str) and kind in _SPECS:
        return _SPECS[kind]
    kinds = operator_kinds()
    if not isinstance(kind, str) or kind not in kinds:
        raise SpaceError(f"unknown operator kind {shown(kind)}{suggestion(str(kind)[:60], kinds)}")
    return kinds[kind]


@dataclass(frozen=True)
class Operator:
    """A temporal layer kind with its hyperparameters, on a latent video `(B, C, T, H, W)`.

    - `SelfAttention1D` attends over T for each spatial position, `SelfAttention3D` over all T*H*W tokens;
    - `Conv1D` is a (kernel, 1, 1) convolution, `Conv3D` a (kernel, kernel, kernel) one;
    - `CrossAttention1D` / `CrossAttention3D` attend from the same two token arrangements to the text and to the
      anchor frame (the first one).

    Attributes:
        kind: a registered kind; see `operator_kinds`.
        options: hyperparameters, sorted by name; defaults filled in.

    Raises:
        SpaceError: an unknown kind or hyperparameter, or a value that makes no layer.
    """

    kind: str
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        options = dict(self.spec.options)
        for name, value in dict(self.options).items():
            if name not in options:
                raise SpaceError(f"{self.kind} has no {shown(name)}{suggestion(name, options)}")
            options[name] = value
        _check(self.spec, options)
        object.__setattr__(self, "options", tuple(sorted(options.items())))

    def __getitem__(self, name: str) -> Any:
        return dict(self.options)[name]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with its spec, so that a worker process knows a kind that another package registered."""
        return _unpickle, (self.spec, self.options)

    @property
    def spec(self) -> OperatorSpec:
        return operator_spec(self.kind)

    @property
    def uses_text(self) -> bool:
        return self.spec.takes_text and "text" in dict(self.options).get("context", "text")

    def __str__(self) -> str:
        return f"{self.kind}[{','.join(f'{k}={v}' for k, v in self.options)}]"


def _unpickle(spec: OperatorSpec, options: tuple[tuple[str, Any], ...]) -> Operator:
    register_operator(spec)
    return Operator(spec.kind, options)


def _check(spec: OperatorSpec, options: dict[str, Any]) -> None:
    heads, kernel, context = options.get("heads", 1), options.get("kernel", 1), options.get("context", "text")
    if type(heads) is not int or not 1 <= heads <= LARGEST:
        raise SpaceError(f"{spec.kind}: heads must be a positive whole number up to {LARGEST}, not {shown(heads)}")
    if type(kernel) is not int or not 1 <= kernel <= LARGEST or kernel % 2 == 0:
        raise SpaceError(f"{spec.kind}: kernel must be a positive odd number up to {LARGEST}, not {shown(kernel)}")
    if context not in CONTEXTS:
        raise SpaceError(f"{spec.kind}: unknown context {shown(context)}{suggestion(str(context)[:60], CONTEXTS)}")
    for name, value in options.items():
        default = spec.options[name]
        if type(value) is not type(default) and (type(default), type(value)) != (float, int):
            raise SpaceError(f"{spec.kind}: {name} must be of type {type(default).__name__}, not {shown(value)}")
    if spec.check is not None:
        spec.check(options)


def _register_builtin() -> None:
    """The six operators that SnapGen-V searches (arXiv 2412.10494, section 3.2).

    Their colors: a family is a hue (blue self-attention, orange convolution, purple cross-attention), 3D the darker of
    the two. Any two differ by more than 20 in CIELAB under normal vision, protanopia, deuteranopia and tritanopia
    (simulated after Machado et al. 2009).
    """
    heads, cross = {"heads": 8}, {"heads": 8, "context": "text+anchor"}
    conv1d = {name: f"nas.conversion.variants:{name}" for name in ("shifted", "folded", "native")}
    conv3d = {name: f"nas.conversion.variants:{name}" for name in ("folded", "native")}
    for kind, options, counts, variants, color, label in (
        ("SelfAttention1D", heads, "count_self_attention_1d", {}, "#5aa5ec", "Self 1D"),
        ("SelfAttention3D", heads, "count_self_attention_3d", {}, "#1257c4", "Self 3D"),
        ("Conv1D", {"kernel": 3}, "count_conv1d", conv1d, "#e0a03a", "Conv 1D"),
        ("Conv3D", {"kernel": 3}, "count_conv3d", conv3d, "#b5401a", "Conv 3D"),
        ("CrossAttention1D", cross, "count_cross_attention_1d", {}, "#d29cc0", "Cross 1D"),
        ("CrossAttention3D", cross, "count_cross_attention_3d", {}, "#9c2488", "Cross 3D"),
    ):
        register_operator(
            OperatorSpec(
                kind,
                f"nas.models.operators:{kind}",
                options,
                f"nas.costs.operator_counts:{counts}",
                takes_text=kind.startswith("Cross"),
                variants=variants,
                color=color,
                label=label,
            )
        )


_register_builtin()

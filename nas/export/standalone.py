"""Write a denoiser as one PyTorch file that does not import `nas`.

The file contains the source code of the definitions that the architecture uses, so that it computes bit for bit the
same as this library.
"""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import ModuleType

from nas.errors import SpaceError
from nas.models import denoiser, layers, operators, positions, unet
from nas.models.denoiser import layers_by_site, module_name
from nas.spaces import NONE, Architecture, Operator, SearchSpace, resolve, topology

SOURCES: tuple[ModuleType, ...] = (topology, layers, positions, operators, unet, denoiser)
"""Modules to copy from, in dependency order."""

TEMPLATE = '''"""A text-to-video denoiser: search space {space.name} ({space.hash}), architecture

{layers}

Requires torch and numpy, and safetensors to load weights: `model = load("denoiser.safetensors")`.
Written by nas {version}; the classes are copied from nas.models.
"""

{imports}

Backbone = SimpleNamespace


{code}


class Denoiser(UNet):
    """Latents `{shape}`, timestep `(B,)` in 0..1000, text `(B, {text.tokens}, {text.dim})` -> a prediction of `x`'s shape.

    Batch size, frames, height and width may differ from these.
    """

    def __init__(self) -> None:
        config = Backbone(**{config})
        super().__init__(config, latent_channels={latent.channels}, context_dim={text.dim})
        self.temporal = nn.ModuleDict(
            {{
{modules}
            }}
        )

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        layers = {{site: [self.temporal[name] for name in names] for site, names in LAYERS.items()}}
        return run(self, x, timestep, context, layers)


LAYERS = {sites}


def load(path: str = "denoiser.safetensors") -> Denoiser:
    """Load the denoiser with the weights of a file, in evaluation mode; call `.train()` to resume training."""
    from safetensors.torch import load_file

    model = Denoiser()
    model.load_state_dict(load_file(path))
    return model.eval()
'''


def source(space: SearchSpace, arch: Architecture, version: str) -> str:
    """The source code of the file.

    Raises:
        SpaceError: the space is cost-only, or the architecture belongs to another space.
    """
    arch = space.check(arch)
    if space.backbone is None:
        raise SpaceError(f"search space '{space.name}' is cost-only: it has no backbone, so no model can be written")
    chosen = {slot: space.operators[choice] for slot, choice in arch.items if choice != NONE}
    modules = [resolve(operator.spec.module) for operator in chosen.values()]
    others = [inspect.getmodule(module) for module in modules]
    sources = tuple(dict.fromkeys([*SOURCES, *others]))
    imports, code = _extract(sources, {"UNet", "run", *(module.__name__ for module in modules)})
    return TEMPLATE.format(
        space=space,
        version=version,
        text=space.text,
        latent=space.latent,
        shape=str(space.input_shape()).replace("1,", "B,", 1),
        layers="\n".join(f"    {slot:<12} {operator}" for slot, operator in chosen.items()) or "    no temporal layers",
        imports=imports,
        code=code,
        config=asdict(space.backbone),
        modules="\n".join(f"{' ' * 16}{_module(space, slot, operator)}," for slot, operator in chosen.items()),
        sites={site: [name for name, _ in names] for site, names in layers_by_site(space, arch).items()},
    )


def _module(space: SearchSpace, slot: str, operator: Operator) -> str:
    """Source code of a slot's entry in the module dictionary: `"down_0_0_0": Conv1D(64, kernel=3)`."""
    options = dict(operator.options)
    if operator.spec.takes_text:
        options["context_dim"] = space.text.dim
    arguments = [str(space.sites[space.site_name(slot)].channels), *(f"{k}={v!r}" for k, v in options.items())]
    return f'"{module_name(slot)}": {resolve(operator.spec.module).__name__}({", ".join(arguments)})'


@dataclass(frozen=True)
class _Definition:
    """Source code of a top-level function, class or constant, and the names that it uses."""

    text: str
    mentions: frozenset[str]


def _extract(sources: tuple[ModuleType, ...], required: set[str]) -> tuple[str, str]:
    """The import lines, and the definitions that the `required` names depend on, in the order of the sources."""
    definitions: dict[str, _Definition] = {}
    imports: dict[str, Import] = {"SimpleNamespace": ("types", "SimpleNamespace"), "nn": ("torch", "nn")}
    for module in sources:
        text = inspect.getsource(module)
        for node in ast.parse(text).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports |= _imports(node)
            else:
                definitions |= {name: _definition(text, node) for name in _names(node)}
    needed, pending = set(), set(required)
    while pending:
        needed |= pending
        mentioned = set().union(*(definitions[name].mentions for name in pending))
        pending = (mentioned & definitions.keys()) - needed
    kept = [definition for name, definition in definitions.items() if name in needed]
    used = {"SimpleNamespace", "nn", "Tensor"}.union(*(definition.mentions for definition in kept))
    head = _import_lines([imports[name] for name in sorted(used & imports.keys())])
    return head, "\n\n\n".join(definition.text for definition in kept)


Import = tuple[str, str]
"""`(module, name in it)`; an empty name imports the module itself."""


def _imports(node: ast.Import | ast.ImportFrom) -> dict[str, Import]:
    """The imports of a statement by bound name; imports from this library are omitted."""
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name: (ast.unparse(alias), "") for alias in node.names}
    if node.module == "__future__" or node.module.split(".")[0] == "nas":
        return {}
    return {alias.asname or alias.name: (node.module, ast.unparse(alias)) for alias in node.names}


def _import_lines(imports: list[Import]) -> str:
    """Format imports, one line per module, the standard library first."""
    groups: dict[bool, list[str]] = {False: [], True: []}
    for module, part in itertools.groupby(sorted(imports), key=lambda pair: pair[0]):
        names = [name for _, name in part]
        lines = groups[module.startswith(("numpy", "torch"))]
        lines += [f"import {module}"] * ("" in names)
        if any(names):
            lines.append(f"from {module} import {', '.join(filter(None, names))}")
    return "from __future__ import annotations\n\n" + "\n\n".join(
        "\n".join(sorted(lines, key=lambda line: line.startswith("from"))) for lines in groups.values()
    )


def _names(node: ast.stmt) -> Iterator[str]:
    """The names that a top-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _definition(text: str, node: ast.stmt) -> _Definition:
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    mentions = frozenset(name.id for name in ast.walk(node) if isinstance(name, ast.Name))
    return _Definition("\n".join(text.splitlines()[first - 1 : node.end_lineno]), mentions)

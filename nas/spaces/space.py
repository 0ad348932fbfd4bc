"""A search space: slots and the choices each slot offers, with or without a backbone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import SpaceError, shown, suggestion
from nas.files import short_hash
from nas.spaces.architecture import Architecture
from nas.spaces.backbone import Backbone, Latent, Site, Text
from nas.spaces.clip import Clip
from nas.spaces.operators import NONE, Operator
from nas.spaces.pipeline import Decoder, TextEncoder, VAEConfig
from nas.spaces.workload import Workload


class SearchSpace:
    """Slots and the choices each slot offers.

    `SearchSpace(...)` and `SearchSpace.load` return a `BackboneSpace`, from which models can be built, or, if no backbone
    is given, a `CostOnlySpace`, which is enough to search with a stored lookup table.

    Attributes:
        name: for messages and file headers.
        slots: choices by slot, in execution order. Slots of one site are named `site/0`, `site/1`, ...
        operators: the operator of each choice name, except `none`.
        backbone, latent, text: the spatial UNet and the shapes of its inputs; None in a cost-only space.
        dtype: of weights and activations.
        batch: clips denoised at once.
        text_encoder, decoder: the other models of the pipeline, for the generation time of a whole clip.
        fps: frames per second of clips; None if the space states none.
        links: pairs of slots whose layers interact although they do not follow one another, for samplers' models of
            the score. A backbone's skip connections give them; in a cost-only space they are stated.

    Raises:
        SpaceError: no slots, no or repeated choices, an unknown operator or dtype, a slot at an unknown site, a text
            encoder or decoder that does not fit, or links to an unknown slot or beside a backbone.
    """

    name: str
    slots: Mapping[str, Sequence[str]]
    operators: Mapping[str, Operator]
    backbone: Backbone | None
    latent: Latent | None
    text: Text | None
    dtype: str
    batch: int
    text_encoder: TextEncoder | None
    decoder: Decoder | None
    fps: float | None

    if TYPE_CHECKING:

        def __init__(
            self,
            name: str,
            slots: Mapping[str, Sequence[str]],
            operators: Mapping[str, Operator] | None = None,
            backbone: Backbone | None = None,
            latent: Latent | None = None,
            text: Text | None = None,
            dtype: str = "float32",
            batch: int = 1,
            text_encoder: TextEncoder | None = None,
            decoder: Decoder | None = None,
            fps: float | None = None,
            *,
            links: Iterable[tuple[str, str]] = (),
        ) -> None: ...

    def __new__(cls, *args: Any, **values: Any) -> SearchSpace:
        if cls is not SearchSpace:
            return super().__new__(cls)
        from nas.spaces.backbone_space import BackboneSpace

        given = {**dict(zip(cls.__annotations__, args)), **values}
        where = f"search space '{given.get('name', '')}'"
        if given.get("backbone") is None:
            if extra := given.keys() - {"name", "slots", "operators", "links"}:
                raise SpaceError(f"{where}: {', '.join(sorted(extra))}: needs a 'backbone' beside it")
            return super().__new__(CostOnlySpace)
        if "links" in given:
            raise SpaceError(f"{where}: links: the backbone's skip connections give them; remove 'links'")
        if given.get("latent") is None or given.get("text") is None:
            raise SpaceError(f"{where}: a backbone needs 'latent' and 'text' beside it")
        return super().__new__(BackboneSpace)

    @classmethod
    def load(cls, name: str | Path) -> SearchSpace:
        """Read a shipped space by its name, or a YAML file by its path.

        Raises:
            SpaceError: no such space, or an invalid file (the message names the line).
        """
        from nas.spaces.load import load_space

        return load_space(name)

    def save(self, path: str | Path) -> Path:
        """Write as YAML that `load` reads back into an equal space (same `hash`)."""
        from nas.spaces.load import save_space

        return save_space(self, path)

    # -- slots -----------------------------------------------------------------------------------------------------

    @property
    def sites(self) -> dict[str, Site]:
        """The backbone's sites in execution order; empty in a cost-only space."""
        return {}

    @staticmethod
    def site_name(slot: str) -> str:
        """The site of a slot: `down.0.0` for `down.0.0/1`."""
        return slot.rpartition("/")[0] or slot

    @cached_property
    def slot_groups(self) -> list[list[str]]:
        """The slots of each site, in order: among them, `none` before a layer and `none` after it are the same model.

        In a cost-only space each slot is its own group, since nothing says which slots are at one site.
        """
        return [[slot] for slot in self.slots]

    @property
    def links(self) -> Sequence[tuple[str, str]]:
        """See the class; neighbors may be among them."""
        return ()

    @cached_property
    def hash(self) -> str:
        """12 hexadecimal digits of all that an architecture depends on: not the name, text encoder, decoder or fps."""
        parts = [None if part is None else asdict(part) for part in (self.backbone, self.latent, self.text)]
        operators = {name: str(operator) for name, operator in self.operators.items()}
        return short_hash(
            [{s: list(c) for s, c in self.slots.items()}, list(self.slots), operators, parts, self.dtype, self.batch]
        )

    @cached_property
    def size(self) -> int:
        """Number of combinations of choices (different orders of `none` at one site count separately)."""
        return math.prod(len(choices) for choices in self.slots.values())

    def __repr__(self) -> str:
        return f"SearchSpace({self.name!r}, {len(self.slots)} slots, {self.size:.3g} combinations)"

    # -- shapes and workloads --------------------------------------------------------------------------------------

    @property
    def autoencoder(self) -> VAEConfig | None:
        """The autoencoder that `decoder` declares, or the small one that the stage `decoder` trains without it.

        None in a cost-only space.
        """
        return None

    @property
    def clip(self) -> Clip | None:
        """Frames, fps, height, width and seconds of what one latent decodes to, with `autoencoder`.

        None in a cost-only space.
        """
        return None

    def input_shape(self) -> tuple[int, int, int, int, int]:
        """`(B, C, T, H, W)` of the denoiser's input.

        Raises:
            SpaceError: the space is cost-only.
        """
        raise self._without_backbone()

    def context_shape(self) -> tuple[int, int, int]:
        """`(B, tokens, dim)` of the text context.

        Raises:
            SpaceError: the space is cost-only.
        """
        raise self._without_backbone()

    def workload(self, slot: str, choice: str) -> Workload | str | None:
        """What `slot` executes with `choice`; None for `none`, and the string `"slot/choice"` in a cost-only space."""
        return None if choice == NONE else f"{slot}/{choice}"

    def backbone_workload(self) -> Workload | None:
        """The denoiser with all slots empty; None in a cost-only space."""
        return None

    def workloads(self) -> list[Workload | str]:
        """The distinct workloads to measure: the backbone, then each operator at each of its shapes."""
        needed: list[Workload | str | None] = [self.backbone_workload()]
        needed += [self.workload(slot, choice) for slot, choices in self.slots.items() for choice in choices]
        return list(dict.fromkeys(workload for workload in needed if workload is not None))

    def text_workload(self) -> Workload | None:
        """The text encoder on the prompts of one batch; None if the space has none."""
        return None

    def decoder_workload(self) -> Workload | None:
        """One run of the decoder, which runs `decoder_runs` times per clip; None if the space has none."""
        return None

    @property
    def decoder_runs(self) -> int:
        """How often the decoder runs per clip; 0 if the space has none."""
        return 0

    def pipeline_workloads(self) -> list[Workload]:
        """The models of the pipeline beside the denoiser, as far as the space has them: text encoder and decoder."""
        return [workload for workload in (self.text_workload(), self.decoder_workload()) if workload is not None]

    # -- architectures ---------------------------------------------------------------------------------------------

    def architecture(self, choices: Mapping[str, str]) -> Architecture:
        """The architecture with these choices, in canonical form; slots that are not named take `none`.

        Raises:
            SpaceError: an unknown slot, or a choice that the slot does not offer.
        """
        for slot in choices:
            if slot not in self.slots:
                raise SpaceError(f"search space '{self.name}' has no slot '{slot}'{suggestion(slot, self.slots)}")
        selected = {slot: choices.get(slot, NONE) for slot in self.slots}
        for slot, choice in selected.items():
            if choice not in self.slots[slot]:
                raise SpaceError(f"slot '{slot}': unknown choice '{choice}'{suggestion(choice, self.slots[slot])}")
        return Architecture(self.name, self.hash, tuple(self._canonical(selected).items()))

    def check(self, arch: Architecture) -> Architecture:
        """`arch` in canonical form, if it belongs to this space.

        Raises:
            SpaceError: it belongs to another space, or its choices do not fit.
        """
        if arch.space_hash and arch.space_hash != self.hash:
            raise SpaceError(
                f"the architecture was made for search space '{arch.space}' ({arch.space_hash}), "
                f"not for '{self.name}' ({self.hash}); use the space it was searched in"
            )
        return self.architecture(arch.choices)

    def random(self, seed: int | np.random.Generator | None = None) -> Architecture:
        """A uniform draw for every slot, in canonical form."""
        rng = np.random.default_rng(seed)
        return self.architecture(
            {slot: choices[int(rng.integers(len(choices)))] for slot, choices in self.slots.items()}
        )

    def encode(self, arch: Architecture) -> np.ndarray:
        """Codes `(slots,)`: the index of each choice in its slot's list. Code 0 is `none` where the slot offers it."""
        choices = self.check(arch).choices
        return np.array([offered.index(choices[slot]) for slot, offered in self.slots.items()])

    def decode(self, codes: Sequence[int] | np.ndarray) -> Architecture:
        """The architecture with these codes `(slots,)`, in canonical form.

        Raises:
            SpaceError: the wrong number of codes, or a code out of range.
        """
        if len(codes) != len(self.slots):
            raise SpaceError(f"expected {len(self.slots)} codes for search space '{self.name}', got {len(codes)}")
        selected = {}
        for code, (slot, offered) in zip(codes, self.slots.items()):
            if not 0 <= code < len(offered):
                raise SpaceError(f"slot '{slot}' has codes 0..{len(offered) - 1}, not {code}")
            selected[slot] = offered[int(code)]
        return self.architecture(selected)

    def _canonical(self, selected: dict[str, str]) -> dict[str, str]:
        """Move each layer at a site as far forward as the slots allow, so that `none` is last."""
        selected = dict(selected)
        for group in self.slot_groups:
            for _ in group[1:]:
                for first, second in itertools.pairwise(group):
                    can_swap = selected[second] in self.slots[first] and NONE in self.slots[second]
                    if selected[first] == NONE and selected[second] != NONE and can_swap:
                        selected[first], selected[second] = selected[second], NONE
        return selected

    # -- checks ----------------------------------------------------------------------------------------------------

    def _without_backbone(self) -> SpaceError:
        return SpaceError(f"search space '{self.name}' is cost-only: it has no backbone and so no shapes")

    def _normalize_slots(self) -> None:
        """Check names and choices, and put `none` first in each slot."""
        if not self.slots:
            raise SpaceError(f"search space '{self.name}': slots is empty; give at least one slot with choices")
        slots = {str(slot): tuple(_none_first(choices)) for slot, choices in self.slots.items()}
        object.__setattr__(self, "slots", slots)
        object.__setattr__(self, "operators", dict(self.operators or {}))
        for name in (self.name, *slots, *(choice for choices in slots.values() for choice in choices)):
            if not str(name).isprintable() or not str(name).strip():
                raise SpaceError(f"search space: the name {shown(name)} is not one line of text")
        for slot, choices in slots.items():
            if not choices or len(set(choices)) != len(choices):
                raise SpaceError(f"search space '{self.name}': slots.{slot}: needs choices, without repetitions")


@dataclass(frozen=True, eq=False, repr=False)
class CostOnlySpace(SearchSpace):
    """A search space without a backbone: slots and choices are any names.

    Its workloads are the strings `"slot/choice"`. Enough for a search over a stored lookup table; no model can be built
    from it.
    """

    name: str
    slots: Mapping[str, Sequence[str]]
    operators: Mapping[str, Operator] = field(default_factory=dict)
    links: Sequence[tuple[str, str]] = field(default=(), kw_only=True)

    backbone = None
    latent = None
    text = None
    dtype = "float32"
    batch = 1
    text_encoder = None
    decoder = None
    fps = None

    def __post_init__(self) -> None:
        self._normalize_slots()
        object.__setattr__(self, "links", tuple(self._link(pair) for pair in self.links or ()))

    def _link(self, pair: Sequence[str]) -> tuple[str, str]:
        """
        Raises:
            SpaceError: not two different slots of this space.
        """
        where = f"search space '{self.name}': links"
        if not isinstance(pair, list | tuple) or len(pair) != 2 or pair[0] == pair[1]:
            raise SpaceError(f"{where}: each link is a pair of two different slots, not {shown(pair)}")
        for slot in pair:
            if slot not in self.slots:
                raise SpaceError(f"{where}: unknown slot {shown(slot)}{suggestion(str(slot), self.slots)}")
        return pair[0], pair[1]


def _none_first(choices: Sequence[str]) -> list[str]:
    choices = [str(choice) for choice in choices]
    if choices.count(NONE) != 1:
        return choices
    return [NONE, *(choice for choice in choices if choice != NONE)]

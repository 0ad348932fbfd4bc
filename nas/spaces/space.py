"""A search space: a backbone, its slots, and the choices each slot offers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from nas.errors import SpaceError, shown, suggestion
from nas.files import short_hash
from nas.ranges import in_range
from nas.spaces.architecture import Architecture
from nas.spaces.backbone import Backbone, Latent, Site, Text
from nas.spaces.operators import NONE, Operator
from nas.spaces.pipeline import Decoder, TextEncoder
from nas.spaces.workload import DTYPE_BYTES, Workload


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """A backbone, its slots, and the choices each slot offers.

    Without a backbone the space is *cost-only*: slots and choices are any names, its workloads are the strings
    `"slot/choice"`, and nothing can be built from it. That is all a search over a stored table needs.

    Attributes:
        name: for people and for file headers.
        slots: choices by slot, in the order in which they run. Slots of one site are named `site/0`, `site/1`, ...
        operators: what each choice name means; `none` is not among them.
        backbone, latent, text: the spatial UNet and the shapes of its inputs.
        dtype: of weights and activations.
        batch: clips denoised at once.
        text_encoder, decoder: what stands around the denoiser, for the time that a whole clip takes.

    Raises:
        SpaceError: no slots, no or repeated choices, an unknown operator or dtype, a slot at no site, a text encoder or
            a decoder that does not fit.
    """

    name: str
    slots: Mapping[str, Sequence[str]]
    operators: Mapping[str, Operator] | None = None
    backbone: Backbone | None = None
    latent: Latent | None = None
    text: Text | None = None
    dtype: str = "float32"
    batch: int = 1
    text_encoder: TextEncoder | None = None
    decoder: Decoder | None = None

    def __post_init__(self) -> None:
        if not self.slots:
            raise SpaceError(f"search space '{self.name}': slots: there are none; give at least one slot with choices")
        slots = {str(slot): tuple(_none_first(choices)) for slot, choices in self.slots.items()}
        object.__setattr__(self, "slots", slots)
        object.__setattr__(self, "operators", dict(self.operators or {}))
        in_range(self.batch, f"search space '{self.name}': batch", 1, 1 << 20)
        for name in (self.name, *slots, *(choice for choices in slots.values() for choice in choices)):
            if not str(name).isprintable() or not str(name).strip():
                raise SpaceError(f"search space: the name {shown(name)} is not one line of text")
        for slot, choices in slots.items():
            if not choices or len(set(choices)) != len(choices):
                raise SpaceError(f"search space '{self.name}': slots.{slot}: needs choices, each named once")
        if self.backbone is None:
            if self.text_encoder is not None or self.decoder is not None:
                raise SpaceError(
                    f"search space '{self.name}': a text encoder or a decoder needs a 'backbone' beside it"
                )
            return
        if self.latent is None or self.text is None:
            raise SpaceError(f"search space '{self.name}': a backbone needs 'latent' and 'text' beside it")
        if self.backbone.text_tokens not in (0, self.text.tokens):
            raise SpaceError(
                f"search space '{self.name}': backbone.text_tokens must be 0 or text.tokens={self.text.tokens}, "
                f"not {self.backbone.text_tokens}"
            )
        if self.dtype not in DTYPE_BYTES:
            raise SpaceError(
                f"search space '{self.name}': unknown dtype '{self.dtype}'{suggestion(self.dtype, DTYPE_BYTES)}"
            )
        for slot, choices in slots.items():
            if self.site_name(slot) not in self.sites:
                raise SpaceError(
                    f"search space '{self.name}': there is no site for slot '{slot}'{suggestion(slot, self.sites)}"
                )
            for choice in choices:
                self._check_choice(slot, choice)
        self._check_pipeline()

    @classmethod
    def load(cls, name: str | Path) -> SearchSpace:
        """Read a shipped space by its name, or a YAML file by its path.

        Raises:
            SpaceError: no such space, or a file that does not describe one (the text names the line).
        """
        from nas.spaces.load import load_space

        return load_space(name)

    def save(self, path: str | Path) -> Path:
        """Write as YAML that `load` reads back into an equal space (same `hash`)."""
        from nas.spaces.load import save_space

        return save_space(self, path)

    # -- what there is ---------------------------------------------------------------------------------------------

    @cached_property
    def sites(self) -> dict[str, Site]:
        """The backbone's sites in the order they run; empty in a cost-only space."""
        return self.backbone.sites(self.latent) if self.backbone else {}

    @staticmethod
    def site_name(slot: str) -> str:
        """The site that a slot stands at: `down.0.0` for `down.0.0/1`."""
        return slot.rpartition("/")[0] or slot

    @cached_property
    def slot_groups(self) -> list[list[str]]:
        """Slots that stand at one site, in order: there a `none` before a layer is the same model as one after it.

        In a cost-only space every slot is alone: nothing is known of how its slots relate.
        """
        if self.backbone is None:
            return [[slot] for slot in self.slots]
        groups: dict[str, list[str]] = {}
        for slot in self.slots:
            groups.setdefault(self.site_name(slot), []).append(slot)
        return list(groups.values())

    @cached_property
    def hash(self) -> str:
        """12 hexadecimal digits of everything that an architecture depends on: not the name, nor what stands around the
        denoiser."""
        parts = [None if part is None else asdict(part) for part in (self.backbone, self.latent, self.text)]
        operators = {name: str(operator) for name, operator in self.operators.items()}
        return short_hash(
            [{s: list(c) for s, c in self.slots.items()}, list(self.slots), operators, parts, self.dtype, self.batch]
        )

    @cached_property
    def size(self) -> int:
        """How many combinations of choices there are (orders of `none` at a site counted apart)."""
        return math.prod(len(choices) for choices in self.slots.values())

    def __repr__(self) -> str:
        return f"SearchSpace({self.name!r}, {len(self.slots)} slots, {self.size:.3g} combinations)"

    # -- shapes and workloads --------------------------------------------------------------------------------------

    def input_shape(self) -> tuple[int, int, int, int, int]:
        """`(B, C, T, H, W)` of the denoiser's input."""
        latent = self._needs_backbone().latent
        return self.batch, latent.channels, latent.frames, latent.height, latent.width

    def context_shape(self) -> tuple[int, int, int]:
        """`(B, tokens, dim)` of the text context."""
        text = self._needs_backbone().text
        return self.batch, text.tokens, text.dim

    def workload(self, slot: str, choice: str) -> Workload | str | None:
        """What runs when `slot` takes `choice`; None for `none`, the string `"slot/choice"` in a cost-only space."""
        if choice == NONE:
            return None
        if self.backbone is None:
            return f"{slot}/{choice}"
        site, operator = self.sites[self.site_name(slot)], self.operators[choice]
        shape = (self.batch, site.channels, self.latent.frames, site.height, site.width)
        return Workload(operator, shape, self.context_shape() if operator.uses_text else None, self.dtype)

    def backbone_workload(self) -> Workload | None:
        """The denoiser with nothing in its slots; None in a cost-only space."""
        if self.backbone is None:
            return None
        return Workload(self.backbone, self.input_shape(), self.context_shape(), self.dtype)

    def workloads(self) -> list[Workload | str]:
        """The distinct workloads to measure: the backbone, then each operator at each shape it can stand at."""
        found = [self.backbone_workload()]
        found += [self.workload(slot, choice) for slot, choices in self.slots.items() for choice in choices]
        return list(dict.fromkeys(workload for workload in found if workload is not None))

    def text_workload(self) -> Workload | None:
        """The text encoder on the prompts of one batch; None where the space declares none."""
        if self.text_encoder is None:
            return None
        context = self.context_shape()
        return Workload(self.text_encoder, context[:2], context, self.dtype)

    def decoder_workload(self) -> Workload | None:
        """One run of the decoder, of which a clip takes `decoder_runs`; None where the space declares none."""
        if self.decoder is None:
            return None
        batch, channels, _, height, width = self.input_shape()
        frames = self.latent.frames // self.decoder_runs
        part = self.decoder if self.decoder_runs > 1 else replace(self.decoder, frames=None)
        return Workload(part, (batch, channels, frames, height, width), dtype=self.dtype)

    @property
    def decoder_runs(self) -> int:
        """How often the decoder runs for a clip; 0 where the space declares none."""
        if self.decoder is None:
            return 0
        frames = self._needs_backbone().latent.frames
        return frames // min(self.decoder.frames or frames, frames)

    def pipeline_workloads(self) -> list[Workload]:
        """What a clip needs beside the denoiser, as far as the space declares it: the text encoder and the decoder."""
        return [workload for workload in (self.text_workload(), self.decoder_workload()) if workload is not None]

    # -- architectures ---------------------------------------------------------------------------------------------

    def architecture(self, choices: Mapping[str, str]) -> Architecture:
        """The architecture with these choices, in canonical form; slots that are not named take `none`.

        Raises:
            SpaceError: an unknown slot, or a choice that a slot does not offer.
        """
        for slot in choices:
            if slot not in self.slots:
                raise SpaceError(f"search space '{self.name}' has no slot '{slot}'{suggestion(slot, self.slots)}")
        chosen = {slot: choices.get(slot, NONE) for slot in self.slots}
        for slot, choice in chosen.items():
            if choice not in self.slots[slot]:
                raise SpaceError(f"slot '{slot}' offers no '{choice}'{suggestion(choice, self.slots[slot])}")
        return Architecture(self.name, self.hash, tuple(self._canonical(chosen).items()))

    def check(self, arch: Architecture) -> Architecture:
        """`arch` itself, in canonical form, if it belongs to this space.

        Raises:
            SpaceError: it was made for another space, or its choices do not fit.
        """
        if arch.space_hash and arch.space_hash != self.hash:
            raise SpaceError(
                f"the architecture was made for search space '{arch.space}' ({arch.space_hash}), "
                f"not for '{self.name}' ({self.hash}); use the space it was searched in"
            )
        return self.architecture(arch.choices)

    def random(self, seed: int | np.random.Generator | None = None) -> Architecture:
        """A uniform draw for every slot, then brought into canonical form."""
        rng = np.random.default_rng(seed)
        return self.architecture({slot: choices[rng.integers(len(choices))] for slot, choices in self.slots.items()})

    def encode(self, arch: Architecture) -> np.ndarray:
        """Codes `(slots,)`: each choice's place in its slot's list. Code 0 is `none` where the slot offers it."""
        choices = self.check(arch).choices
        return np.array([offered.index(choices[slot]) for slot, offered in self.slots.items()])

    def decode(self, codes: Sequence[int] | np.ndarray) -> Architecture:
        """The architecture with these codes `(slots,)`, in canonical form.

        Raises:
            SpaceError: the wrong number of codes, or a code that no choice has.
        """
        if len(codes) != len(self.slots):
            raise SpaceError(f"expected {len(self.slots)} codes for search space '{self.name}', got {len(codes)}")
        chosen = {}
        for code, (slot, offered) in zip(codes, self.slots.items()):
            if not 0 <= code < len(offered):
                raise SpaceError(f"slot '{slot}' has codes 0..{len(offered) - 1}, not {code}")
            chosen[slot] = offered[int(code)]
        return self.architecture(chosen)

    def _canonical(self, chosen: dict[str, str]) -> dict[str, str]:
        """Move every layer at a site as far forward as the slots offer it, so that `none` stands last."""
        chosen = dict(chosen)
        for group in self.slot_groups:
            for _ in group[1:]:
                for first, second in itertools.pairwise(group):
                    swap_fits = chosen[second] in self.slots[first] and NONE in self.slots[second]
                    if chosen[first] == NONE and chosen[second] != NONE and swap_fits:
                        chosen[first], chosen[second] = chosen[second], NONE
        return chosen

    # -- checks ----------------------------------------------------------------------------------------------------

    def _needs_backbone(self) -> SearchSpace:
        if self.backbone is None:
            raise SpaceError(f"search space '{self.name}' is cost-only: it has no backbone and so no shapes")
        return self

    def _check_pipeline(self) -> None:
        where = f"search space '{self.name}'"
        if self.text_encoder is not None and self.text.dim % self.text_encoder.heads:
            raise SpaceError(
                f"{where}: text_encoder.heads: {self.text_encoder.heads} heads cannot share text.dim={self.text.dim}"
            )
        if self.decoder is None:
            return
        if self.decoder.vae.latent_channels != self.latent.channels:
            raise SpaceError(
                f"{where}: decoder.vae.latent_channels: {self.decoder.vae.latent_channels}, "
                f"but the latents have {self.latent.channels} channels"
            )
        if self.decoder.frames is not None and self.latent.frames % min(self.decoder.frames, self.latent.frames):
            raise SpaceError(
                f"{where}: decoder.frames: {self.decoder.frames} does not divide latent.frames={self.latent.frames}"
            )

    def _check_choice(self, slot: str, choice: str) -> None:
        if choice == NONE:
            return
        where = f"search space '{self.name}': slots.{slot}"
        if choice not in self.operators:
            raise SpaceError(f"{where}: unknown choice '{choice}'{suggestion(choice, [NONE, *self.operators])}")
        channels, heads = (
            self.sites[self.site_name(slot)].channels,
            dict(self.operators[choice].options).get("heads", 1),
        )
        if channels % heads:
            raise SpaceError(f"{where}: {choice}: {channels} channels cannot be split into {heads} heads")


def _none_first(choices: Sequence[str]) -> list[str]:
    choices = [str(choice) for choice in choices]
    return (
        [NONE] * (NONE in choices) + [choice for choice in choices if choice != NONE]
        if choices.count(NONE) < 2
        else choices
    )

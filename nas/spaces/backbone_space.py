"""A search space with a backbone: its slots are at the sites of a UNet, and its choices are temporal operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nas.errors import SpaceError, suggestion
from nas.ranges import in_range
from nas.spaces.backbone import Backbone, Latent, Site, Text
from nas.spaces.clip import DEFAULT_FPS, Clip, check_fps
from nas.spaces.operators import NONE, Operator
from nas.spaces.pipeline import Decoder, TextEncoder, VAEConfig
from nas.spaces.space import SearchSpace
from nas.spaces.topology import linked_sites
from nas.spaces.workload import DTYPE_BYTES, Workload


@dataclass(frozen=True, eq=False, repr=False)
class BackboneSpace(SearchSpace):
    """A search space from which models can be built; see `SearchSpace` for its attributes and errors."""

    name: str
    slots: Mapping[str, Sequence[str]]
    operators: Mapping[str, Operator]
    backbone: Backbone
    latent: Latent
    text: Text
    dtype: str = "float32"
    batch: int = 1
    text_encoder: TextEncoder | None = None
    decoder: Decoder | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        self._normalize_slots()
        where = f"search space '{self.name}'"
        if self.fps is not None:
            check_fps(self.fps, f"{where}: fps")
        in_range(self.batch, f"{where}: batch", 1, 1 << 20)
        if self.backbone.text_tokens not in (0, self.text.tokens):
            raise SpaceError(
                f"{where}: backbone.text_tokens must be 0 or text.tokens={self.text.tokens}, "
                f"not {self.backbone.text_tokens}"
            )
        if self.dtype not in DTYPE_BYTES:
            raise SpaceError(f"{where}: unknown dtype '{self.dtype}'{suggestion(self.dtype, DTYPE_BYTES)}")
        for slot, choices in self.slots.items():
            if self.site_name(slot) not in self.sites:
                raise SpaceError(f"{where}: slot '{slot}' is at an unknown site{suggestion(slot, self.sites)}")
            for choice in choices:
                self._check_choice(slot, choice)
        self._check_pipeline()

    @cached_property
    def sites(self) -> dict[str, Site]:
        return self.backbone.sites(self.latent)

    @cached_property
    def slot_groups(self) -> list[list[str]]:
        groups: dict[str, list[str]] = {}
        for slot in self.slots:
            groups.setdefault(self.site_name(slot), []).append(slot)
        return list(groups.values())

    @cached_property
    def links(self) -> Sequence[tuple[str, str]]:
        """The slots of every two sites that a skip connection joins."""
        at = {self.site_name(group[0]): group for group in self.slot_groups}
        pairs = linked_sites(self.backbone)
        return [(a, b) for first, second in pairs for a in at.get(first, ()) for b in at.get(second, ())]

    @property
    def autoencoder(self) -> VAEConfig:
        if self.decoder is not None:
            return self.decoder.vae
        return VAEConfig((16, 32, 32), latent_channels=self.latent.channels, norm_groups=8, mid_attention=False)

    @property
    def clip(self) -> Clip:
        return Clip.of(self.latent, self.autoencoder, DEFAULT_FPS if self.fps is None else self.fps)

    def input_shape(self) -> tuple[int, int, int, int, int]:
        return self.batch, self.latent.channels, self.latent.frames, self.latent.height, self.latent.width

    def context_shape(self) -> tuple[int, int, int]:
        return self.batch, self.text.tokens, self.text.dim

    def workload(self, slot: str, choice: str) -> Workload | None:
        if choice == NONE:
            return None
        site, operator = self.sites[self.site_name(slot)], self.operators[choice]
        shape = (self.batch, site.channels, self.latent.frames, site.height, site.width)
        return Workload(operator, shape, self.context_shape() if operator.uses_text else None, self.dtype)

    def backbone_workload(self) -> Workload:
        return Workload(self.backbone, self.input_shape(), self.context_shape(), self.dtype)

    def text_workload(self) -> Workload | None:
        if self.text_encoder is None:
            return None
        context = self.context_shape()
        return Workload(self.text_encoder, context[:2], context, self.dtype)

    def decoder_workload(self) -> Workload | None:
        if self.decoder is None:
            return None
        batch, channels, _, height, width = self.input_shape()
        frames = self.latent.frames // self.decoder_runs
        decoder = self.decoder if self.decoder_runs > 1 else replace(self.decoder, frames=None)
        return Workload(decoder, (batch, channels, frames, height, width), dtype=self.dtype)

    @property
    def decoder_runs(self) -> int:
        if self.decoder is None:
            return 0
        return self.latent.frames // min(self.decoder.frames or self.latent.frames, self.latent.frames)

    def _check_choice(self, slot: str, choice: str) -> None:
        if choice == NONE:
            return
        where = f"search space '{self.name}': slots.{slot}"
        if choice not in self.operators:
            raise SpaceError(f"{where}: unknown choice '{choice}'{suggestion(choice, [NONE, *self.operators])}")
        channels = self.sites[self.site_name(slot)].channels
        heads = dict(self.operators[choice].options).get("heads", 1)
        if channels % heads:
            raise SpaceError(f"{where}: {choice}: {channels} channels cannot be split into {heads} heads")

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

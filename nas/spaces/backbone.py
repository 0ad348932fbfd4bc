"""The configuration of the spatial UNet (widths, depths), and its sites, where temporal layers may be inserted."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from nas.errors import SpaceError
from nas.files import short_hash
from nas.ranges import check_range
from nas.spaces.topology import Layer, unet_layers

MAX_SIZE, MAX_LEVELS = 1 << 20, 16
"""Largest values accepted from a file: channels or side lengths; levels, or layers of a block."""


@dataclass(frozen=True)
class Latent:
    """The shape of one latent clip, without the batch: channels, frames T, height H, width W."""

    channels: int
    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        check_range(self, ("channels", "frames", "height", "width"), 1, MAX_SIZE, where="latent.")


@dataclass(frozen=True)
class Text:
    """The shape of the text context: tokens and their dimension, and the text encoder."""

    tokens: int
    dim: int
    encoder: str = "minilm"

    def __post_init__(self) -> None:
        check_range(self, ("tokens", "dim"), 1, MAX_SIZE, where="text.")


@dataclass(frozen=True)
class Site:
    """A position after a spatial block where temporal layers may be inserted.

    Attributes:
        name: `down.LEVEL.LAYER`, `mid.0` or `up.LEVEL.LAYER`, numbered in execution order.
        channels, height, width: of the features at the site.
        skip_elements: elements per frame of the skip connections that are kept in memory while the site runs, because a
            later up block reads them; without the site's own input.
    """

    name: str
    channels: int
    height: int
    width: int
    skip_elements: int


@dataclass(frozen=True)
class Backbone:
    """A Stable Diffusion UNet, parameterized like diffusers' `UNet2DConditionModel`.

    Attributes:
        channels: width of each level, from high resolution to low; each next level halves height and width.
        layers_per_block: resnets in a down block; an up block has one more.
        attention_levels: the levels whose resnets are each followed by a transformer (self-attention, attention to
            the text, feed-forward).
        mid: whether there is a mid block (resnet, transformer, resnet).
        heads: attention heads of the spatial transformers.
        norm_groups: groups of the GroupNorms; must divide every width.
        text_tokens: number of text tokens that are standardized and added to the timestep embedding; 0 for none, as in
            Stable Diffusion v1.5. A small model learns short prompts slowly through cross-attention alone.

    Raises:
        ConfigError: a number out of range.
        SpaceError: a width that is not divisible by the groups and the heads, or an unknown attention level.
    """

    channels: tuple[int, ...]
    layers_per_block: int = 1
    attention_levels: tuple[int, ...] = ()
    mid: bool = True
    heads: int = 8
    norm_groups: int = 32
    text_tokens: int = 0

    def __post_init__(self) -> None:
        if not self.channels:
            raise SpaceError("backbone.channels is empty; give one width per level")
        check_range(self, ("channels", "heads", "norm_groups"), 1, MAX_SIZE, where="backbone.")
        check_range(self, ("layers_per_block",), 1, MAX_LEVELS, where="backbone.")
        check_range(self, ("text_tokens",), 0, MAX_SIZE, where="backbone.")
        if len(self.channels) > MAX_LEVELS:
            raise SpaceError(f"backbone.channels: {len(self.channels)} levels; at most {MAX_LEVELS} are supported")
        for width in self.channels:
            if width % self.norm_groups or width % self.heads:
                raise SpaceError(
                    f"backbone.channels: {width} is not divisible by norm_groups={self.norm_groups} "
                    f"and heads={self.heads}; choose a multiple of both"
                )
        for level in self.attention_levels:
            if not 0 <= level < len(self.channels):
                raise SpaceError(
                    f"backbone.attention_levels: unknown level {level}; the levels are 0..{len(self.channels) - 1}"
                )

    def hash(self) -> str:
        return short_hash(asdict(self))

    def layers(self) -> list[Layer]:
        """Every layer in execution order."""
        return unet_layers(self)

    def sites(self, latent: Latent) -> dict[str, Site]:
        """Every site in execution order.

        Raises:
            SpaceError: height or width is not divisible by 2 ** (levels - 1).
        """
        levels = len(self.channels)
        if latent.height % 2 ** (levels - 1) or latent.width % 2 ** (levels - 1):
            raise SpaceError(
                f"latent: {latent.height}x{latent.width} must be divisible by {2 ** (levels - 1)}, as the backbone has {levels} levels"
            )

        sites: dict[str, Site] = {}
        skips: dict[str, int] = {}
        for layer in self.layers():
            height, width = latent.height >> layer.level, latent.width >> layer.level
            skips.pop(layer.skip, None)
            if layer.site:
                alive = sum(skips.values())
                sites[layer.site] = Site(layer.site, layer.channels, height, width, alive)
            if layer.is_skip:
                skips[layer.name] = layer.channels * height * width
        return sites

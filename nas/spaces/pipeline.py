"""Configurations of the pipeline's other models, which are not searched: the text encoder and the video decoder.

Their latency is part of the generation time of a clip.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from nas.config import AtLeast1, keyed
from nas.errors import ConfigError, SpaceError, shown, suggestion
from nas.files import short_hash
from nas.ranges import check_range

TEXT_ENCODERS = ("bert", "clip")
TEMPORAL_COMPRESSIONS = (1, 2, 4, 8)
MAX_WIDTH, MAX_LEVELS = 1 << 20, 16
"""Largest values accepted from a file: channels of a level; levels, or layers of a block."""


@dataclass(frozen=True)
class TextEncoder:
    """The transformer that encodes the tokens of a prompt into the text context, whose shape is the space's `text`.

    Attributes:
        kind: `bert` (bidirectional, normed after each layer) or `clip` (causal, normed before).
        layers: transformer layers, whose feed-forward width is four times the context's.
        heads: attention heads.
        vocabulary: number of tokens.

    Raises:
        SpaceError: an unknown kind.
        ConfigError: a number out of range.
    """

    kind: str
    layers: int
    heads: int
    vocabulary: int

    def __post_init__(self) -> None:
        if self.kind not in TEXT_ENCODERS:
            raise SpaceError(f"text_encoder: unknown kind {shown(self.kind)}{suggestion(self.kind, TEXT_ENCODERS)}")
        check_range(self, ("layers",), 1, 1000, where="text_encoder.")
        check_range(self, ("heads", "vocabulary"), 1, 1 << 24, where="text_encoder.")

    def hash(self) -> str:
        return short_hash(asdict(self))


class Compression:
    """How many frames latents stand for, from the attribute `temporal_compression`.

    The first latent frame stands for the first frame alone: T latent frames decode to `(T - 1) * temporal_compression + 1`
    frames.
    """

    if TYPE_CHECKING:

        @property
        def temporal_compression(self) -> int: ...

    def pixel_frames(self, latent_frames: int) -> int:
        """Frames that latents of this length decode to."""
        return (latent_frames - 1) * self.temporal_compression + 1

    def latent_frames(self, frames: int) -> int:
        """The fewest latent frames that decode to at least `frames` frames."""
        return -(-(frames - 1) // self.temporal_compression) + 1


@dataclass(frozen=True)
class VAEConfig(Compression):
    """The configuration of an autoencoder: by default a tiny one; `stable_diffusion()` is that of Stable Diffusion.

    Attributes:
        channels: width of each level, from high resolution to low; each next level halves height and width.
        layers_per_block: resnets in an encoder block; a decoder block has one more.
        latent_channels: channels of a latent.
        image_channels: 3 for color, 1 for gray.
        norm_groups: groups of the GroupNorms; must divide every width.
        mid_attention: self-attention in the mid blocks.
        scaling_factor: latents are multiplied by this, so that their standard deviation is near 1.
        temporal_compression: frames per latent frame, 1, 2, 4 or 8; see `Compression`.
        latents_mean, latents_std: by latent channel, subtracted and divided by before the scaling; None: 0 and 1.
        encoder: a folder or Hub name of the public autoencoder whose latents this decoder decodes, from whose decoder it is
            distilled; None: the encoder is this configuration's own.

    Raises:
        ConfigError: a width that the groups do not divide, a number out of range, too few levels for the temporal
            compression, or another number of means than of latent channels.
    """

    channels: tuple[int, ...] = (32, 64, 64)
    layers_per_block: int = 1
    latent_channels: int = 4
    image_channels: int = 3
    norm_groups: int = 32
    mid_attention: bool = True
    scaling_factor: float = 1.0
    temporal_compression: int = 1
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    encoder: str | None = None

    def __post_init__(self) -> None:
        check_normalization(self)
        check_range(self, ("channels", "latent_channels", "image_channels", "norm_groups"), 1, MAX_WIDTH)
        check_range(self, ("layers_per_block",), 1, MAX_LEVELS)
        if not 1 <= len(self.channels) <= MAX_LEVELS:
            raise ConfigError(f"channels: expected one width a level, up to {MAX_LEVELS}, found {len(self.channels)}")
        for width in self.channels:
            if width % self.norm_groups:
                raise ConfigError(f"channels: {width} is not a multiple of norm_groups={self.norm_groups}")
        if self.temporal_compression not in TEMPORAL_COMPRESSIONS:
            known = ", ".join(map(str, TEMPORAL_COMPRESSIONS))
            raise ConfigError(f"temporal_compression: must be one of {known}, not {self.temporal_compression}")
        if self.temporal_compression > self.downsampling:
            raise ConfigError(
                f"temporal_compression: {self.temporal_compression} needs a spatial compression of at least as much; "
                f"{len(self.channels)} levels of channels give {self.downsampling}"
            )

    @property
    def downsampling(self) -> int:
        """Pixels per latent, in height and in width."""
        return 1 << (len(self.channels) - 1)

    @property
    def temporal_levels(self) -> int:
        """How many of the downsamplers, and of the upsamplers, also halve or double the number of frames."""
        return self.temporal_compression.bit_length() - 1

    @classmethod
    def stable_diffusion(cls) -> VAEConfig:
        """The configuration of Stable Diffusion v1.5's VAE."""
        return cls((128, 256, 512, 512), layers_per_block=2, scaling_factor=0.18215)


def check_normalization(config: Any) -> None:
    """Check the fields `scaling_factor`, `latents_mean` and `latents_std` of an autoencoder's configuration.

    Raises:
        ConfigError: a number out of range, or not one for each of `latent_channels`.
    """
    check_range(config, ("scaling_factor",), 0, above=True)
    check_range(config, ("latents_mean",), -math.inf)
    check_range(config, ("latents_std",), 0, above=True)
    for name in ("latents_mean", "latents_std"):
        values = getattr(config, name)
        if values is not None and len(values) != config.latent_channels:
            raise ConfigError(f"{name}: {len(values)} values for {config.latent_channels} latent channels")


@dataclass(frozen=True)
class Decoder:
    """The video decoder, and how many latent frames it decodes per run.

    Attributes:
        vae: the autoencoder whose decoder it is.
        frames: latent frames per run, to bound memory: a clip then takes several runs, each of which passes its last
            frames to the next. None: the whole clip in one run.

    Raises:
        SpaceError: `frames` below 1.
    """

    vae: VAEConfig
    frames: int | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < 1:
            raise SpaceError(f"decoder.frames: must be at least 1, not {self.frames}")

    def hash(self) -> str:
        """Hash of everything that the latency of decoding depends on, so without the normalization of latents.

        Without temporal compression it is that of versions that had none, so that their tables keep their rows.
        """
        vae = {**asdict(self.vae), "scaling_factor": None}
        for name in ("latents_mean", "latents_std", "encoder"):
            del vae[name]
        if self.vae.temporal_compression == 1:
            del vae["temporal_compression"]
        return short_hash([vae, self.frames is None])


@dataclass(frozen=True)
class AutoencoderKeys(VAEConfig):
    """The key `autoencoder` of a search-space file: the fields of `VAEConfig`, or `spatial_compression` for `channels`.

    Attributes:
        channels: may be omitted beside `spatial_compression` or `from`: the widths are then those of Stable Diffusion, 128,
            256 and 512 for each further level.
        spatial_compression: pixels per latent in height and in width, a power of two.
        public: the key `from`, a public autoencoder: see `nas.spaces.public_autoencoder`. The fields of the latents follow
            from it; the others are those of the decoder that is distilled from it.
    """

    channels: tuple[int, ...] = ()
    spatial_compression: int | None = None
    public: str | None = keyed("from", default=None)

    def __post_init__(self) -> None:
        if self.encoder is not None:
            raise ConfigError("autoencoder.encoder: give the public autoencoder as 'from'")
        if self.public is not None:  # checked once the latents' fields are known
            return
        wanted = self.spatial_compression
        if not self.channels:
            if wanted is None:
                raise ConfigError("autoencoder: give 'channels', 'spatial_compression' or 'from'")
            if not 1 <= wanted <= 1 << (MAX_LEVELS - 1) or wanted & (wanted - 1):
                raise ConfigError(
                    f"autoencoder.spatial_compression: must be a power of two up to {1 << (MAX_LEVELS - 1)}, not {wanted}"
                )
            levels = wanted.bit_length()
            object.__setattr__(self, "channels", (128, 256, *[512] * levels)[:levels])
        super().__post_init__()
        if wanted not in (None, self.downsampling):
            raise ConfigError(
                f"autoencoder.spatial_compression: {wanted}, but {len(self.channels)} levels of channels compress by "
                f"{self.downsampling}"
            )

    def to_config(self) -> VAEConfig:
        return VAEConfig(**{f.name: getattr(self, f.name) for f in fields(VAEConfig)})


@dataclass(frozen=True)
class DecoderKeys:
    """The key `decoder` of a search-space file.

    Attributes:
        vae: the autoencoder, unless the file has it as `autoencoder`.
        frames: see `Decoder`.
    """

    vae: VAEConfig | None = None
    frames: AtLeast1 | None = None

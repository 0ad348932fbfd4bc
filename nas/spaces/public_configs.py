"""The keys of the configs of diffusers' autoencoders, and the latents that they describe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from nas.config import AtLeast1
from nas.errors import ConfigError
from nas.ranges import Range
from nas.spaces.pipeline import MAX_LEVELS, MAX_WIDTH, Compression, check_normalization

Width = Annotated[int, Range(1, MAX_WIDTH)]
Layers = Annotated[int, Range(1, MAX_LEVELS)]


@dataclass(frozen=True)
class PublicVAEConfig(Compression):
    """The latents of a public autoencoder: `(z - latents_mean) / latents_std * scaling_factor`, z being the encoder's mean.

    Attributes:
        kind: the class in diffusers.
        latent_channels, image_channels: of latents, and of images.
        downsampling: pixels per latent in height and in width.
        temporal_compression: frames per latent frame; see `Compression`.
        scaling_factor, latents_mean, latents_std: as in `VAEConfig`; a shift factor is a mean.

    Raises:
        ConfigError: a number out of range, or another number of means than of latent channels.
    """

    kind: str
    latent_channels: int
    image_channels: int
    downsampling: int
    temporal_compression: int = 1
    scaling_factor: float = 1.0
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_normalization(self)


@dataclass(frozen=True)
class _Keys:
    """The keys of a class's config with diffusers' defaults. Those of type `Any` are only diffusers' concern."""

    FIXED: ClassVar[dict[str, Any]] = {}
    """The only value that is implemented, by key."""

    def latents(self, kind: str) -> PublicVAEConfig:
        """
        Raises:
            ConfigError: a value is not implemented, or contradicts another.
        """
        for name, value in self.FIXED.items():
            if getattr(self, name) not in (None, value):
                raise ConfigError(f"{name}: {getattr(self, name)!r:.60} is not implemented, only {value!r}")
        return self._latents(kind)

    def _latents(self, kind: str) -> PublicVAEConfig:
        raise NotImplementedError


@dataclass(frozen=True)
class _Blocks(_Keys):
    """The keys that most classes share."""

    in_channels: Width = 3
    out_channels: Width = 3
    latent_channels: Width = 4
    scaling_factor: float = 1.0
    block_out_channels: tuple[Width, ...] = (64,)
    act_fn: Any = None
    force_upcast: Any = None  # to float32, in which models run here

    def _latents_of(
        self,
        kind: str,
        downsampling: int,
        temporal_compression: int = 1,
        shift: float | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> PublicVAEConfig:
        if (mean is None) != (std is None):
            raise ConfigError("latents_mean, latents_std: one without the other is not implemented")
        if shift and mean is not None:
            raise ConfigError("shift_factor: is not implemented beside latents_mean")
        return PublicVAEConfig(
            kind,
            self.latent_channels,
            _image_channels(self.in_channels, self.out_channels),
            downsampling,
            temporal_compression,
            self.scaling_factor,
            (shift,) * self.latent_channels if shift else mean,
            std,
        )


@dataclass(frozen=True)
class _KL(_Blocks):
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    layers_per_block: Layers = 1
    down_block_types: Any = None
    up_block_types: Any = None
    norm_num_groups: Any = None
    mid_block_add_attention: Any = None
    use_quant_conv: Any = None
    use_post_quant_conv: Any = None

    def _latents(self, kind: str) -> PublicVAEConfig:
        factor = 1 << (len(self.block_out_channels) - 1)
        return self._latents_of(kind, factor, 1, self.shift_factor, self.latents_mean, self.latents_std)


@dataclass(frozen=True)
class _Tiny(_Blocks):
    shift_factor: float | None = None
    encoder_block_out_channels: tuple[Width, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[Width, ...] = (64, 64, 64, 64)
    num_encoder_blocks: tuple[Annotated[int, Range(0, MAX_LEVELS)], ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[Annotated[int, Range(0, MAX_LEVELS)], ...] = (3, 3, 3, 1)
    upsampling_scaling_factor: Layers = 2
    upsample_fn: Any = None
    latent_magnitude: Any = None  # for storing latents as bytes
    latent_shift: Any = None

    def _latents(self, kind: str) -> PublicVAEConfig:
        down = 1 << (len(self.num_encoder_blocks) - 1)
        up = self.upsampling_scaling_factor ** (len(self.num_decoder_blocks) - 1)
        if up != down:
            raise ConfigError(f"num_decoder_blocks: enlarge by {up}, but num_encoder_blocks reduce by {down}")
        return self._latents_of(kind, down, shift=self.shift_factor)


@dataclass(frozen=True)
class _CogVideoX(_Blocks):
    latent_channels: Width = 16
    scaling_factor: float = 1.15258426
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    block_out_channels: tuple[Width, ...] = (128, 256, 256, 512)
    layers_per_block: Layers = 3
    down_block_types: Any = None
    up_block_types: Any = None
    norm_num_groups: Any = None
    norm_eps: Any = None
    temporal_compression_ratio: float = 4
    sample_height: Any = None
    sample_width: Any = None
    use_quant_conv: Any = None
    use_post_quant_conv: Any = None
    invert_scale_latents: Any = None

    FIXED: ClassVar[dict[str, Any]] = dict.fromkeys(
        ("use_quant_conv", "use_post_quant_conv", "invert_scale_latents"), False
    )

    def _latents(self, kind: str) -> PublicVAEConfig:
        levels = len(self.block_out_channels) - 1
        compression = _power_of_two(self.temporal_compression_ratio, "temporal_compression_ratio", 1 << levels)
        return self._latents_of(kind, 1 << levels, compression, self.shift_factor, self.latents_mean, self.latents_std)


@dataclass(frozen=True)
class _HunyuanVideo(_Blocks):
    latent_channels: Width = 16
    scaling_factor: float = 0.476986
    block_out_channels: tuple[Width, ...] = (128, 256, 512, 512)
    layers_per_block: Layers = 2
    spatial_compression_ratio: AtLeast1 = 8
    temporal_compression_ratio: int = 4
    down_block_types: Any = None
    up_block_types: Any = None
    norm_num_groups: Any = None
    mid_block_add_attention: Any = None

    FIXED: ClassVar[dict[str, Any]] = {"temporal_compression_ratio": 4}  # diffusers' decoder knows no other

    def _latents(self, kind: str) -> PublicVAEConfig:
        blocks = len(self.block_out_channels)
        if blocks < 3:
            raise ConfigError(f"block_out_channels: {blocks} blocks are too few for a temporal compression of 4")
        return self._latents_of(
            kind, _power_of_two(self.spatial_compression_ratio, "spatial_compression_ratio", 1 << blocks), 4
        )


@dataclass(frozen=True)
class _Wan(_Keys):
    """`scale_factor_*` only describe what follows from the other keys."""

    z_dim: Width = 16
    in_channels: Width = 3
    out_channels: Width = 3
    patch_size: AtLeast1 | None = None
    base_dim: Width = 96
    decoder_base_dim: Width | None = None
    dim_mult: tuple[Width, ...] = (1, 2, 4, 4)
    num_res_blocks: Layers = 2
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] = (
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    )  # fmt: skip
    latents_std: tuple[float, ...] = (
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    )  # fmt: skip
    attn_scales: Any = None
    is_residual: Any = None
    scale_factor_temporal: Any = None
    scale_factor_spatial: Any = None

    def _latents(self, kind: str) -> PublicVAEConfig:
        levels = len(self.dim_mult) - 1
        if len(self.temperal_downsample) != levels or sum(self.temperal_downsample) != 2:
            raise ConfigError(
                f"temperal_downsample: {list(self.temperal_downsample)} is not implemented: diffusers encodes 4 frames at a "
                f"time, so exactly two of its {levels} levels must be true"
            )
        patch = self.patch_size or 1
        channels = _image_channels(self.in_channels, self.out_channels)
        if channels % patch**2:
            raise ConfigError(f"in_channels: {channels} is not a multiple of patch_size {patch} squared")
        return PublicVAEConfig(
            kind,
            self.z_dim,
            channels // patch**2,
            patch << levels,
            4,
            latents_mean=self.latents_mean,
            latents_std=self.latents_std,
        )


@dataclass(frozen=True)
class _LTXVideo(_Keys):
    """`*_compression_ratio` only describe what follows from the other keys; mean and std are among the weights."""

    in_channels: Width = 3
    out_channels: Width = 3
    latent_channels: Width = 128
    block_out_channels: tuple[Width, ...] = (128, 256, 512, 512)
    down_block_types: tuple[str, ...] = ("LTXVideoDownBlock3D",) * 4
    decoder_block_out_channels: tuple[Width, ...] = (128, 256, 512, 512)
    layers_per_block: tuple[Layers, ...] = (4, 3, 3, 3, 4)
    decoder_layers_per_block: tuple[Layers, ...] = (4, 3, 3, 3, 4)
    spatio_temporal_scaling: tuple[bool, ...] = (True, True, True, False)
    decoder_spatio_temporal_scaling: tuple[bool, ...] = (True, True, True, False)
    decoder_inject_noise: tuple[bool, ...] = (False,) * 5
    downsample_type: tuple[str, ...] = ("conv",) * 4
    upsample_residual: Any = None
    upsample_factor: Any = None
    timestep_conditioning: Any = None
    patch_size: AtLeast1 = 4
    patch_size_t: int = 1
    resnet_norm_eps: Any = None
    scaling_factor: float = 1.0
    encoder_causal: Any = None
    decoder_causal: Any = None
    spatial_compression_ratio: Any = None
    temporal_compression_ratio: Any = None

    FIXED: ClassVar[dict[str, Any]] = {"patch_size_t": 1}

    def _latents(self, kind: str) -> PublicVAEConfig:
        if any(self.decoder_inject_noise):
            raise ConfigError("decoder_inject_noise: is not implemented: the same latents must give the same clip")
        blocks = len(self.block_out_channels) - (self.down_block_types[-1:] == ("LTXVideo095DownBlock3D",))
        for name in ("down_block_types", "spatio_temporal_scaling", "downsample_type"):
            if len(getattr(self, name)) < blocks:
                raise ConfigError(f"{name}: {len(getattr(self, name))} entries for {blocks} blocks")
        spatial = temporal = 0
        for block, scales, how in zip(
            self.down_block_types[:blocks], self.spatio_temporal_scaling, self.downsample_type
        ):
            conv = block == "LTXVideoDownBlock3D"
            spatial += scales and (conv or how != "temporal")
            temporal += scales and (conv or how != "spatial")
        up = sum(self.decoder_spatio_temporal_scaling)
        if (spatial, temporal) != (up, up):
            raise ConfigError(
                f"decoder_spatio_temporal_scaling: enlarges {up} times, but the encoder halves height and width {spatial} "
                f"times and time {temporal} times"
            )
        return PublicVAEConfig(
            kind,
            self.latent_channels,
            _image_channels(self.in_channels, self.out_channels),
            self.patch_size << spatial,
            1 << temporal,
            self.scaling_factor,
        )


KINDS: dict[str, type[_Keys]] = {
    "AutoencoderKL": _KL,
    "AutoencoderKLCogVideoX": _CogVideoX,
    "AutoencoderKLHunyuanVideo": _HunyuanVideo,
    "AutoencoderKLLTXVideo": _LTXVideo,
    "AutoencoderKLWan": _Wan,
    "AutoencoderTiny": _Tiny,
}
"""The keys of each class's config."""


def _image_channels(inputs: int, outputs: int) -> int:
    if inputs != outputs:
        raise ConfigError(f"out_channels: {outputs} is not implemented beside in_channels {inputs}")
    return inputs


def _power_of_two(value: float, name: str, most: int) -> int:
    number = int(value)
    if number != value or number < 1 or number & (number - 1) or number > most:
        raise ConfigError(f"{name}: {value:g} is not a power of two up to {most}, which the number of blocks allows")
    return number

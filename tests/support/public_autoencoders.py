"""A tiny random autoencoder of each of diffusers' classes that this library runs."""

from __future__ import annotations

KINDS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderKLWan", "AutoencoderKLCogVideoX")
KINDS += ("AutoencoderKLHunyuanVideo", "AutoencoderKLLTXVideo")


def tiny(kind: str, **options):
    """A model in evaluation mode with random weights and, if the class has one, a normalization of its own."""
    import diffusers
    import torch

    torch.manual_seed(0)
    model = getattr(diffusers, kind)(**{**OPTIONS[kind], **options}).eval().requires_grad_(False)
    if kind == "AutoencoderKLLTXVideo":
        channels = model.config.latent_channels
        model.latents_mean.copy_(torch.linspace(-0.5, 0.5, channels))
        model.latents_std.copy_(torch.linspace(0.5, 2, channels))
    return model


OPTIONS = {
    "AutoencoderKL": {
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 4,
        "scaling_factor": 0.36,
        "shift_factor": 0.12,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8),
        "num_encoder_blocks": (1, 1, 1),
        "num_decoder_blocks": (1, 1, 1),
        "scaling_factor": 0.7,
        "shift_factor": 0.2,
    },
    "AutoencoderKLWan": {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 1, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        "latents_mean": [0.1, -0.2, 0.3, -0.4],
        "latents_std": [0.5, 1.0, 1.5, 2.0],
    },
    "AutoencoderKLCogVideoX": {
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("CogVideoXDownBlock3D",) * 3,
        "up_block_types": ("CogVideoXUpBlock3D",) * 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "AutoencoderKLHunyuanVideo": {
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("HunyuanVideoDownBlock3D",) * 3,
        "up_block_types": ("HunyuanVideoUpBlock3D",) * 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "spatial_compression_ratio": 4,
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 4,
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("LTXVideoDownBlock3D",) * 3,
        "decoder_block_out_channels": (8, 8, 8),
        "layers_per_block": (1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1),
        "spatio_temporal_scaling": (True, True, False),
        "decoder_spatio_temporal_scaling": (True, True, False),
        "decoder_inject_noise": (False,) * 4,
        "downsample_type": ("conv",) * 3,
        "upsample_residual": (False,) * 3,
        "upsample_factor": (1, 1, 1),
        "timestep_conditioning": True,
        "patch_size": 1,
        "scaling_factor": 0.9,
    },
}

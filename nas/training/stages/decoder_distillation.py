"""Distillation of the separable decoder from a public autoencoder's decoder, through its output and its features.

As in Turbo-VAED (arXiv 2508.09136), the public encoder stays, and a decoder is trained on its latents to agree with the
public decoder. The features of two blocks are compared where they have the same frames, height and width; a 1x1
convolution that is trained with the student and discarded afterwards maps its channels to the teacher's (FitNets, arXiv
1412.6550).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.errors import ConfigError, MissingDependency
from nas.models import Autoencoder, VAEConfig
from nas.models.autoencoder import PublicAutoencoder
from nas.models.layers import to_frames, to_video

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Latents:
    """A batch of latents `(B, C, T, h, w)`."""

    latents: Tensor

    def split(self, parts: int) -> list[Latents]:
        if len(self.latents) % parts:
            raise ConfigError(f"batch: {len(self.latents)} clips cannot be accumulated in {parts} equal parts")
        return [Latents(part) for part in self.latents.chunk(parts)]


def with_normalization(vae: VAEConfig, teacher: PublicAutoencoder) -> VAEConfig:
    """The configuration of a decoder for the teacher's latents."""
    latents = teacher.config
    return replace(
        vae,
        scaling_factor=latents.scaling_factor,
        latents_mean=latents.latents_mean,
        latents_std=latents.latents_std,
    )


class DecoderStudent(nn.Module):
    """An autoencoder's decoder that also returns those of its features that the teacher has, with the teacher's channels.

    Args:
        autoencoder: of the teacher's latents.
        teacher: on the same device.
        latents: an example `(1, C, T, h, w)`, whose values do not matter.

    Attributes:
        blocks: for each of the features, the number of the student's block and of the teacher's.
    """

    def __init__(self, autoencoder: Autoencoder, teacher: PublicAutoencoder, latents: Tensor) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        with torch.no_grad():
            own, theirs = self._decode(latents)[1], teacher.decode_with_features(latents)[1]
        last = {value.shape[2:]: number for number, value in enumerate(theirs)}
        matches = {value.shape[2:]: number for number, value in enumerate(own) if value.shape[2:] in last}
        self.blocks = [(number, last[shape]) for shape, number in matches.items()]
        self.projections = nn.ModuleList(
            nn.Conv3d(own[mine].shape[1], theirs[other].shape[1], 1) for mine, other in self.blocks
        )

    def forward(self, latents: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Latents `(B, C, T, h, w)` -> the clip, and features `(B, the teacher's channels, T', h', w')` for `blocks`."""
        video, features = self._decode(latents)
        pairs = zip(self.blocks, self.projections)
        return video, [projection(features[number]) for (number, _), projection in pairs]

    def _decode(self, latents: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The clip, and the features after each block without those of the frames that are dropped at a clip's start."""
        outputs: list[Tensor] = []
        ends = self.autoencoder.decoder.block_ends()
        hooks = [end.register_forward_hook(lambda module, inputs, output: outputs.append(output)) for end in ends]
        try:
            video = self.autoencoder.decode(latents)
        finally:
            for hook in hooks:
                hook.remove()
        batch, frames = len(latents), latents.shape[2]
        return video, [to_video(x, len(x) // batch)[:, :, len(x) // (batch * frames) - 1 :] for x in outputs]


def distillation_losses(student: DecoderStudent, teacher: PublicAutoencoder, latents: Tensor) -> dict[str, Tensor]:
    """The losses of latents `(B, C, T, h, w)`, and the two clips.

    Returns:
        `output`: the mean squared error of the clip, to which, with temporal compression, that of the first frame as an image
        is added as one frame more. `features`: the mean over blocks of the squared error relative to the variance of the
        teacher's features. `clip`, `target`: `(B, image_channels, F, H, W)`.
    """
    target, target_features = teacher.decode_with_features(latents)
    clip, features = student(latents)
    output = F.mse_loss(clip, target)
    if student.autoencoder.config.temporal_compression > 1 and latents.shape[2] > 1:
        with torch.no_grad():
            image = teacher.decode(latents[:, :, :1])
        output = output + F.mse_loss(student.autoencoder.decode(latents[:, :, :1]), image) / clip.shape[2]
    errors = [
        F.mse_loss(value, target_features[number]) / target_features[number].var().clamp_min(1e-12)
        for value, (_, number) in zip(features, student.blocks)
    ]
    return {"output": output, "features": torch.stack(errors).mean(), "clip": clip, "target": target}


def perceptual_distance(device: torch.device) -> Distance:
    """LPIPS (arXiv 1801.03924) with its VGG network, of clips `(B, 1 or 3, F, H, W)` in [-1, 1]: the mean over frames.

    Raises:
        MissingDependency: lpips is not installed.
        ConfigError: its network cannot be loaded or downloaded.
    """
    try:
        import lpips
    except ImportError:
        raise MissingDependency("decoder.lpips: lpips is not installed; run: pip install 'nas-video[lpips]'") from None
    try:
        network = lpips.LPIPS(net="vgg", verbose=False).to(device).eval().requires_grad_(False)
    except Exception as error:  # of torchvision's download
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConfigError(f"decoder.lpips: its VGG network cannot be loaded ({reason}); set it to 0") from None

    def distance(clip: Tensor, target: Tensor) -> Tensor:
        images = (to_frames(video).expand(-1, 3, -1, -1) for video in (clip, target))
        return network(*images).mean()

    return distance

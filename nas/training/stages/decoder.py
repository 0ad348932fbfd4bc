"""Stage `decoder`: trains the autoencoder with its separable video decoder, then encodes the data set.

With temporal compression the first frame of each clip is also decoded as an image, which is encoded alike. If the search
space names a public autoencoder (`autoencoder: {from: ...}`), that one encodes, and the decoder is distilled from its
decoder, see `nas.training.stages.decoder_distillation`.
On moving digits it first trains and checks the classifier that evaluates generated clips. Unusable clips are listed in
the folder's skipped.csv and replaced by others. Metrics: `psnr_db` and `ssim` of held-out clips, `public` (those of the
public autoencoder), `digit_classifier` or `scene_judges` (what they find in held-out real clips and in their
reconstructions), and counts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nas import checkpoint, distributed
from nas.data import GENERATED, clip_fps, described, latent_cache_writer, load_source, skipped
from nas.data.scenes import Scenes
from nas.data.skipped import SkippingSource
from nas.data.source import Source, batch_indices
from nas.errors import ConfigError, NasError
from nas.files import write_json
from nas.metrics.digit_classifier import DigitEvaluator, load_digit_evaluator
from nas.metrics.evaluation import SceneEvaluator, eval_captions
from nas.metrics.reconstruction import WINDOW, Fidelity, reconstruct
from nas.models import Autoencoder, VAEConfig
from nas.models.autoencoder import PublicAutoencoder, encode_clips
from nas.models.diffusers_checkpoint import load_public, public_folder
from nas.models.text_encoder import PromptEncoder
from nas.ranges import check_range
from nas.spaces import SearchSpace
from nas.training.loop import run
from nas.training.optimization import Optimization
from nas.training.stage import Inputs, check_finite
from nas.training.stages.decoder_training import distillation, read_clips, reconstruction

REAL_CLIPS, REAL_SCENES = 256, 160
"""Held-out real clips that are classified, as the upper bound of what generated ones can reach; those of scenes."""


@dataclass(frozen=True)
class DecoderConfig:
    """Config of the stage.

    Attributes:
        data: `digits`, `scenes`, or a YAML file of scenes or the folder of a data set, relative to the file that names it.
        fps: frames per second that the clips of a folder are resampled to; None: those of the search space's clip.
        buckets: encode the clips of a folder in buckets of shape and length, not at one size. The autoencoder itself is
            trained at the search space's size.
        steps, batch: optimizer steps, and clips per step.
        frames: consecutive frames of each clip in a step, from a random one on; the temporal layers are causal and see
            few frames, so parts of a long clip train them at less cost. None: the whole clip.
        image_steps: of the steps, the first ones, on single frames of as many clips as a step otherwise has frames: shapes
            and colors are learned sooner from many different frames than from few clips; not if distilled.
        channels, norm_groups, mid_attention: of the autoencoder, see `VAEConfig`. None: those of the search space's
            `decoder`, which is the one in its costs; (16, 32, 32), 8 and False if it declares none.
        kl: weight of the KL divergence from a normal latent, relative to the mean squared error per pixel; not if distilled.
        features, lpips: if distilled, weights of the features' relative error and of LPIPS (needs the extra `lpips`), relative
            to the mean squared error per pixel.
        videos, images: number of each to encode for training; None: all.
        held_out: clips of the test split to encode, for validation losses.
        classifier_steps: training steps of the digit classifier.
        encoder_hash: hash of the public autoencoder's weights; filled in from the search space.
    """

    data: str = "digits"
    fps: float | None = None
    buckets: bool = False
    steps: int = 300
    batch: int = 8
    frames: int | None = None
    image_steps: int = 0
    optimization: Optimization = field(default_factory=lambda: Optimization(lr=3e-3))
    channels: tuple[int, ...] | None = None
    norm_groups: int | None = None
    mid_attention: bool | None = None
    kl: float = 1e-4
    features: float = 0.1
    lpips: float = 0.0
    videos: int | None = 3000
    images: int | None = 3000
    held_out: int = 256
    classifier_steps: int = 250
    save_every: int = 100
    seed: int = 0
    encoder_hash: str = ""

    def __post_init__(self) -> None:
        check_range(self, ("steps", "batch", "frames", "save_every", "videos", "held_out", "classifier_steps"), 1)
        check_range(self, ("image_steps", "images", "kl", "features", "lpips"), 0)

    def with_space_defaults(self, space: SearchSpace) -> DecoderConfig:
        """This config with the autoencoder options and the fps that the search space declares.

        Raises:
            ConfigError: the config contradicts them.
        """
        declared = space.autoencoder
        for name in ("channels", "norm_groups", "mid_attention"):
            own, wanted = getattr(self, name), getattr(declared, name)
            if space.decoder is not None and own not in (None, wanted):
                raise ConfigError(
                    f"decoder.{name}: {_text(own)} is not what the search space '{space.name}' declares, "
                    f"decoder.vae.{name}: {_text(wanted)}, which its costs include; remove one of the two"
                )
        if self.image_steps and declared.encoder is not None:
            raise ConfigError(
                f"decoder.image_steps: {self.image_steps} is for an autoencoder that is trained whole, but the search space "
                f"'{space.name}' distills the decoder of a public one, 'autoencoder: {{from: ...}}'; remove one of the two"
            )
        if self.lpips and declared.encoder is None:
            raise ConfigError(
                f"decoder.lpips: {self.lpips:g} is for distillation, but the search space '{space.name}' names no public "
                "autoencoder, 'autoencoder: {from: ...}'; remove one of the two"
            )
        chosen = {name: getattr(self, name) for name in ("channels", "norm_groups", "mid_attention")}
        chosen = {name: getattr(declared, name) if value is None else value for name, value in chosen.items()}
        encoder_hash = self.encoder_hash
        if declared.encoder is not None and not encoder_hash:
            encoder_hash = checkpoint.autoencoder_hash(public_folder(declared.encoder))
        return replace(self, fps=clip_fps(space, self.fps), encoder_hash=encoder_hash, **chosen)

    def vae(self, space: SearchSpace) -> VAEConfig:
        """The autoencoder of this config after `with_space_defaults`, as the search space declares the rest of it."""
        return replace(
            space.autoencoder,
            channels=self.channels,
            norm_groups=self.norm_groups,
            mid_attention=self.mid_attention,
            scaling_factor=1.0,
        )


def decoder(folder: Path, config: DecoderConfig, inputs: Inputs) -> tuple[dict[str, Any], float]:
    """The stage function; see the module's docstring."""
    space, config = inputs.space, config.with_space_defaults(inputs.space)
    data = config.data if config.data in GENERATED else str(inputs.path(config.data))
    vae = config.vae(space)
    teacher = load_public(vae.encoder) if vae.encoder is not None else None
    source, test = (load_source(data, split, space, vae, config.fps) for split in ("train", "test"))
    if min(source.height, source.width) < WINDOW:
        raise ConfigError(
            f"latent, decoder.channels: result in clips of {source.height}x{source.width} pixels; SSIM needs at least "
            f"{WINDOW}x{WINDOW}, so use larger latents or more levels"
        )
    _check_frames(config, vae, source)
    for split, data_source in (("train", source), ("test", test)):
        latent_cache_writer.check_source(folder / split, data_source)
    usable = SkippingSource(source, folder / skipped.SKIPPED)
    evaluator = None
    if config.data == "digits" and distributed.is_main():
        evaluator = load_digit_evaluator(folder, source.frames, config.classifier_steps, config.seed)
    torch.manual_seed(config.seed)
    vae = _check_data(vae, source, config, space)
    start = reconstruction if teacher is None else partial(distillation, teacher)
    learner, step = start(vae, config, usable, space.latent, inputs.execution)
    seconds = run("decoder", folder, config.steps, {"autoencoder": learner}, step, config.save_every)
    trained = learner.result()
    autoencoder = _scaled(trained, usable) if teacher is None else trained.autoencoder.eval().requires_grad_(False)
    if distributed.is_main():
        checkpoint.save_autoencoder(folder, autoencoder)

    text, encode = PromptEncoder(space.text, learner.device), partial(encode_clips, autoencoder)
    shaped = load_source(data, "train", space, vae, config.fps, config.buckets)
    loaders = inputs.execution.loaders(learner.device)
    fill = partial(
        latent_cache_writer.fill_cache, encode=encode, encode_text=text, latent=space.latent, workers=loaders
    )
    train = fill(
        folder / "train",
        shaped,
        videos=config.videos,
        images=config.images,
        more_captions=eval_captions(source),
        title="encode train",
    )
    held = fill(folder / "test", test, videos=config.held_out, images=0, title="encode test")
    if not distributed.is_main():
        return {}, seconds
    write_json(
        folder / "data.json",
        {
            "data": data,
            "frames": source.frames,
            "fps": config.fps,
            "classifier_steps": config.classifier_steps,
            "seed": config.seed,
            **described(source),
        },
    )
    held_out = SkippingSource(test, folder / "test" / skipped.SKIPPED)
    metrics = {
        **_fidelity(autoencoder, held_out),
        "videos": train.videos,
        "images": train.images,
        "held_out": held.videos,
        "skipped": len(skipped.read(folder / "train" / skipped.SKIPPED)),
        "scaling_factor": autoencoder.config.scaling_factor,
    }
    if teacher is not None:
        metrics["public"] = _fidelity(teacher, held_out)
    if evaluator is not None:
        metrics["digit_classifier"] = _classifier_metrics(evaluator, autoencoder)
    if isinstance(source, Scenes):
        metrics["scene_judges"] = _judge_metrics(folder, autoencoder)
    return metrics, seconds


def check_data(folder: Path, config: DecoderConfig, inputs: Inputs) -> None:
    """Check that the data of a finished stage, if they still exist, have not changed.

    Raises:
        ConfigError: the data have other clips or captions under the same names.
    """
    data = Path(config.data) if config.data in GENERATED else inputs.path(config.data)
    if config.data == "digits" or not (config.data in GENERATED or data.exists()):
        return
    config = config.with_space_defaults(inputs.space)
    for split in ("train", "test"):
        latent_cache_writer.check_source(
            folder / split, load_source(str(data), split, inputs.space, config.vae(inputs.space), config.fps)
        )


@torch.no_grad()
def _fidelity(
    autoencoder: Autoencoder | PublicAutoencoder, source: SkippingSource, clips: int = 64
) -> dict[str, float]:
    """`psnr_db` and `ssim` of reconstructed clips, from a fixed choice of them."""
    fidelity = Fidelity()
    for index in batch_indices(0, 0, min(clips, source.videos), source.videos):
        video = read_clips(source, [index])
        fidelity.add(reconstruct(autoencoder, video), video)
    return {"psnr_db": fidelity.psnr_db, "ssim": fidelity.ssim}


def _text(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


def _check_data(vae: VAEConfig, source: Source, config: DecoderConfig, space: SearchSpace) -> VAEConfig:
    """The autoencoder with the color channels of the data.

    Raises:
        ConfigError: it does not match the clips or the latents.
    """
    latent = space.latent
    if space.decoder is not None and vae.image_channels != source.channels:
        raise ConfigError(
            f"{config.data}: clips of {source.channels} color channels; the search space '{space.name}' declares "
            f"decoder.vae.image_channels: {vae.image_channels}, which its costs include; change that"
        )
    size = (source.height // vae.downsampling, source.width // vae.downsampling)
    if size != (latent.height, latent.width):
        raise ConfigError(
            f"decoder.channels: {len(config.channels)} levels give {size[0]}x{size[1]} latents for "
            f"{source.height}x{source.width} clips; the search space has {latent.height}x{latent.width}"
        )
    return replace(vae, image_channels=source.channels)


def _check_frames(config: DecoderConfig, vae: VAEConfig, source: Source) -> None:
    """Check the frames of a training step.

    Raises:
        ConfigError: more than a clip has, or no latents stand for so many.
    """
    frames = config.frames or source.frames
    if frames > source.frames or (frames - 1) % vae.temporal_compression:
        raise ConfigError(
            f"decoder.frames: {frames} of the {source.frames} frames of a clip; give at most {source.frames}, and with "
            f"temporal compression {vae.temporal_compression} 1 + a multiple of {vae.temporal_compression}"
        )


@torch.no_grad()
def _scaled(autoencoder: Autoencoder, source: SkippingSource, clips: int = 64) -> Autoencoder:
    """The autoencoder with the scaling factor that gives latents a standard deviation of 1."""
    chosen = batch_indices(0, 0, clips, source.videos)
    means = [encode_clips(autoencoder, read_clips(source, [i])) for i in chosen]  # its scaling factor is still 1
    spread = check_finite(torch.cat(means).std().item(), "decoder: the standard deviation of latents")
    if not spread:
        raise NasError("decoder: all latents are equal: the training diverged; lower the learning rate")
    with torch.device("meta"):
        scaled = Autoencoder(replace(autoencoder.config, scaling_factor=1 / spread))
    scaled.load_state_dict(autoencoder.state_dict(), assign=True)
    return scaled.eval().requires_grad_(False).to(next(autoencoder.parameters()).device)


def _judge_metrics(folder: Path, autoencoder: Autoencoder | PublicAutoencoder) -> dict[str, Any]:
    """What the judges say of held-out real scenes and of their reconstructions: upper bounds for generated clips."""
    evaluator = SceneEvaluator(folder, REAL_SCENES)
    device = next(autoencoder.parameters()).device
    rebuilt = (reconstruct(autoencoder, torch.from_numpy(clip)[None].to(device))[0].cpu() for clip in evaluator.real())
    return {
        "real": evaluator.score(evaluator.real()),
        "reconstructed": evaluator.score(clip.numpy() for clip in rebuilt),
    }


@torch.no_grad()
def _classifier_metrics(evaluator: DigitEvaluator, autoencoder: Autoencoder) -> dict[str, Any]:
    clips, labels = evaluator.held_out(REAL_CLIPS)
    rebuilt = torch.cat([reconstruct(autoencoder, part) for part in clips.split(32)])
    return {
        "real_digit_accuracy": evaluator.accuracy[0],
        "real_direction_accuracy": evaluator.accuracy[1],
        "reconstructed": asdict(evaluator(rebuilt, labels)),
        "real": asdict(evaluator(clips, labels)),
    }

"""Distribution matching distillation (DMD2, Yin et al. 2024, arXiv 2405.14867) of a few-step student.

The student's clips are drawn towards the teacher's distribution by the difference of two scores: that of the frozen
teacher with guidance, and that of the fake score, a denoiser that is trained on the student's clips all along. Both
denoise the same noised clip; where the fake score predicts another clean clip than the teacher, the student's clip is
moved by the difference (Yin et al. 2024, arXiv 2311.18828, equations 7 and 8). As in DMD2 there is no regression to what the
teacher samples, the fake score takes several steps for one of the student, the student's inputs are from its own
sampling, and a discriminator of real and generated clips may be added, here the one of the stage.

A step of the stage updates the fake score (and the heads of the discriminator), and one in `critic_steps` the student
before them. In the other steps the student's columns of the history are NaN.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.data.batches import Batch
from nas.diffusion.losses import denoising_loss
from nas.diffusion.predictions import Velocity, add_noise, guided_velocity_fn, per_clip, predict_x0, velocity_fn
from nas.training.execution import ExecutionConfig
from nas.training.learner import Learner, update_together
from nas.training.monitors import latent_statistics
from nas.training.reflow import TeacherSampler
from nas.training.stages.adversarial import AdversarialConfig, AdversarialTrainer, Draws

TIMES = 0.02, 0.98
"""Range of the times at which scores are compared and the fake score is trained; uniform."""

STUDENT = ("loss", "matching", "grad_norm", "motion", "spread")
"""Columns of the history of the student's updates."""


class Dmd2Trainer(AdversarialTrainer):
    """Trains the student, the fake score and, if the adversarial loss has a weight, the discriminator.

    Args:
        denoiser: the fine-tuned model; it becomes the student, and a copy of it the fake score.
        teacher: its denoiser is the one whose score is matched.

    Attributes:
        columns: those of the history that have values in steps that update the student.
    """

    columns: tuple[str, ...] = STUDENT

    def __init__(
        self,
        denoiser: nn.Module,
        teacher: TeacherSampler,
        config: AdversarialConfig,
        execution: ExecutionConfig | None = None,
    ) -> None:
        fake_score = copy.deepcopy(denoiser).train().requires_grad_(True)
        super().__init__(denoiser, teacher, config, execution)
        options, execution = config.dmd2, self.generator.execution
        self.guidance = teacher.guidance if options.guidance is None else options.guidance
        images = config.image_share > 0
        self.fake_score = Learner(
            fake_score, options.fake_score, config.steps, execution=execution, use_ddp=True, unused=images
        )

    def learners(self) -> dict[str, Learner]:
        return {**super().learners(), "fake_score": self.fake_score}

    def step(self, batch: Batch, number: int) -> dict[str, float]:
        """One update of the fake score and the heads, and in one of `critic_steps` steps of the student before them.

        Args:
            batch: captions and noise, and real latents `(B, C, T, h, w)` for the discriminator.
        """
        every = self.config.dmd2.critic_steps
        for_student = (number + 1) % every == 0
        self.generator.timer.begin(batch.latents, "student" if for_student else "critics")
        draws = self._draw(batch, number, self._score_draws(batch, number))
        row = dict.fromkeys(self.columns, math.nan)
        with self.generator.autocast():
            xt = self.sampled(batch, draws.starts)
            if for_student:
                fake, losses = self.student_losses(batch, xt, draws, number // every)
            else:
                with torch.no_grad():
                    fake = self._clips(batch, xt, draws)
            fake_noised = add_noise(fake, draws.noise, draws.level)
            if for_student and self.discriminator:
                scores = self._scores(fake_noised, draws.level, batch.context)
                losses["loss"] = losses["loss"] - self.config.adversarial * scores.mean()
        if for_student:
            shown = {**losses, **latent_statistics(fake, batch.latents)}
            row |= self.generator.update_and_read(shown, number // every)
        row |= self._update_critics(batch, fake.detach(), fake_noised.detach(), draws, number)
        return {**row, "frames": xt.shape[2]}

    def student_losses(self, batch: Batch, xt: Tensor, draws: Draws, update: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's clips from `xt`, and the `loss` of its update of this number with its parts for the history."""
        fake = self._clips(batch, xt, draws)
        matching = self.matching_loss(fake, batch.context, *draws.more[:2])
        return fake, {"loss": matching, "matching": matching}

    def _clips(self, batch: Batch, xt: Tensor, draws: Draws) -> Tensor:
        return predict_x0(xt, velocity_fn(self.generator.model, batch.context)(xt, draws.t), draws.t)

    def matching_loss(self, fake: Tensor, context: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """`()`, a loss whose gradient with respect to each generated clip is, up to a factor, the difference of scores.

        Args:
            fake: the student's clips `(B, C, T, h, w)`; noise, t `(B,)`: what they are noised with.
        """
        with torch.no_grad():
            noised = add_noise(fake, noise, t)
            of_teacher, of_fake = (predict_x0(noised, velocity(noised, t), t) for velocity in self._velocities(context))
            scale = (fake - of_teacher).abs().flatten(1).mean(1).clamp_min(1e-6)
            target = fake - (of_fake - of_teacher) / per_clip(scale)
        return 0.5 * F.mse_loss(fake, target)

    def _velocities(self, context: Tensor) -> tuple[Velocity, Velocity]:
        teacher = guided_velocity_fn(self.teacher.denoiser, context, self.teacher.empty, self.guidance)
        return teacher, velocity_fn(self.fake_score.module, context)

    def _update_critics(
        self, batch: Batch, fake: Tensor, fake_noised: Tensor, draws: Draws, number: int
    ) -> dict[str, float]:
        """Update the fake score on the generated clips, and the heads of the discriminator."""
        self.fake_score.timer.part("forward")
        with self.fake_score.autocast():
            loss = denoising_loss(self.fake_score.model, fake, batch.context, *draws.more[2:])
            updates = [(self.fake_score, {"loss": loss})]
            if self.discriminator:
                real_noised = add_noise(batch.latents, draws.noise, draws.level)
                updates.append((self.heads, self.heads_loss(real_noised, fake_noised, draws, batch)))
        score, *heads = update_together(updates, number)
        row = {"fake_score_loss": score["loss"], "fake_score_grad_norm": score["grad_norm"]}
        for values in heads:
            row |= {"heads_loss": values["loss"], "real": values["real"], "fake": values["fake"]}
        return row

    def _score_draws(self, batch: Batch, number: int) -> list[Tensor]:
        """Noise like the latents and times `(B,)`, for the student's update and for the fake score's; on the CPU."""
        shape, size = batch.latents.shape, batch.latents[0].numel()
        rows = self._normal_rows(2 * (size + 1), batch, number, 11)
        (low, high), draws = TIMES, []
        for part in rows.chunk(2, dim=1):
            draws += [part[:, :size].reshape(shape), low + (high - low) * torch.special.ndtr(part[:, size])]
        return draws

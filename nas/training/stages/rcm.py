"""Score-regularized continuous-time consistency (rCM, Zheng et al. 2025, arXiv 2510.08431) of a few-step student.

With F(x, t) the student's velocity, its clip f(x, t) = x - t F(x, t) is the end of the teacher's trajectory
dx/dt = v(x, t) through every point x exactly if it does not change along any trajectory:

    df/dt = v - F - t dF/dt = 0,    dF/dt = (dF/dx) v + (partial derivative of F by t)

This is the tangent of continuous-time consistency models (sCM, Lu and Song 2024, arXiv 2410.11081), written there in
trigonometric time, here in that of rectified flow; per clip the two are proportional. v is the teacher's velocity with
guidance. The student's velocity is moved along the tangent g, divided by its root mean square, as in sCM (section 4.2):

    consistency loss = |F - stopgrad(F + g / (rms(g) + c))|^2 / 2

sCM's warm-up multiplies t dF/dt by r, which rises from 0 to 1. rCM adds the loss of distribution matching (see
`nas.training.stages.dmd2`) on clips of the student's own sampling: consistency is a forward divergence, which covers the
teacher's modes and leaves details vague; matching a reverse one, which sharpens them. rCM weights matching by 0.01 with
losses that are sums over a clip's n numbers and a tangent of norm 1; with the means used here that is 0.01 sqrt(n). Its
student has no second time input, and there is no discriminator.

dF/dt is a central difference along the trajectory, two passes without gradient in float32. Forward-mode differentiation
is not used: fused attention does not support it on CPUs or GPUs, and the attention that does stores all scores and, on
a CPU, takes five passes. rCM's authors wrote a kernel for it, or take a difference as well. Times are real numbers up to
the last one of the denoiser's schedule, where the difference is one-sided.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.data.batches import Batch
from nas.diffusion import ddpm
from nas.diffusion.predictions import (
    Objective,
    Velocity,
    add_noise,
    get_objective,
    guided_velocity_fn,
    per_clip,
    predict_x0,
    velocity_fn,
)
from nas.training.execution import full_precision
from nas.training.stages.adversarial import Draws
from nas.training.stages.dmd2 import STUDENT, Dmd2Trainer

TIME_STEP = 1e-4
"""Half the distance in time of the two passes of a difference, a tenth of a timestep: the embeddings of timesteps oscillate
within one, and differences over much less would be rounding errors."""

TANGENT_CONSTANT = 0.1
"""c in the docstring above, as in sCM."""


class RcmTrainer(Dmd2Trainer):
    """Trains the student by consistency and distribution matching, and the fake score."""

    columns = (*STUDENT, "tangent")

    def student_losses(self, batch: Batch, xt: Tensor, draws: Draws, update: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's clips from `xt`, and `loss`, `matching`, and the mean root mean square of the `tangent`.

        The consistency loss is that of the batch's own noised clips: at their times, which training's distribution gives.
        """
        options, noised = self.config.rcm, add_noise(batch.latents, batch.noise, batch.t)
        velocity = velocity_fn(self.generator.model, torch.cat([batch.context, batch.context]))
        # One pass, since DDP expects one per backward pass.
        of_sampled, of_noised = velocity(torch.cat([xt, noised]), torch.cat([draws.t, batch.t])).chunk(2)
        fake = predict_x0(xt, of_sampled, draws.t)
        matching = self.matching_loss(fake, batch.context, *draws.more[:2])
        ramp = options.warmup * self.generator.steps
        tangent = self.tangent(noised, batch.t, of_noised, batch.context, min(1.0, update / ramp) if ramp else 1.0)
        consistency, size = consistency_loss(of_noised, tangent)
        return fake, {"loss": consistency + options.matching * matching, "matching": matching, "tangent": size.mean()}

    @torch.no_grad()
    def tangent(self, x: Tensor, t: Tensor, velocity: Tensor, context: Tensor, ramp: float = 1.0) -> Tensor:
        """df/dt `(B, C, T, h, w)` along the teacher's trajectory through x at t `(B,)`.

        Args:
            velocity: the student's there.
            ramp: r of the warm-up.
        """
        teacher = guided_velocity_fn(self.teacher.denoiser, context, self.teacher.empty, self.guidance)(x, t)
        with full_precision(x.device):
            change = derivative(
                velocity_fn(self.student, context), x, t, teacher, time_range(get_objective(self.student))
            )
        return teacher - velocity - ramp * per_clip(t) * change


def consistency_loss(velocity: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """The loss `()`, whose gradient moves each velocity along its tangent; and the tangents' root mean squares `(B,)`."""
    size = tangent.square().flatten(1).mean(1).sqrt()
    target = velocity.detach() + tangent / per_clip(size + TANGENT_CONSTANT)
    return 0.5 * F.mse_loss(velocity, target), size


def derivative(
    velocity: Velocity, x: Tensor, t: Tensor, direction: Tensor, limits: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """The change of a velocity with t, where x changes by `direction`: a central difference, one-sided at the limits."""
    before, after = (t - TIME_STEP).clamp(min=limits[0]), (t + TIME_STEP).clamp(max=limits[1])
    first, second = (velocity(x + per_clip(time - t) * direction, time) for time in (before, after))
    return (second - first) / per_clip(after - before)


def time_range(objective: Objective) -> tuple[float, float]:
    """The first and the last time that a denoiser tells from others."""
    if objective.prediction == "flow":
        return 0.0, 1.0
    zero_snr = objective.zero_terminal_snr
    return ddpm.times(zero_snr)[0].item(), ddpm.max_time(zero_snr)

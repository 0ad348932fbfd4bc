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

dF/dt is a difference between two points of the trajectory, as in rCM's semi-continuous variant, not the derivative by
forward-mode differentiation. Fused attention does not support the latter, which takes several passes; and it follows the
oscillations of the timestep embeddings, which grow in training and outweigh the rest. The second point is the earlier
one, since consistency spreads from there: a clean clip is its own end.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.data.batches import Batch
from nas.diffusion.predictions import Velocity, add_noise, per_clip, predict_x0, velocity_fn
from nas.training.stages.adversarial import Draws
from nas.training.stages.dmd2 import STUDENT, Dmd2Trainer

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
        teacher = self._velocities(context)[0](x, t)
        step = self.config.rcm.time_step
        change = difference(velocity_fn(self.student, context), velocity, x, t, teacher, step)
        return teacher - velocity - ramp * per_clip(t) * change


def consistency_loss(velocity: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """The loss `()`, whose gradient moves each velocity along its tangent; and the tangents' root mean squares `(B,)`."""
    size = tangent.square().flatten(1).mean(1).sqrt()
    target = velocity.detach() + tangent / per_clip(size + TANGENT_CONSTANT)
    return 0.5 * F.mse_loss(velocity, target), size


def difference(velocity: Velocity, here: Tensor, x: Tensor, t: Tensor, direction: Tensor, step: float) -> Tensor:
    """The change of a velocity with t where x changes by `direction`, from the point of the trajectory `step` before.

    Args:
        here: the velocity at x and t.
    """
    return (here - velocity(x - step * direction, t - step)) / step

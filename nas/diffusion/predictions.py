"""What a denoiser predicts (velocity, noise or v), and conversion of any prediction to the velocity of rectified flow.

Rectified flow (Liu et al. 2022, arXiv 2209.03003): x_t = (1 - t) x_0 + t eps with t in [0, 1], t = 1 pure noise; the
denoiser predicts the velocity v = eps - x_0, so x_0 = x_t - t v. Its timestep embedding spans 0..1000: the denoiser is
called with 1000 t.

A denoiser that predicts the noise, or DDPM's v, carries an `Objective` that says so. `velocity_fn` and
`guided_velocity_fn` convert its output to the velocity, so that losses and samplers work on velocities alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from nas.diffusion import ddpm
from nas.errors import ConfigError, suggestion
from nas.ranges import check_range

Prediction = Literal["flow", "epsilon", "v"]
PREDICTIONS = get_args(Prediction)

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, T, H, W), t (B,)) -> velocity, of the shape of x_t: a denoiser with its context bound."""


@dataclass(frozen=True)
class Objective:
    """What a denoiser predicts, and the distribution of its training timesteps.

    Attributes:
        prediction: `flow`: the velocity. `epsilon` or `v`: the noise, or sqrt(a) eps - sqrt(1 - a) x_0 (Salimans and
            Ho 2022, arXiv 2202.00512, appendix D), at Stable Diffusion's timesteps, drawn uniformly.
        time_mean, time_std: of the logit of flow's timesteps. A caption's effect is decided near t = 1, which a mean of
            0 samples rarely.
        shift: moves flow's timesteps to s t / (1 + (s - 1) t), in training and in sampling.
        shift_base: height times width of the latents at which `shift` holds; at other sizes it is multiplied by the
            square root of the ratio (arXiv 2403.03206, section 5.3.2). None: the same shift at every size.
        min_snr: gamma of min-SNR weighting (Hang et al. 2023, arXiv 2303.09556, section 3.4), for `epsilon` and `v`.
        zero_terminal_snr: for `v`: Stable Diffusion's timesteps end in pure noise, see `nas.diffusion.ddpm`.

    Raises:
        ConfigError: an unknown prediction, an option that does not apply to it, or a number out of range.
    """

    prediction: Prediction = "flow"
    time_mean: float = 1.0
    time_std: float = 1.0
    shift: float = 1.0
    shift_base: int | None = None
    min_snr: float | None = None
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ConfigError(
                f"prediction: unknown prediction '{self.prediction}'{suggestion(self.prediction, PREDICTIONS)}"
            )
        check_range(self, ("shift", "shift_base", "min_snr"), 0, above=True)
        check_range(self, ("time_mean",), -20, 20)
        check_range(self, ("time_std",), 0, 20, above=True)
        flow = self.prediction == "flow"
        if flow and self.min_snr is not None:
            raise ConfigError(
                "min_snr: applies to 'epsilon' and 'v' only; for 'flow' set time_mean and time_std instead"
            )
        if self.zero_terminal_snr and self.prediction != "v":
            reason = "ends in pure noise anyway" if flow else "says nothing about the clip at pure noise; use 'v'"
            raise ConfigError(f"zero_terminal_snr: applies to 'v' only: '{self.prediction}' {reason}")
        if not flow and (self.shift != 1 or self.shift_base is not None):
            raise ConfigError(f"shift: applies to 'flow' only; remove it for '{self.prediction}'")


def get_objective(model: torch.nn.Module) -> Objective:
    """The `objective` attribute of a denoiser, also inside a distributed wrapper; the default one if it has none."""
    return getattr(getattr(model, "module", model), "objective", None) or Objective()


def per_clip(t: Tensor) -> Tensor:
    """`(B,)` -> `(B, 1, 1, 1, 1)`, to broadcast over clips."""
    return t.view(-1, 1, 1, 1, 1)


def add_noise(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t of clips `(B, C, T, H, W)`, noise of the same shape and t `(B,)`."""
    return (1 - per_clip(t)) * x0 + per_clip(t) * noise


def predict_x0(xt: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The clean clips that a velocity at x_t implies."""
    return xt - per_clip(t) * v


def model_input(objective: Objective, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x_t and t -> the input at the denoiser's own scale, and its timestep `(B,)`."""
    if objective.prediction == "flow":
        return x, 1000 * t
    t = t.clamp(max=ddpm.max_time(objective.zero_terminal_snr))
    return x / per_clip(ddpm.scale(t)), ddpm.timestep(t, objective.zero_terminal_snr)


def to_velocity(objective: Objective, predicted: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The velocity that a denoiser's output at x_t implies."""
    if objective.prediction == "flow":
        return predicted
    t = per_clip(t.clamp(max=ddpm.max_time(objective.zero_terminal_snr)))
    if objective.prediction == "epsilon":
        return (predicted - x) / (1 - t)
    return (predicted * ddpm.scale(t) + (2 * t - 1) * x) / ddpm.scale(t).square()


def velocity_fn(model: torch.nn.Module, context: Tensor, *more: object) -> Velocity:
    """The velocity of a denoiser (or, with an architecture as `more`, of a supernet) under a context."""
    objective = get_objective(model)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        predicted = model(*model_input(objective, x, t), context, *more).to(x.dtype)  # lower under autocast
        return to_velocity(objective, predicted, x, t)

    return velocity


def guided_velocity_fn(model: torch.nn.Module, context: Tensor, empty: Tensor, scale: float, *more: object) -> Velocity:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598): v_empty + scale (v - v_empty).

    Args:
        context: `(B, tokens, dim)`; `empty`: `(1, tokens, dim)`, the context of the empty caption.
        scale: 1 is no guidance, and costs one pass of the model instead of two.
    """
    if scale == 1:
        return velocity_fn(model, context, *more)
    both = velocity_fn(model, torch.cat([context, empty.expand_as(context)]), *more)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        with_text, without = both(torch.cat([x, x]), torch.cat([t, t])).chunk(2)
        return without + scale * (with_text - without)

    return velocity

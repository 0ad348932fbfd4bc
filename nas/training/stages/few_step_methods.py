"""The few-step methods of the stage `adversarial`: their names, options and compute."""

from __future__ import annotations

from dataclasses import dataclass, field

from nas.ranges import MAX_GUIDANCE, check_range
from nas.training.optimization import Optimization

METHODS = ("reflow-gan", "dmd2", "rcm")


@dataclass(frozen=True)
class Dmd2Config:
    """Options of distribution matching, in `method: dmd2` and `method: rcm`.

    Attributes:
        critic_steps: the fake score is updated in every step, the student in one of so many.
        fake_score: optimizer options of the fake score.
        guidance: scale of the teacher's classifier-free guidance; None: that of its checkpoint.
    """

    critic_steps: int = 5
    fake_score: Optimization = field(default_factory=lambda: Optimization(lr=1e-3))
    guidance: float | None = None

    def __post_init__(self) -> None:
        check_range(self, ("critic_steps",), 1)
        check_range(self, ("guidance",), 0, MAX_GUIDANCE)


@dataclass(frozen=True)
class RcmConfig:
    """Further options of `method: rcm`.

    Attributes:
        matching: weight of distribution matching relative to consistency.
        warmup: share of the student's updates over which the derivative of its prediction gains its full weight in the
            consistency loss; before, the student learns the teacher's guided velocity.
        time_step: distance in time of the two points of which the derivative is the difference. 0.01 is ten timesteps, more
            than a period of the fastest oscillation in their embedding.
    """

    matching: float = 1.0
    warmup: float = 0.25
    time_step: float = 0.01

    def __post_init__(self) -> None:
        check_range(self, ("matching",), 0, above=True)
        check_range(self, ("warmup",), 0, 1)
        check_range(self, ("time_step",), 1e-4, 0.1)


def step_cost(method: str, critic_steps: int, discriminator: bool) -> float:
    """Compute of a step relative to a plain fine-tuning step of the same batch, with the default `pure_noise_fraction`.

    `reflow-gan`: measured on the demo's denoiser with 8 clips and one CPU thread, 0.57 s against 0.20 s of CPU time, means
    of 20 steps. The others are counted in forward passes, of which fine-tuning takes 3: 0.8 of own sampling, 1 of the
    student, 3 of the fake score, and about 1.5 of the discriminator. An update of the student by `dmd2` takes 2 for the
    gradient and 3 for the scores; one by `rcm` also 3 on noised clips, 2 for the teacher's velocity and 1 for the student's before.
    """
    if method == "reflow-gan":
        return 2.8
    update = 5 if method == "dmd2" else 11
    return (4.8 + 1.5 * discriminator + update / critic_steps) / 3

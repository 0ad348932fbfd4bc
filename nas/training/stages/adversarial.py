"""Stage `adversarial`: distills 25 steps with guidance into a few without (SnapGen-V, arXiv 2412.10494, section 3.4).

Student and frozen teacher both start from the fine-tuned denoiser. The student is trained at the few timesteps of its
sampling schedule: on pure noise, and on intermediate latents of its own sampling (backward simulation; DMD2, arXiv
2405.14867), so that training and inference inputs match. Its x_0 prediction has two losses: the pseudo-Huber distance
to the end of the teacher's guided trajectory from the same point, and the adversarial loss of a discriminator, which is
the frozen encoder of the start with trained heads. The discriminator sees predictions and real latents noised alike; its
loss is the hinge loss with an approximate R1 penalty (APT, arXiv 2501.08316, eq. 7) and with real clips under wrong
captions as further negatives.

Other methods do without the regression: `method: dmd2` is distribution matching distillation (`nas.training.stages.dmd2`),
`method: rcm` is continuous-time consistency with distribution matching (`nas.training.stages.rcm`).

The paper regresses to the real latent. With few steps this gives the mean of all clips, since noise and clip are drawn
independently (see docs/digits_recipe.md); the end of the teacher's trajectory is a function of the noise (reflow, see
`nas.training.reflow`).

Metrics: `quality` by model, each a list over numbers of steps. The models are `adversarial` and, if `control_steps` asks
for it, `control`: plain fine-tuning continued from the same start. It is saved as a checkpoint in the folder `control`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas import checkpoint, distributed
from nas.config import renamed
from nas.data.batches import Batch, Batches
from nas.diffusion.predictions import add_noise, get_objective, model_input, predict_x0, velocity_fn
from nas.diffusion.sampling import MAX_SAMPLING_STEPS
from nas.diffusion.schedules import sampling_schedule, scale_noise
from nas.diffusion.seeding import normal_rows
from nas.errors import ConfigError, suggestion
from nas.metrics.evaluation import evaluate_denoiser
from nas.models import Discriminator
from nas.ranges import check_range
from nas.training.execution import ExecutionConfig
from nas.training.learner import Learner
from nas.training.loop import run
from nas.training.monitors import latent_statistics
from nas.training.optimization import Optimization
from nas.training.reflow import ReflowPairs, Starts, TeacherSampler, advance
from nas.training.stage import Inputs, require_finished
from nas.training.stages.few_step_methods import METHODS, Dmd2Config, RcmConfig, step_cost
from nas.training.stages.finetune import FinetuneConfig, train_jointly


@dataclass(frozen=True)
class AdversarialConfig:
    """Config of the stage.

    Attributes:
        method: `reflow-gan`; or `dmd2` or `rcm`, which need no teacher batches.
        start: a checkpoint of this library to start from instead of the stage before, which is then not needed.
        sampled_steps: denoising steps that the model is distilled for, at least 2.
        batch, image_batch_size: clips in a video step, images in an image step; `image_share` of the steps are image steps.
        generator, heads: optimizer options of the denoiser and of the discriminator's heads.
        teacher_batches: batches of noise from which the teacher samples clips, in `sampled_steps` steps, before training.
            Used by `reflow-gan` only.
        pure_noise_fraction: share of the inputs that are pure noise; the rest is spread evenly over the other timesteps.
        adversarial: weight of the adversarial loss relative to the pseudo-Huber loss, or to the one of distribution
            matching; there, 0 is without a discriminator. `rcm` has none.
        penalty: weight of the approximate R1 penalty, with noise of standard deviation `penalty_noise`.
        control_steps: fine-tuning steps of the control; 0 for no control, None for about equal compute.
        eval_steps, control_eval_steps: numbers of denoising steps at which quality is measured.
        eval_clips: number of generated clips it is measured on.
    """

    steps: int = 300
    sampled_steps: int = 4
    batch: int = 16
    image_batch_size: int = renamed("images", default=64)
    image_share: float = 0.25
    teacher_batches: int = renamed("taught", default=80)
    pure_noise_fraction: float = renamed("first", default=0.6)
    generator: Optimization = field(default_factory=lambda: Optimization(lr=1e-3, betas=(0.5, 0.99)))
    heads: Optimization = field(default_factory=lambda: Optimization(lr=1e-3, betas=(0.0, 0.99)))
    adversarial: float = 0.1
    penalty: float = 10.0
    penalty_noise: float = 0.1
    control_steps: int | None = 0
    control: FinetuneConfig = field(default_factory=FinetuneConfig)
    eval_steps: tuple[int, ...] = renamed("judged_steps", default=(1, 2, 4))
    control_eval_steps: tuple[int, ...] = renamed("control_judged_steps", default=(1, 2, 4))
    eval_clips: int = renamed("judged_clips", default=160)
    save_every: int = 100
    seed: int = 0
    method: Literal["reflow-gan", "dmd2", "rcm"] = "reflow-gan"
    dmd2: Dmd2Config = field(default_factory=Dmd2Config)
    rcm: RcmConfig = field(default_factory=RcmConfig)
    start: str | None = None

    def __post_init__(self) -> None:
        check_range(self, ("steps", "batch", "image_batch_size", "teacher_batches", "eval_clips", "save_every"), 1)
        check_range(self, ("sampled_steps",), 2, MAX_SAMPLING_STEPS)
        check_range(self, ("image_share", "pure_noise_fraction"), 0, 1)
        check_range(self, ("adversarial", "penalty", "penalty_noise", "control_steps"), 0)
        check_range(self, ("eval_steps", "control_eval_steps"), 1, MAX_SAMPLING_STEPS)
        if self.method not in METHODS:
            raise ConfigError(f"method: unknown method '{self.method}'{suggestion(self.method, METHODS)}")
        if self.method != "reflow-gan" and self.steps % self.dmd2.critic_steps:
            raise ConfigError(
                f"steps: {self.steps} is not a multiple of dmd2.critic_steps, {self.dmd2.critic_steps}: the last step has to "
                "update the student"
            )

    @property
    def has_discriminator(self) -> bool:
        """Whether anything trains against one; `reflow-gan` always has one, so that its history has the same columns."""
        return self.method == "reflow-gan" or (self.method == "dmd2" and self.adversarial > 0)

    @property
    def updates(self) -> int:
        """The number of steps that update the student."""
        return self.steps if self.method == "reflow-gan" else self.steps // self.dmd2.critic_steps

    @property
    def step_cost(self) -> float:
        """See `nas.training.stages.few_step_methods.step_cost`."""
        return step_cost(self.method, self.dmd2.critic_steps, self.has_discriminator)


def adversarial(folder: Path, config: AdversarialConfig, inputs: Inputs) -> tuple[dict[str, Any], float]:
    """The stage function; see the module's docstring."""
    source = require_finished(inputs.decoder, "decoder")
    start = require_finished(inputs.start, "finetune") if config.start is None else inputs.path(config.start)
    base = checkpoint.load(start)
    torch.manual_seed(config.seed)
    batches = Batches(
        source,
        config.seed,
        config.batch,
        config.image_batch_size,
        config.image_share,
        0.0,
        get_objective(base.denoiser),
        other_contexts=True,
    )
    latent = base.space.latent
    times = sampling_schedule(base.denoiser, config.sampled_steps, (latent.height, latent.width))
    frozen = checkpoint.load(start).denoiser.to(distributed.device()).eval().requires_grad_(False)
    teacher = TeacherSampler(frozen, batches.cache.empty, base.info.guidance, times)
    workers = inputs.execution.loaders(distributed.device())
    if config.method != "reflow-gan":
        from nas.training.stages.dmd2 import Dmd2Trainer
        from nas.training.stages.rcm import RcmTrainer

        trainer_type = {"dmd2": Dmd2Trainer, "rcm": RcmTrainer}[config.method]
        trainer, batch_of = trainer_type(base.denoiser, teacher, config, inputs.execution), batches.ahead(workers)

        def step(number: int) -> dict[str, float]:
            return trainer.step(batch_of(number), number)
    else:
        trainer = AdversarialTrainer(base.denoiser, teacher, config, inputs.execution)
        reflow_pairs = ReflowPairs(folder / "teacher_latents", batches, config.teacher_batches)
        reflow_pairs.generate(teacher, inputs.execution)
        pair_of = reflow_pairs.ahead(workers)

        def step(number: int) -> dict[str, float]:
            return trainer.step(*pair_of(number), number)

    seconds = run("adversarial", folder, config.steps, trainer.learners(), step, config.save_every)
    student = trainer.generator.result()
    info = checkpoint.CheckpointInfo(
        "adversarial",
        config.sampled_steps,
        guidance=1.0,
        text_encoder=base.space.text.encoder,
        **checkpoint.prediction(student),
        provenance={
            "training_steps": config.steps,
            "seconds": seconds,
            "seed": config.seed,
            "table_hash": inputs.table or base.info.provenance.get("table_hash"),
            "start": base.info.provenance,
        },
    )
    checkpoint.save(folder, student.state_dict(), base.space, base.architecture, source, info)
    shape = base.space.input_shape()[1:]
    quality = {
        "adversarial": evaluate_denoiser(
            "adversarial", folder, source, student, shape, config.eval_steps, 1.0, config.eval_clips
        )
    }
    if config.control_steps != 0:
        control = _control(folder, config, base, source, inputs.execution)
        quality["control"] = evaluate_denoiser(
            "control", folder, source, control, shape, config.control_eval_steps, base.info.guidance, config.eval_clips
        )
    return {"quality": quality}, seconds


@dataclass(frozen=True)
class Draws:
    """The random numbers of a step.

    Attributes:
        noise, perturbation: `(B, C, T, h, w)`, of the discriminator's inputs and of the penalty's.
        level: `(B,)`, the time that the discriminator's inputs are noised to.
        t: `(B,)`, the times of the student's inputs.
        starts: the same as places in the schedule.
        more: what else a method asks for.
    """

    noise: Tensor
    perturbation: Tensor
    level: Tensor
    t: Tensor
    starts: Starts
    more: tuple[Tensor, ...] = ()


class AdversarialTrainer:
    """Trains student and discriminator in alternation.

    Args:
        denoiser: the fine-tuned model; it becomes the student, and a copy of its encoder the discriminator's.
        teacher: samples along the student's schedule.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        teacher: TeacherSampler,
        config: AdversarialConfig,
        execution: ExecutionConfig | None = None,
    ) -> None:
        # Negatives pair clips of one batch, so it is not split; and workers run different numbers of forward passes.
        execution = replace(execution or ExecutionConfig(), accumulate=1, shard=False, shard_size=None)
        self.config = config
        self.discriminator = None
        if config.has_discriminator:
            self.discriminator = Discriminator(denoiser).to(distributed.device())
            self.heads = Learner(self.discriminator.heads, config.heads, config.steps, execution=execution)
        self.student = denoiser.train().requires_grad_(True)
        self.generator = Learner(
            self.student,
            config.generator,
            config.updates,
            execution=execution,
            use_ddp=True,
            unused=config.image_share > 0,
        )
        self.teacher, self.times = teacher, teacher.times

    def learners(self) -> dict[str, Learner]:
        """What is trained, by the name in the training state."""
        return {"denoiser": self.generator, **({"heads": self.heads} if self.discriminator else {})}

    def step(self, batch: Batch, teacher_latents: Tensor, number: int) -> dict[str, float]:
        """One update of student and discriminator.

        Args:
            batch: real latents `(B, C, T, h, w)`, their captions, and noise.
            teacher_latents: what the teacher samples from that noise under those captions, of the same shape.
        """
        config = self.config
        self.generator.timer.begin(batch.latents)
        draws = self._draw(batch, number)
        with self.generator.autocast():
            xt, t, target = self.inputs(batch, teacher_latents, draws.starts, draws.t)
            fake = predict_x0(xt, velocity_fn(self.generator.model, batch.context)(xt, t), t)
            real_noised = add_noise(batch.latents, draws.noise, draws.level)
            fake_noised = add_noise(fake, draws.noise, draws.level)
            scores = self._scores(fake_noised, draws.level, batch.context)
            pull = pseudo_huber(fake, target).mean()
            loss = pull - config.adversarial * scores.mean()
        shown = {"loss": loss, "pull": pull, **latent_statistics(fake, batch.latents)}
        generator = self.generator.update_and_read(shown, number)

        self.heads.timer.part("forward")
        with self.heads.autocast():
            values = self.heads_loss(real_noised, fake_noised.detach(), draws, batch)
        heads = self.heads.update_and_read(values, number)
        return {
            "loss": generator["loss"],
            "pull": generator["pull"],
            "heads_loss": heads["loss"],
            "real": heads["real"],
            "fake": heads["fake"],
            "grad_norm": generator["grad_norm"],
            "frames": xt.shape[2],
            "motion": generator["motion"],
            "spread": generator["spread"],
        }

    def _draw(self, batch: Batch, number: int, more: Sequence[Tensor] = ()) -> Draws:
        """The random numbers of a step: of each clip, whichever worker has it, and on the device after one copy.

        Args:
            more: tensors to copy with them.
        """
        config, shape, size = self.config, batch.latents.shape, batch.latents[0].numel()
        rows = self._normal_rows(2 * size + 3, batch, number, 7)
        noise, perturbation = (rows[:, start : start + size].reshape(shape) for start in (0, size))
        level, share, place = rows[:, 2 * size :].unbind(1)
        places = len(self.times) - 2  # between pure noise and the clip
        indices = 1 + (torch.special.ndtr(place) * places).long().clamp(max=places - 1)
        indices = torch.where(torch.special.ndtr(share) < config.pure_noise_fraction, 0, indices)
        values = [noise, perturbation, torch.sigmoid(level - 0.5), torch.tensor(self.times)[indices]]
        order = Starts.order_of(indices)
        *values, order = distributed.move([*values, *more, order.float()], batch.latents.device)
        return Draws(*values[:4], Starts(indices, order.long()), tuple(values[4:]))

    def _normal_rows(self, numbers: int, batch: Batch, step: int, stream: int) -> Tensor:
        """`(B, numbers)` for the clips of this worker's share; those of a stream do not depend on the other streams."""
        size = len(batch.latents)
        clips = range(distributed.rank() * size, (distributed.rank() + 1) * size)
        return normal_rows(numbers, clips, self.config.seed, step, stream)

    def inputs(self, batch: Batch, teacher_latents: Tensor, starts: Starts, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the student, their times `t` `(B,)`, and its targets.

        The inputs are what the student's own sampling makes of the noise up to where each clip starts; the targets are
        the ends of the teacher's trajectories from there.
        """
        x = self.sampled(batch, starts)
        started = starts.later(0)
        target = teacher_latents.index_copy(0, started, x[started])
        return x, t, self.teacher.end(target, batch.context, starts.begun)

    def sampled(self, batch: Batch, starts: Starts) -> Tensor:
        """What the student's own sampling makes of the noise up to where each clip starts."""
        noise = scale_noise(batch.noise, self.times[0])
        return advance(noise, self.times, starts.later, lambda clips: velocity_fn(self.student, batch.context[clips]))

    def heads_loss(self, real: Tensor, fake: Tensor, draws: Draws, batch: Batch) -> dict[str, Tensor]:
        """`loss` of the discriminator, and its mean scores of `real` and `fake` clips."""
        config, context = self.config, batch.context
        other = context.roll(1, 0) if batch.other_context is None else batch.other_context
        differs = ((other - context).abs().amax((1, 2)) > 0).float()  # the other clip may have the same caption
        perturbed = real + config.penalty_noise * draws.perturbation
        inputs = torch.cat([real, fake, perturbed, real])  # in one pass, since many small ones are mostly overhead
        contexts = torch.cat([context, context, context, other])
        on_real, on_fake, on_perturbed, on_other = self._scores(inputs, draws.level.repeat(4), contexts).chunk(4)
        negative = (1 + on_fake).relu().mean()
        differ = distributed.sum_over_workers(differs.sum())  # so that the workers' mean is that of all clips
        of_others = ((1 + on_other).relu().mean(1) * differs).sum() * distributed.world_size() / differ.clamp(min=1)
        # Half the weight each: two negatives per positive drive all scores to -1, where learning stops.
        negative = negative + (differ > 0).float() / 2 * (of_others - negative)
        loss = (1 - on_real).relu().mean() + negative
        loss = loss + config.penalty * (on_perturbed - on_real).square().mean()
        return {"loss": loss, "real": on_real.mean(), "fake": on_fake.mean()}

    def _scores(self, noised: Tensor, level: Tensor, context: Tensor) -> Tensor:
        return self.discriminator(*model_input(get_objective(self.student), noised, level), context)


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """`(B, ...)` -> `(B,)`: sqrt(|a - b|^2 / d + c^2) - c with c = 0.03, smooth near zero and linear beyond."""
    return ((a - b).square().flatten(1).mean(1) + 0.03**2).sqrt() - 0.03


def _control(
    folder: Path, config: AdversarialConfig, base: checkpoint.Checkpoint, source: Path, execution: ExecutionConfig
) -> nn.Module:
    """The start, fine-tuned further; by default with the compute of the adversarial steps and the teacher's sampling."""
    passes = config.teacher_batches * config.sampled_steps * (1 if base.info.guidance == 1 else 2)
    passes = passes if config.method == "reflow-gan" else 0
    equal = round(config.steps * config.step_cost + passes / 3)  # a training step costs three forward passes
    steps = equal if config.control_steps is None else config.control_steps
    # The learning rate schedule spans these steps; another seed gives other data than the start was trained on.
    plain = replace(config.control, steps=steps, seed=config.seed + 1000)
    denoiser = checkpoint.load(base.folder).denoiser.train()
    learner, seconds = train_jointly("control", folder / "control", denoiser, source, plain, execution)
    control = learner.result().eval()
    provenance = {"training_steps": steps, "seconds": seconds, "seed": plain.seed, "start": base.info.provenance}
    info = replace(base.info, provenance=provenance)
    checkpoint.save(folder / "control", control.state_dict(), base.space, base.architecture, source, info)
    return control

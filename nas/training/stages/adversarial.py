"""Stage `adversarial`: distills 25 steps with guidance into a few without (SnapGen-V, arXiv 2412.10494, section 3.4).

Student and frozen teacher both start from the fine-tuned denoiser. The student is trained at the few timesteps of its
sampling schedule: on pure noise, and on intermediate latents of its own sampling (backward simulation; DMD2, arXiv
2405.14867), so that training and inference inputs match. Its x_0 prediction has two losses: the pseudo-Huber distance
to the end of the teacher's guided trajectory from the same point, and the adversarial loss of a discriminator, which is
the frozen encoder of the start with trained heads. The discriminator sees predictions and real latents noised alike; its
loss is the hinge loss with an approximate R1 penalty (APT, arXiv 2501.08316, eq. 7) and with real clips under wrong
captions as further negatives.

The paper regresses to the real latent. With few steps this gives the mean of all clips, since noise and clip are drawn
independently (see docs/demo_recipe.md); the end of the teacher's trajectory is a function of the noise (reflow, see
`nas.training.reflow`).

Metrics: `quality` by model, each a list over numbers of steps. The models are `adversarial` and, unless `control_steps` is
0, `control`: plain fine-tuning continued from the same start, by default for about equal compute, by `STEP_COST`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas import checkpoint, distributed
from nas.config import renamed
from nas.data.batches import Batch, Batches
from nas.diffusion.predictions import add_noise, get_objective, model_input, predict_x0, velocity_fn
from nas.diffusion.sampling import MAX_SAMPLING_STEPS
from nas.diffusion.schedules import logit_normal, sampling_schedule, scale_noise
from nas.diffusion.seeding import generator
from nas.metrics.evaluation import evaluate_denoiser
from nas.models import Discriminator
from nas.ranges import check_range
from nas.training.execution import ExecutionConfig
from nas.training.learner import Learner, Optimization
from nas.training.loop import run
from nas.training.monitors import latent_statistics
from nas.training.reflow import ReflowPairs, TeacherSampler, advance
from nas.training.stage import Inputs, require_finished
from nas.training.stages.finetune import FinetuneConfig, train_jointly


@dataclass(frozen=True)
class AdversarialConfig:
    """Config of the stage.

    Attributes:
        sampled_steps: denoising steps that the model is distilled for, at least 2.
        batch, image_batch_size: clips in a video step, images in an image step; `image_share` of the steps are image steps.
        generator, heads: optimizer options of the denoiser and of the discriminator's heads.
        teacher_batches: batches of noise from which the teacher samples clips, in `sampled_steps` steps, before training.
        pure_noise_fraction: share of the inputs that are pure noise; the rest is spread evenly over the other timesteps.
        adversarial: weight of the adversarial loss relative to the pseudo-Huber loss.
        penalty: weight of the approximate R1 penalty, with noise of standard deviation `penalty_noise`.
        control_steps: fine-tuning steps of the control; None for about equal compute, 0 for no control.
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
    control_steps: int | None = None
    control: FinetuneConfig = field(default_factory=FinetuneConfig)
    eval_steps: tuple[int, ...] = renamed("judged_steps", default=(1, 2, 4))
    control_eval_steps: tuple[int, ...] = renamed("control_judged_steps", default=(1, 2, 4))
    eval_clips: int = renamed("judged_clips", default=160)
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, ("steps", "batch", "image_batch_size", "teacher_batches", "eval_clips", "save_every"), 1)
        check_range(self, ("sampled_steps",), 2, MAX_SAMPLING_STEPS)
        check_range(self, ("image_share", "pure_noise_fraction"), 0, 1)
        check_range(self, ("adversarial", "penalty", "penalty_noise", "control_steps"), 0)
        check_range(self, ("eval_steps", "control_eval_steps"), 1, MAX_SAMPLING_STEPS)


STEP_COST = 2.8
"""Compute of an adversarial step relative to a plain fine-tuning step of the same batch.

Measured on the demo's denoiser with 8 clips, the default `pure_noise_fraction` (a lower one costs more) and one CPU
thread: 0.57 s against 0.20 s of CPU time, means of 20 steps.
"""


def adversarial(folder: Path, config: AdversarialConfig, inputs: Inputs) -> tuple[dict[str, Any], float]:
    """The stage function; see the module's docstring."""
    source, start = require_finished(inputs.decoder, "decoder"), require_finished(inputs.start, "finetune")
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
    )
    reflow_pairs = ReflowPairs(folder / "teacher_batches", batches, config.teacher_batches)
    latent = base.space.latent
    times = sampling_schedule(base.denoiser, config.sampled_steps, (latent.height, latent.width))
    frozen = checkpoint.load(start).denoiser.to(distributed.device()).eval().requires_grad_(False)
    teacher = TeacherSampler(frozen, batches.cache.empty, base.info.guidance, times)
    reflow_pairs.generate(teacher)
    trainer = AdversarialTrainer(base.denoiser, teacher, config, inputs.execution)
    learners = {"denoiser": trainer.generator, "heads": trainer.heads}
    seconds = run(
        "adversarial", folder, config.steps, learners, lambda n: trainer.step(*reflow_pairs(n), n), config.save_every
    )
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
        execution = replace(execution or ExecutionConfig(), accumulate=1, shard=False)
        self.config = config
        self.discriminator = Discriminator(denoiser).to(distributed.device())
        self.student = denoiser.train().requires_grad_(True)
        self.generator = Learner(self.student, config.generator, config.steps, execution=execution, use_ddp=True)
        self.heads = Learner(self.discriminator.heads, config.heads, config.steps, execution=execution)
        self.teacher, self.times = teacher, teacher.times

    def step(self, batch: Batch, teacher_latents: Tensor, number: int) -> dict[str, float]:
        """One update of student and discriminator.

        Args:
            batch: real latents `(B, C, T, h, w)`, their captions, and noise.
            teacher_latents: what the teacher samples from that noise under those captions, of the same shape.
        """
        config, stream = self.config, generator(self.config.seed, number, 7 + distributed.rank())
        xt, t, target = self.inputs(batch, teacher_latents, stream)
        level = logit_normal(len(t), stream, mean=-0.5).to(xt.device)
        noise = torch.randn(xt.shape, generator=stream).to(xt.device)
        with self.generator.autocast():
            fake = predict_x0(xt, velocity_fn(self.generator.model, batch.context)(xt, t), t)
            real_noised, fake_noised = add_noise(batch.latents, noise, level), add_noise(fake, noise, level)
            scores = self._scores(fake_noised, level, batch.context)
            pull = pseudo_huber(fake, target).mean()
            loss = pull - config.adversarial * scores.mean()
        norm = self.generator.update(loss, number)

        with self.heads.autocast():
            heads_loss, real_score, fake_score = self.heads_loss(
                real_noised, fake_noised.detach(), level, batch, stream
            )
        self.heads.update(heads_loss, number)
        return {
            "loss": loss.item(),
            "pull": pull.item(),
            "heads_loss": heads_loss.item(),
            "real": real_score,
            "fake": fake_score,
            "grad_norm": norm,
            "frames": xt.shape[2],
            **latent_statistics(fake, batch.latents),
        }

    def inputs(self, batch: Batch, teacher_latents: Tensor, stream: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the student, their times, and its targets.

        The inputs are what the student's own sampling makes of the noise up to a random time of the schedule; the
        targets are the ends of the teacher's trajectories from there.
        """
        count, device = len(teacher_latents), teacher_latents.device
        indices = torch.randint(1, len(self.times) - 1, (count,), generator=stream)
        pure_noise = torch.rand(count, generator=stream) < self.config.pure_noise_fraction
        indices = torch.where(pure_noise, 0, indices).to(device)
        noise = scale_noise(batch.noise, self.times[0])
        x = advance(
            noise,
            self.times,
            lambda step: step < indices,
            lambda clips: velocity_fn(self.student, batch.context[clips]),
        )
        started = indices > 0
        target = teacher_latents.clone()
        target[started] = self.teacher.end(x[started], batch.context[started], indices[started])
        return x, torch.tensor(self.times, device=device)[indices], target

    def heads_loss(
        self, real: Tensor, fake: Tensor, level: Tensor, batch: Batch, stream: torch.Generator
    ) -> tuple[Tensor, float, float]:
        """The discriminator's loss, and its mean scores of real and generated clips."""
        config = self.config
        wrong = batch.context.roll(1, 0)
        differs = (wrong - batch.context).abs().amax((1, 2)) > 0  # the next clip may have the same caption
        perturbed = real + config.penalty_noise * torch.randn(real.shape, generator=stream).to(real.device)
        inputs = torch.cat([real, fake, perturbed, real])  # in one pass, since many small ones are mostly overhead
        contexts = torch.cat([batch.context, batch.context, batch.context, wrong])
        on_real, on_fake, on_perturbed, on_wrong = self._scores(inputs, level.repeat(4), contexts).chunk(4)
        negative = (1 + on_fake).relu().mean()
        if differs.any():
            # Half the weight each: two negatives per positive drive all scores to -1, where learning stops.
            negative = (negative + (1 + on_wrong[differs]).relu().mean()) / 2
        loss = (1 - on_real).relu().mean() + negative
        loss = loss + config.penalty * (on_perturbed - on_real).square().mean()
        return loss, on_real.mean().item(), on_fake.mean().item()

    def _scores(self, noised: Tensor, level: Tensor, context: Tensor) -> Tensor:
        return self.discriminator(*model_input(get_objective(self.student), noised, level), context)


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """`(B, ...)` -> `(B,)`: sqrt(|a - b|^2 / d + c^2) - c with c = 0.03, smooth near zero and linear beyond."""
    return ((a - b).square().flatten(1).mean(1) + 0.03**2).sqrt() - 0.03


def _control(
    folder: Path, config: AdversarialConfig, base: checkpoint.Checkpoint, source: Path, execution: ExecutionConfig
) -> nn.Module:
    """The start, fine-tuned further with the compute of the adversarial steps and of the teacher's sampling."""
    passes = config.teacher_batches * config.sampled_steps * (1 if base.info.guidance == 1 else 2)
    equal = round(config.steps * STEP_COST + passes / 3)  # a training step costs three forward passes
    steps = equal if config.control_steps is None else config.control_steps
    # The learning rate schedule spans these steps; another seed gives other data than the start was trained on.
    plain = replace(config.control, steps=steps, seed=config.seed + 1000)
    denoiser = checkpoint.load(base.folder).denoiser.train()
    learner, _ = train_jointly("control", folder / "control", denoiser, source, plain, execution)
    return learner.result().eval()

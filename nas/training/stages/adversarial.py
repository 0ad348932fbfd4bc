"""Stage `adversarial`: from 25 steps with guidance to a few without (SnapGen-V, arXiv 2412.10494, section 3.4).

The student starts from the fine-tuned denoiser, and so does its frozen teacher. It is trained at the few timesteps it
will be sampled at: on pure noise, and on what its own sampling has made of noise by then (backward simulation; DMD2,
arXiv 2405.14867), so that it learns on what it will see. Its clean prediction is pulled (pseudo-Huber) to where the
teacher, with guidance, would end from there, and judged against real clips by a discriminator: the frozen encoder of
the start with trained heads, on prediction and real latent re-noised alike, with hinge loss, an approximate R1 penalty
(APT, arXiv 2501.08316, eq. 7) and real clips under wrong captions as negatives.

The paper pulls to the real latent. From few steps that gives the mean of all clips that the noise may stand for, and
little more: see docs/demo_recipe.md. Only the end of the teacher's trajectory is a function of the noise (reflow:
`nas.training.reflow`).

Metrics: `quality` by model (`adversarial`, and `control`: plain fine-tuning continued from the same start for about
equal compute, by `STEP_COST`), each a list over numbers of steps.
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
        sampled_steps: steps that the model is distilled for, at least 2.
        batch, image_batch_size: clips in a video step, images in an image step; `image_share` of the steps are image steps.
        generator, heads: optimisation of the denoiser and of the discriminator's heads.
        teacher_batches: batches of noise that the teacher makes clips of, in `sampled_steps` steps, before the stage begins.
        pure_noise_fraction: share of the inputs that are pure noise; the rest is spread evenly over the other timesteps.
        adversarial: weight of the adversarial loss next to the pseudo-Huber loss.
        penalty: weight of the approximate R1 penalty, with noise of standard deviation `penalty_noise`.
        control_steps: continued fine-tuning to compare with; None for about equal compute.
        eval_steps, control_eval_steps, eval_clips: at which numbers of steps, and on how many clips.
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
"""Compute of an adversarial step over that of a plain fine-tuning step of the same batch.

Measured on the demo's denoiser, 8 clips, `pure_noise_fraction` at its default (less of it costs more), one CPU thread: 0.57 s against
0.20 s of processor time, means of 20 steps.
"""


def adversarial(folder: Path, config: AdversarialConfig, inputs: Inputs) -> tuple[dict[str, Any], float]:
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
    reflow_pairs.make(teacher)
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
    control = _control(folder, config, base, source, inputs.execution)
    quality["control"] = evaluate_denoiser(
        "control", folder, source, control, shape, config.control_eval_steps, base.info.guidance, config.eval_clips
    )
    return {"quality": quality}, seconds


class AdversarialTrainer:
    """Generator and discriminator, and one step of both.

    Args:
        denoiser: the fine-tuned model; becomes the student, and its encoder the discriminator's.
        teacher: samples along the student's schedule.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        teacher: TeacherSampler,
        config: AdversarialConfig,
        execution: ExecutionConfig | None = None,
    ) -> None:
        # Clips of a batch judge each other's captions, and workers sample for different numbers of steps.
        execution = replace(execution or ExecutionConfig(), accumulate=1, shard=False)
        self.config = config
        self.discriminator = Discriminator(denoiser).to(distributed.device())
        self.student = denoiser.train().requires_grad_(True)
        self.generator = Learner(self.student, config.generator, config.steps, execution=execution, use_ddp=True)
        self.heads = Learner(self.discriminator.heads, config.heads, config.steps, execution=execution)
        self.teacher, self.times = teacher, teacher.times

    def step(self, batch: Batch, teacher_latents: Tensor, number: int) -> dict[str, float]:
        """One update of both.

        Args:
            batch: real latents `(B, C, T, h, w)`, their captions, and noise.
            teacher_latents: what the teacher makes of that noise under those captions, like the latents.
        """
        config, stream = self.config, generator(self.config.seed, number, 7 + distributed.rank())
        xt, t, goal = self.inputs(batch, teacher_latents, stream)
        level = logit_normal(len(t), stream, mean=-0.5).to(xt.device)
        noise = torch.randn(xt.shape, generator=stream).to(xt.device)
        with self.generator.autocast():
            fake = predict_x0(xt, velocity_fn(self.generator.model, batch.context)(xt, t), t)
            real_noised, fake_noised = add_noise(batch.latents, noise, level), add_noise(fake, noise, level)
            judged = self.judge(fake_noised, level, batch.context)
            pull = pseudo_huber(fake, goal).mean()
            loss = pull - config.adversarial * judged.mean()
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
        """What the student makes of the noise until some sampling time, that time, and where the teacher ends from it."""
        count, device = len(teacher_latents), teacher_latents.device
        places = torch.randint(1, len(self.times) - 1, (count,), generator=stream)
        places = torch.where(torch.rand(count, generator=stream) < self.config.pure_noise_fraction, 0, places).to(
            device
        )
        noise = scale_noise(batch.noise, self.times[0])
        x = advance(
            noise, self.times, lambda step: step < places, lambda clips: velocity_fn(self.student, batch.context[clips])
        )
        begun = places > 0
        goal = teacher_latents.clone()
        goal[begun] = self.teacher.end(x[begun], batch.context[begun], places[begun])
        return x, torch.tensor(self.times, device=device)[places], goal

    def heads_loss(self, real: Tensor, fake: Tensor, level: Tensor, batch: Batch, stream: torch.Generator):
        """Hinge loss, negatives under wrong captions, and the penalty; also the mean scores of real and fake."""
        config = self.config
        wrong = batch.context.roll(1, 0)
        differs = (wrong - batch.context).abs().amax((1, 2)) > 0  # a neighbour may have the same caption
        shaken = real + config.penalty_noise * torch.randn(real.shape, generator=stream).to(real.device)
        everything = torch.cat([real, fake, shaken, real])  # in one pass: many small ones are mostly overhead
        contexts = torch.cat([batch.context, batch.context, batch.context, wrong])
        on_real, on_fake, on_shaken, on_wrong = self.judge(everything, level.repeat(4), contexts).chunk(4)
        negative = (1 + on_fake).relu().mean()
        if differs.any():  # half the weight each: two negatives to one positive would press all scores to -1 for good
            negative = (negative + (1 + on_wrong[differs]).relu().mean()) / 2
        loss = (1 - on_real).relu().mean() + negative
        loss = loss + config.penalty * (on_shaken - on_real).square().mean()
        return loss, on_real.mean().item(), on_fake.mean().item()

    def judge(self, noised: Tensor, level: Tensor, context: Tensor) -> Tensor:
        return self.discriminator(*model_input(get_objective(self.student), noised, level), context)


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """`(B, ...)` -> `(B,)`: sqrt(|a - b|^2 / d + c^2) - c with c = 0.03, smooth near zero and linear beyond."""
    return ((a - b).square().flatten(1).mean(1) + 0.03**2).sqrt() - 0.03


def _control(
    folder: Path, config: AdversarialConfig, base: checkpoint.Checkpoint, source: Path, execution: ExecutionConfig
) -> nn.Module:
    """The start, trained on as before for as much compute as the adversarial steps, and teaching, took."""
    passes = config.teacher_batches * config.sampled_steps * (1 if base.info.guidance == 1 else 2)
    equal = round(config.steps * STEP_COST + passes / 3)  # a step of training is three passes forward
    steps = equal if config.control_steps is None else config.control_steps
    # The learning rate of the adversarial stage's length, and other data than the start saw.
    plain = replace(config.control, steps=steps, seed=config.seed + 1000)
    denoiser = checkpoint.load(base.folder).denoiser.train()
    learner, _ = train_jointly("control", folder / "control", denoiser, source, plain, execution)
    return learner.result().eval()

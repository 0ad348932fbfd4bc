"""Distribution matching distillation: gradient, the fake score, which step updates what, resuming and options."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import nas
from nas.data.batches import Batches
from nas.data.latent_cache import LatentCache
from nas.errors import ConfigError
from nas.models import build
from nas.testing.stages import StageCase, StageTestCase
from nas.training import AdversarialConfig, read_history, run_stage
from nas.training.optimization import Optimization
from nas.training.reflow import TeacherSampler
from nas.training.stages import adversarial
from nas.training.stages.dmd2 import Dmd2Trainer
from nas.training.stages.few_step_methods import Dmd2Config

CONFIG = AdversarialConfig(
    method="dmd2",
    steps=6,
    batch=4,
    image_batch_size=4,
    image_share=0.4,
    adversarial=0.0,
    dmd2=Dmd2Config(critic_steps=3),
    eval_steps=(),
    control_eval_steps=(),
    save_every=2,
)


@pytest.fixture
def denoiser(space: nas.SearchSpace):
    return random_denoiser(space, 3)


def random_denoiser(space: nas.SearchSpace, seed: int):
    torch.manual_seed(seed)
    model = build(space, space.architecture({"mid.0/0": "SelfAttention1D"}))
    for parameter in model.parameters():  # zero-initialized layers too
        torch.nn.init.normal_(parameter, std=0.05)
    return model.eval().requires_grad_(False)


@pytest.fixture
def teacher(denoiser, decoder: Path) -> TeacherSampler:
    return TeacherSampler(denoiser, LatentCache(decoder / "train").empty, guidance=2.0, times=(1.0, 0.5, 0.0))


@pytest.fixture
def batches(decoder: Path) -> Batches:
    return Batches(decoder, seed=1, videos=4, images=4, image_share=0.4, caption_dropout=0.0, other_contexts=True)


def test_the_gradient_is_the_difference_of_the_scores(space, denoiser, teacher, batches):
    """By hand: (clean clip of the fake score - that of the guided teacher) / its distance from the clip."""
    trainer = Dmd2Trainer(copy.deepcopy(denoiser), teacher, CONFIG)
    other = random_denoiser(space, 4)
    trainer.fake_score.module.load_state_dict(other.state_dict())
    batch, t = batches.of_videos(0), torch.tensor([0.2, 0.4, 0.6, 0.8])
    fake, noise = torch.randn_like(batch.latents, requires_grad=True), torch.randn_like(batch.latents)
    trainer.matching_loss(fake, batch.context, noise, t).backward()
    with torch.no_grad():
        at = t.view(-1, 1, 1, 1, 1)
        noised = (1 - at) * fake + at * noise
        with_text = denoiser(noised, 1000 * t, batch.context)
        without = denoiser(noised, 1000 * t, teacher.empty.expand_as(batch.context))
        of_teacher = noised - at * (without + 2 * (with_text - without))
        of_fake = noised - at * other(noised, 1000 * t, batch.context)
        scale = (fake - of_teacher).abs().mean((1, 2, 3, 4), keepdim=True)
    torch.testing.assert_close(fake.grad * fake.numel(), (of_fake - of_teacher) / scale, atol=2e-4, rtol=2e-3)


def test_where_the_scores_agree_the_student_is_not_moved(denoiser, decoder, batches):
    """The fake score is a copy of the teacher at first, here without guidance."""
    plain = TeacherSampler(denoiser, LatentCache(decoder / "train").empty, guidance=1.0, times=(1.0, 0.5, 0.0))
    trainer = Dmd2Trainer(copy.deepcopy(denoiser), plain, CONFIG)
    fake = torch.randn_like(batches.of_videos(0).latents, requires_grad=True)
    t = torch.full((len(fake),), 0.5)
    trainer.matching_loss(fake, batches.of_videos(0).context, torch.randn_like(fake), t).backward()
    assert fake.grad.abs().max() * fake.numel() < 1e-4


class Constant(nn.Module):
    """A denoiser whose clean clip is the same number everywhere, whatever it is given."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return (x - self.value) / (timestep.view(-1, 1, 1, 1, 1) / 1000)


def constant_trainer(decoder: Path, student: float, fake_score: float, critic_steps: int) -> Dmd2Trainer:
    fast = Optimization(lr=0.1, warmup=0, betas=(0.0, 0.9))
    teacher = TeacherSampler(
        Constant(2.0).requires_grad_(False), LatentCache(decoder / "train").empty, guidance=1.0, times=(1.0, 0.5, 0.0)
    )
    options = Dmd2Config(critic_steps, fake_score=fast)
    trainer = Dmd2Trainer(
        Constant(student),
        teacher,
        replace(CONFIG, steps=critic_steps * 40, generator=replace(fast, lr=0.2), dmd2=options),
    )
    trainer.fake_score.module.value.data.fill_(fake_score)
    return trainer


def test_the_fake_score_follows_what_the_student_generates(decoder, batches):
    trainer = constant_trainer(decoder, student=-1.0, fake_score=2.0, critic_steps=60)
    losses = [trainer.step(batches.of_videos(0), number)["fake_score_loss"] for number in range(59)]
    assert trainer.student.value.item() == -1.0
    assert trainer.fake_score.module.value.item() == pytest.approx(-1.0, abs=0.15) and losses[-1] < 0.05 * losses[0]


def test_the_student_goes_to_the_teacher_and_stays_there(decoder, batches):
    trainer = constant_trainer(decoder, student=-1.0, fake_score=-1.0, critic_steps=2)
    distances = []
    for number in range(80):
        row = trainer.step(batches.of_videos(0), number)
        distances.append(abs(trainer.student.value.item() - 2))
    assert distances[0] == 3 and max(distances[-10:]) < 0.5
    assert row["matching"] == row["loss"] > 0


def test_one_step_in_so_many_updates_the_student_and_every_one_the_fake_score(denoiser, teacher, batches):
    trainer = Dmd2Trainer(copy.deepcopy(denoiser), teacher, replace(CONFIG, adversarial=0.1))
    for number in range(6):
        before = {name: learner.parameters[0].detach().clone() for name, learner in trainer.learners().items()}
        row = trainer.step(batches.joint(number), number)
        moved = {
            name: not torch.equal(before[name], learner.parameters[0]) for name, learner in trainer.learners().items()
        }
        for_student = number % 3 == 2
        assert moved == {"denoiser": for_student, "fake_score": True, "heads": True}
        assert math.isnan(row["loss"]) != for_student and math.isfinite(row["fake_score_loss"])
        assert math.isfinite(row["heads_loss"])
    assert (
        trainer.generator.config.rate(1, trainer.generator.steps) == trainer.generator.optimizer.param_groups[0]["lr"]
    )


@pytest.mark.slow
class TestStage(StageTestCase):
    @pytest.fixture(scope="class", params=[0.0, 0.1])
    def case(self, request, finetuned) -> StageCase:
        config = replace(CONFIG, adversarial=request.param)
        return StageCase("adversarial", adversarial.adversarial, config, replace(config, seed=1), finetuned)

    @pytest.fixture(scope="class")
    def straight(self, case, tmp_path_factory):  # one for all tests
        return case.run(tmp_path_factory.mktemp("straight") / "straight")


@pytest.mark.slow
def test_it_can_start_from_any_checkpoint_and_the_history_has_the_students_steps(finetuned, tmp_path):
    config = replace(CONFIG, start=str(finetuned.start))
    result = run_stage("adversarial", tmp_path / "a", config, replace(finetuned, start=None))
    rows = read_history(result.folder)
    assert [math.isnan(row["loss"]) for row in rows] == [True, True, False] * 2
    assert all(row["fake_score_loss"] > 0 for row in rows)
    assert nas.checkpoint.load(result.folder).info.steps == 4
    assert not (result.folder / "teacher_latents").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "dmd"}, "method: unknown method 'dmd'; did you mean 'dmd2'?"),
        ({"method": "dmd2", "steps": 7}, "steps: 7 is not a multiple of dmd2.critic_steps, 5"),
        ({"dmd2": {"critic_steps": 0}}, "critic_steps: must be at least 1"),
        ({"dmd2": {"guidance": -1.0}}, "guidance: must be"),
    ],
)
def test_options_out_of_range_are_refused(options, text):
    with pytest.raises(ConfigError, match=text.replace("?", r"\?")):
        options = {**options, "dmd2": Dmd2Config(**options.get("dmd2", {}))}
        AdversarialConfig(**options)

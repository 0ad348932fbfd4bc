"""Reflow pairs of noise and teacher clips, and the adversarial trainer that uses them."""

import copy
from pathlib import Path

import pytest
import torch

import nas
from nas import distributed
from nas.data.batches import Batch, Batches
from nas.data.latent_cache import LatentCache
from nas.models import build
from nas.training import AdversarialConfig
from nas.training.execution import ExecutionConfig
from nas.training.reflow import ReflowPairs, Starts, TeacherSampler
from nas.training.stages.adversarial import AdversarialTrainer


@pytest.fixture
def denoiser(space: nas.SearchSpace):
    torch.manual_seed(3)
    model = build(space, space.architecture({"mid.0/0": "SelfAttention1D"}))
    for parameter in model.parameters():  # zero-initialized layers too
        torch.nn.init.normal_(parameter, std=0.05)
    return model.eval().requires_grad_(False)


@pytest.fixture
def teacher(denoiser, decoder: Path) -> TeacherSampler:
    return TeacherSampler(denoiser, LatentCache(decoder / "train").empty, guidance=2.0, times=(1.0, 0.5, 0.0))


def test_the_pairs_are_what_the_teacher_samples_from_the_noise(decoder: Path, denoiser, teacher, tmp_path: Path):
    batches = Batches(decoder, seed=1, videos=3, images=2, caption_dropout=0.0)
    reflow_pairs = ReflowPairs(tmp_path, batches, count=2)
    reflow_pairs.generate(teacher)
    batch, teacher_latents = reflow_pairs(3)  # the second batch, again
    assert torch.equal(batch.noise, batches.joint(1).noise)
    again = [
        sampled_by_hand(denoiser, batch.noise[i : i + 1], batch.context[i : i + 1], batches.cache.empty)
        for i in range(3)
    ]
    torch.testing.assert_close(teacher_latents, torch.cat(again), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(teacher_latents, batch.latents)


def sampled_by_hand(denoiser, noise, context, empty):
    """Two Euler steps with guidance 2, written out."""
    x = noise
    for t, after in ((1.0, 0.5), (0.5, 0.0)):
        time = torch.full((1,), 1000 * t)
        with torch.no_grad():
            with_text, without = denoiser(x, time, context), denoiser(x, time, empty)
        x = x + (after - t) * (without + 2 * (with_text - without))
    return x


def test_existing_pairs_are_not_computed_again(decoder: Path, teacher, tmp_path: Path):
    batches = Batches(decoder, seed=1, videos=2, images=2, caption_dropout=0.0)
    ReflowPairs(tmp_path, batches, count=1).generate(teacher)
    (made,) = tmp_path.glob("*.safetensors")
    before = made.stat().st_mtime_ns
    ReflowPairs(tmp_path, batches, count=2).generate(teacher)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2 and made.stat().st_mtime_ns == before


def test_the_heads_learn_to_tell_real_from_generated(decoder: Path, denoiser, teacher):
    """Two kinds of negatives must not outweigh the real clips, which drove all scores to -1."""
    batches = Batches(decoder, seed=1, videos=8, images=2, caption_dropout=0.0)
    trainer = AdversarialTrainer(denoiser, teacher, AdversarialConfig(steps=400, batch=8))
    trainer.generator.update = lambda loss, step: 0.0  # a generator that stands still
    for step in range(40):
        batch = batches.of_videos(step)
        row = trainer.step(batch, torch.randn_like(batch.latents), step)
    assert row["real"] > row["fake"] + 0.3
    assert row["real"] > -0.5


def test_image_batches_have_teacher_latents_too(decoder: Path, teacher, tmp_path: Path):
    reflow_pairs = ReflowPairs(
        tmp_path, Batches(decoder, 1, videos=2, images=3, image_share=0.5, caption_dropout=0.0), count=2
    )
    reflow_pairs.generate(teacher)
    assert [reflow_pairs(step)[1].shape[::2][:2] for step in (0, 1)] == [(2, 8), (3, 1)]


def test_the_target_is_the_end_of_the_teachers_trajectory_from_the_students_input(decoder: Path, denoiser, teacher):
    """The student is still the teacher here, without guidance: from the second place one guided step is left."""
    batches = Batches(decoder, seed=1, videos=6, images=2, caption_dropout=0.0)
    trainer = AdversarialTrainer(denoiser, teacher, AdversarialConfig(batch=6, pure_noise_fraction=0.5))
    batch = batches.of_videos(0)
    teacher_latents = torch.zeros_like(batch.latents)
    indices = torch.tensor([1, 0, 0, 1, 1, 0])
    started, starts = indices == 1, Starts(indices, Starts.order_of(indices))
    x, t, target = trainer.inputs(batch, teacher_latents, starts, torch.tensor(teacher.times)[indices])
    assert set(t.tolist()) == {0.5, 1.0}
    assert torch.equal(x[~started], batch.noise[~started]) and not target[~started].any()
    with torch.no_grad():
        time = torch.full((6,), 1000.0)
        half = batch.noise - 0.5 * denoiser(batch.noise, time, batch.context)
        with_text = denoiser(half, time / 2, batch.context)
        without = denoiser(half, time / 2, teacher.empty.expand_as(batch.context))
    end = half - 0.5 * (without + 2 * (with_text - without))
    torch.testing.assert_close(x[started], half[started], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(target[started], end[started], atol=1e-4, rtol=1e-4)


def test_clips_and_random_numbers_do_not_depend_on_the_number_of_workers(decoder: Path, denoiser, teacher, monkeypatch):
    """Nor does the caption of another clip: a worker with a single clip takes it from the batch of all."""
    trainer = AdversarialTrainer(denoiser, teacher, AdversarialConfig(batch=4))
    batches = Batches(decoder, seed=1, videos=4, images=4, image_share=0.5, other_contexts=True)
    for step in (0, 1):
        monkeypatch.undo()
        whole = batches.joint(step)
        draws, parts = trainer._draw(whole, step), []
        for worker in range(4):
            monkeypatch.setattr(distributed, "world_size", lambda: 4)
            monkeypatch.setattr(distributed, "rank", lambda worker=worker: worker)
            batch = batches.joint(step)
            parts.append((batch.tensors(), trainer._draw(batch, step)))
        assert whole.other_context is not None
        for field, together in enumerate(whole.tensors()):
            assert torch.equal(together, torch.cat([tensors[field] for tensors, _ in parts]))
        for name in ("noise", "perturbation", "level", "t"):
            assert torch.equal(getattr(draws, name), torch.cat([getattr(own, name) for _, own in parts]))
        assert not torch.equal(whole.noise[0], whole.noise[1])


def test_one_clip_has_a_negative_with_the_caption_of_another(decoder: Path, denoiser, teacher):
    batches = Batches(decoder, seed=1, videos=2, images=2, caption_dropout=0.0, other_contexts=True)
    trainer = AdversarialTrainer(denoiser, teacher, AdversarialConfig(batch=1, penalty=0.0))
    both = next(b for b in map(batches.of_videos, range(9)) if not torch.equal(b.context[0], b.context[1]))
    batch = Batch(*(values[:1] for values in both.tensors()))
    draws, fake = trainer._draw(batch, 0), torch.randn_like(batch.latents)
    with torch.no_grad():
        found = trainer.heads_loss(batch.latents, fake, draws, batch)["loss"]
        on_real, on_fake, on_other = (
            trainer._scores(clips, draws.level, context)
            for clips, context in (
                (batch.latents, batch.context), (fake, batch.context), (batch.latents, batch.other_context)
            )
        )  # fmt: skip
    negatives = ((1 + on_fake).relu().mean() + (1 + on_other).relu().mean()) / 2
    torch.testing.assert_close(found, (1 - on_real).relu().mean() + negatives)


def test_teacher_and_own_sampling_run_in_the_precision_of_the_steps(decoder: Path, denoiser, teacher, tmp_path: Path):
    execution, seen = ExecutionConfig(precision="bf16"), []
    batches = Batches(decoder, seed=1, videos=4, images=2, caption_dropout=0.0)
    denoiser.conv_in.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    ReflowPairs(tmp_path, batches, count=1).generate(teacher, execution)
    student = copy.deepcopy(denoiser)
    trainer = AdversarialTrainer(student, teacher, AdversarialConfig(batch=4, pure_noise_fraction=0.0), execution)
    batch, latents = ReflowPairs(tmp_path, batches, count=1)(0)
    trainer.step(batch, latents, 0)
    assert len(seen) > 4 and set(seen) == {torch.bfloat16}
    assert latents.dtype == torch.float32

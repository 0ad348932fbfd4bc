"""Monitors warn once about static clips, drifting latents and a saturated discriminator; TensorBoard; previews."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from torch import nn

from nas.data.batches import held_out
from nas.training import DistillConfig, FinetuneConfig, Inputs, read_history, run_stage
from nas.training.learner import Learner
from nas.training.loop import WARNINGS, run
from nas.training.monitors import HistoryMonitor, latent_statistics, motion_energy
from nas.training.optimization import Optimization
from nas.training.previews import PreviewConfig


def test_motion_energy_is_zero_of_still_clips_and_grows_with_speed():
    waves = torch.sin(torch.arange(64) / 6).expand(1, 1, 1, 64)
    slow, fast = (torch.stack([waves.roll(speed * t, -1) for t in range(6)], 2) for speed in (1, 2))
    assert motion_energy(slow[:, :, :1].expand(-1, -1, 6, -1, -1)) == 0
    assert motion_energy(fast) > 2 * motion_energy(slow) > 0
    assert math.isnan(motion_energy(slow[:, :, :1]))


def test_statistics_of_real_latents_are_near_one_and_of_altered_ones_are_not(decoder):
    real, _ = held_out(decoder, 16)
    fine = latent_statistics(real[8:], real[:8])
    assert 0.5 < fine["motion"] < 2 and 0.7 < fine["spread"] < 1.4
    static = real[8:, :, :1].expand_as(real[8:])
    assert latent_statistics(static, real[:8])["motion"] == 0
    assert latent_statistics(2.5 * real[8:], real[:8])["spread"] > 1.5
    assert math.isnan(latent_statistics(real[:2, :, :1], real[2:4, :, :1])["motion"])  # images have no motion


def rows(column: str, values: list[float]) -> list[dict[str, float]]:
    return [{"step": step, "loss": 1.0, column: value} for step, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("column", "good", "bad", "word"),
    [
        ("motion", 0.9, 0.1, "static"),
        ("motion", 0.9, 9.0, "flicker"),
        ("spread", 1.0, 2.0, "saturate"),
        ("spread", 1.0, 0.2, "fade"),
        ("heads_loss", 1.5, 0.001, "discriminator has won"),
    ],
)
def test_a_warning_is_given_once_until_the_column_recovers(column, good, bad, word):
    monitor = HistoryMonitor()
    warnings = [line for row in rows(column, [good] * 30 + [bad] * 60) for line in monitor.check(row)]
    assert len(warnings) == 1 and word in warnings[0] and "\n" not in warnings[0]
    assert not any(monitor.check(row) for row in rows(column, [good] * 40))
    assert sum(len(monitor.check(row)) for row in rows(column, [bad] * 40)) == 1


def test_single_outliers_and_image_steps_give_no_warning():
    monitor = HistoryMonitor()
    assert not any(monitor.check(row) for row in rows("motion", ([0.9] * 9 + [0.0]) * 5))
    assert not any(monitor.check(row) for row in rows("motion", [math.nan] * 50))
    assert not any(monitor.check(row) for row in rows("heads_loss", [0.0] * 19))  # too few to tell


def learner() -> Learner:
    torch.manual_seed(0)
    return Learner(nn.Linear(3, 1), Optimization(lr=0.01), 60)


def step_that_stops_moving(trained: Learner):
    def step(number: int) -> dict[str, float]:
        loss = trained.module(torch.ones(4, 3)).square().mean()
        norm = trained.update(loss, number)
        return {"loss": loss.item(), "grad_norm": norm, "motion": 0.9 if number < 20 else 0.05}

    return step


def test_a_run_warns_in_one_line_and_does_not_repeat_it_when_resumed(tmp_path, capsys):
    first = learner()
    run("adversarial", tmp_path, 50, {"x": first}, step_that_stops_moving(first), save_every=50)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("warning: adversarial: step ")
    again = learner()
    run("adversarial", tmp_path, 60, {"x": again}, step_that_stops_moving(again), save_every=50)
    assert "warning" not in capsys.readouterr().err
    assert len((tmp_path / WARNINGS).read_text().splitlines()) == 1


@pytest.mark.slow
def test_finetuning_writes_previews_and_is_not_changed_by_them(space, decoder, tmp_path):
    backbone = run_stage(
        "distill", tmp_path / "d", DistillConfig(steps=2, batch=4, validation=4), Inputs(space, decoder)
    )
    inputs = Inputs(space, decoder, backbone.folder, space.architecture({"down.0.0/0": "Conv1D"}))
    config = FinetuneConfig(steps=6, batch=2, image_batch_size=4, validation=4, eval_steps=(), save_every=2)
    watched = run_stage(
        "finetune", tmp_path / "w", config, replace(inputs, previews=PreviewConfig(every=3, clips=3, steps=2))
    )
    plain = run_stage("finetune", tmp_path / "p", config, inputs)
    assert watched.metrics["validation_loss"] == plain.metrics["validation_loss"]
    measured = [row["sampled_motion"] for row in read_history(watched.folder)]
    assert [math.isnan(value) for value in measured] == [True, True, False] * 2
    names = sorted(path.name for path in (watched.folder / "samples").iterdir())
    assert names == [f"step-000000{n}{suffix}" for n in (3, 6) for suffix in (".gif", ".mp4")]
    assert frames_of(watched.folder / "samples/step-0000003.mp4") == space.latent.frames
    assert "sampled_motion" not in read_history(plain.folder)[0]


def frames_of(path: Path) -> int:
    with av.open(str(path)) as file:
        return sum(1 for _ in file.decode(video=0))

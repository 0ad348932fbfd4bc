"""`train.sh` of an exported recipe trains every stage again, as `nas train` does, from a shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import nas
from nas import checkpoint
from nas.cli import main
from nas.export import recipe
from nas.files import read_json
from nas.training import (
    AdversarialConfig,
    DistillConfig,
    FinetuneConfig,
    Inputs,
    SupernetConfig,
    read_history,
    run_stage,
)
from nas.training.recipe import PREVIOUS_STAGE

FINETUNE = FinetuneConfig(
    steps=2, batch=2, image_batch_size=4, validation=4, eval_steps=(1,), eval_clips=8, save_every=1
)
CONFIGS = {
    "distill": DistillConfig(steps=3, batch=4, validation=4),
    "supernet": SupernetConfig(steps=3, batch=2, image_batch_size=4, validation=4, paths=1),
    "finetune": FINETUNE,
    "adversarial": AdversarialConfig(
        steps=2, batch=2, image_batch_size=4, teacher_batches=2, eval_steps=(1,), eval_clips=8, control_steps=0
    ),
}  # fmt: skip


@pytest.mark.slow
def test_the_exported_recipe_trains_the_same_model_again(
    space: nas.SearchSpace,
    decoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    """The shell's calls of `nas` are made in this process: a process each would import torch each time."""
    run, start = tmp_path / "run", None
    run.mkdir()
    (run / "decoder").symlink_to(decoder)
    arch = space.architecture({"down.0.0/0": "Conv1D", "mid.0/0": "SelfAttention1D"})
    for name, config in CONFIGS.items():
        inputs = Inputs(space, run / "decoder", start, arch if name == "finetune" else None)
        start = run_stage(name, run / name, config, inputs).folder
    assert read_json(start / "result.json", "result")["metrics"]["quality"].keys() == {"adversarial"}, "no control"
    folder = recipe(start, tmp_path / "export")[0].rename(tmp_path / "another machine")

    called, program, again = tmp_path / "called", tmp_path / "bin" / "nas", tmp_path / "again"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n(printf '%s\\n' \"$@\"; echo) >> '{called}'\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": os.pathsep.join([str(program.parent), os.environ["PATH"]])}
    done = subprocess.run([folder / "train.sh", again], env=environment, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    monkeypatch.chdir("/")
    capsys.readouterr()
    for call in called.read_text().strip().split("\n\n"):
        assert main(call.split("\n")) == 0, call
    assert capsys.readouterr().out.count("\n") == len(PREVIOUS_STAGE)
    for name in PREVIOUS_STAGE:
        rows, expected = read_history(again / name), read_history(run / name)
        assert rows[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=1e-3), name
    made = checkpoint.load(again / "adversarial")
    assert made.architecture == arch and made.info.steps == 4

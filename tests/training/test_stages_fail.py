"""Stages that cannot start or finish: divergence, another process, a full disk, too little memory, invalid values."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import nas
from nas.errors import ConfigError, NasError
from nas.locks import LockedError
from nas.training import DecoderConfig, DistillConfig, Inputs, read_history, run_stage
from nas.training.learner import Learner
from nas.training.optimization import Optimization
from tests.support.training_fixtures import SPACE

CONFIG = DistillConfig(steps=6, batch=4, validation=4, save_every=2)


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_a_learning_rate_that_diverges_leaves_no_result(space, decoder, tmp_path, steps):
    config = replace(CONFIG, steps=steps, optimization=Optimization(lr=1e30, warmup=0))
    for _ in range(2):  # a second try resumes from the saved state and fails alike
        with pytest.raises(NasError, match="diverged") as error:
            run_stage("distill", tmp_path / "run", config, Inputs(space, decoder))
        assert "\n" not in str(error.value)
    assert not {"result.json", "denoiser.safetensors"} & {path.name for path in (tmp_path / "run").iterdir()}


def test_the_second_of_two_processes_is_refused(space, decoder, tmp_path):
    folder = tmp_path / "run"
    script = f"from nas.locks import output_lock\nwith output_lock({str(folder)!r}, folder=True):\n    print(flush=True)\n    input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        with pytest.raises(LockedError, match=str(other.pid)):
            run_stage("distill", folder, CONFIG, Inputs(space, decoder))
        assert [path.name for path in folder.iterdir()] == [".nas.lock"]
        other.communicate("\n")
    run_stage("distill", folder, CONFIG, Inputs(space, decoder))
    assert not (folder / ".nas.lock").exists()


def test_a_full_disk_is_a_one_line_error_and_the_stage_resumes(space, decoder, tmp_path, monkeypatch):
    straight = run_stage("distill", tmp_path / "straight", CONFIG, Inputs(space, decoder))
    folder, written, save = tmp_path / "run", [], os.fsync

    def full(handle: int) -> None:
        written.append(handle)
        if len(written) > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(handle)

    with monkeypatch.context() as patch, pytest.raises(NasError, match=r"No space left.*is kept") as error:
        patch.setattr("os.fsync", full)
        run_stage("distill", folder, CONFIG, Inputs(space, decoder))
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    assert not (folder / "result.json").exists() and not list(folder.glob(".*"))
    run_stage("distill", folder, CONFIG, Inputs(space, decoder))
    name = "denoiser.safetensors"
    assert (folder / name).read_bytes() == (straight.folder / name).read_bytes()
    assert [row["step"] for row in read_history(folder)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory_is_a_one_line_error(space, decoder, tmp_path, monkeypatch, error):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(Learner, "train_step", fails)
    with pytest.raises(NasError, match=r"out of memory.*accumulate"):
        run_stage("distill", tmp_path / "run", CONFIG, Inputs(space, decoder))


@pytest.mark.parametrize("name", ["stage.json", "result.json"])
@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"metrics": 3}', '{"config": [1]}'])
def test_a_damaged_file_of_a_stage_is_a_one_line_error(space, decoder, tmp_path, name, text):
    folder = tmp_path / "run"
    folder.mkdir()
    if name == "result.json":
        with pytest.raises(KeyboardInterrupt):
            run_stage("distill", folder, CONFIG, _Stopping(space, decoder))
    (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=name) as error:
        run_stage("distill", folder, CONFIG, Inputs(space, decoder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("frames, compression", [(30, 4), (12, 4), (9, 1)])
def test_frames_that_a_clip_does_not_have_are_refused_before_anything_is_trained(tmp_path, frames, compression):
    (tmp_path / "space.yaml").write_text(
        SPACE + f"autoencoder: {{channels: [8, 16, 16], norm_groups: 8, temporal_compression: {compression}}}\n"
    )
    space = nas.SearchSpace.load(tmp_path / "space.yaml")
    with pytest.raises(ConfigError, match=f"decoder.frames: {frames} of the {7 * compression + 1} frames"):
        run_stage("decoder", tmp_path / "run", DecoderConfig(frames=frames), Inputs(space))
    assert not list((tmp_path / "run").glob("classifier-*"))


class _Stopping(Inputs):
    """Inputs that stop a stage once its folder is begun."""

    def __getattribute__(self, name: str):
        if name == "decoder":
            raise KeyboardInterrupt
        return super().__getattribute__(name)


def test_a_damaged_history_names_its_line(tmp_path):
    (tmp_path / "history.csv").write_text("step,loss\n1,0.5\nx,y\n")
    with pytest.raises(ConfigError, match=r"history\.csv:3"):
        read_history(tmp_path)


RANGES = [
    ("decoder", {"save_every": 0}),
    ("decoder", {"fps": float("nan")}),
    ("decoder", {"kl": -1}),
    ("decoder", {"frames": 0}),
    ("distill", {"caption_dropout": 1.5}),
    ("distill", {"steps": 0}),
    ("distill", {"optimization": {"lr": float("inf")}}),
    ("supernet", {"batch": 0}),
    ("supernet", {"spatial_rate": -1}),
    ("finetune", {"guidance": float("nan")}),
    ("finetune", {"eval_steps": [1, 0]}),
    ("finetune", {"image_share": -0.1}),
    ("adversarial", {"sampled_steps": 1}),
    ("adversarial", {"pure_noise_fraction": 2}),
    ("adversarial", {"control": {"save_every": -3}}),
    ("objective", {"shift": float("inf")}),
    ("objective", {"time_std": 0}),
    ("execution", {"accumulate": 0}),
    ("execution", {"keep": 0}),
    ("execution", {"shard_size": 0}),
    ("execution", {"data_workers": -1}),
    ("previews", {"every": -1}),
    ("previews", {"steps": 0}),
]


@pytest.mark.parametrize("part, fields", RANGES, ids=str)
def test_a_recipe_with_a_value_out_of_range_names_file_line_and_field(tmp_path, space, part, fields, capsys):
    import yaml

    from nas.cli import main

    space.save(tmp_path / "space.yaml")
    where = {part: fields} if part in ("objective", "execution", "previews") else {"stages": {part: fields}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"space": "space.yaml", **where}))
    stage = part if "stages" in where else "decoder"
    assert main(["train", stage, "--config", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    field = json.dumps(fields).replace('"', "").strip("{}").split("{")[-1].split(":")[0]
    assert "recipe.yaml:" in said and f"{field}: must be" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()

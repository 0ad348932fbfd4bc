"""Two workers over gloo match one process with the whole batch; they resume after kill -9; Ray Train starts them."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import nas
from nas import checkpoint
from nas.errors import ConfigError
from nas.models import safetensors_io
from nas.training import DistillConfig, FinetuneConfig, Inputs, read_history, run_stage
from nas.training.recipe import train
from tests.support.distributed_worker import gradients
from tests.support.forked import Running, start_python

STEPS = 12
FINETUNE = FinetuneConfig(steps=STEPS, batch=4, image_batch_size=8, validation=4, eval_steps=(), save_every=4)
WORKER = Path(__file__).parents[1] / "support" / "distributed_worker.py"


def start(tmp_path: Path, workers: int, function: str, *arguments: object) -> list[Running]:
    tmp_path.mkdir(parents=True, exist_ok=True)
    (tmp_path / "task").write_bytes(pickle.dumps((function, arguments)))
    (tmp_path / "store").unlink(missing_ok=True)
    program = WORKER.read_text()
    return [
        start_python(program, rank, workers, tmp_path / "store", tmp_path / "task", folder=tmp_path)
        for rank in range(workers)
    ]


def finish(workers: list[Running]) -> None:
    for worker in workers:
        assert worker.wait(timeout=600) == 0, worker.stderr.read_text()[-3000:]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, space: nas.SearchSpace, decoder: Path) -> Path:
    config = DistillConfig(steps=4, batch=4, validation=4)
    return run_stage("distill", tmp_path_factory.mktemp("distill") / "distill", config, Inputs(space, decoder)).folder


@pytest.fixture(scope="module")
def inputs(space: nas.SearchSpace, decoder: Path, backbone: Path) -> Inputs:
    arch = space.architecture({"down.0.0/0": "Conv1D", "up.1.1/0": "SelfAttention1D"})
    return Inputs(space, decoder, backbone, arch)


@pytest.mark.slow
def test_workers_take_the_steps_of_the_whole_batch(space, decoder, tmp_path):
    """Each with half the batch, itself in two parts: DDP, averaged gradients and FSDP2 against one process."""
    space_file = space.save(tmp_path / "space.yaml")
    kinds, alone = ("ddp", "averaged", "sharded"), tmp_path / "alone"
    workers = start(tmp_path, 2, "gradients_of_kinds", tmp_path, space_file, decoder, kinds, 4)
    gradients(alone, space_file, decoder, "ddp", 4)
    finish(workers)
    for folder in (tmp_path / kind for kind in kinds):
        first, expected = (
            safetensors_io.load(folder / "first.safetensors"),
            safetensors_io.load(alone / "first.safetensors"),
        )
        assert first.keys() == expected.keys()
        assert all(torch.allclose(value, first[name], atol=1e-6) for name, value in expected.items()), folder
        for row, theirs in zip(read_history(alone), read_history(folder), strict=True):
            assert row["loss"] == pytest.approx(theirs["loss"], abs=2e-5) and row["step"] == theirs["step"]
        mean, wanted = safetensors_io.load(folder / "mean.safetensors"), safetensors_io.load(alone / "mean.safetensors")
        # Adam's first steps are all of length lr, whichever way rounding turns a gradient that is zero
        assert all((value - mean[name]).abs().mean() < 1e-5 for name, value in wanted.items()), folder


@pytest.mark.slow
def test_two_workers_killed_and_started_again_end_where_a_straight_run_does(inputs, tmp_path):
    """kill -9 of both once the history has passed step 6."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(start(tmp_path / "a", 2, "stage", "finetune", straight, FINETUNE, inputs))
    workers = start(tmp_path / "b", 2, "stage", "finetune", killed, FINETUNE, inputs)
    deadline = time.monotonic() + 600
    while len(read_history(killed)) < 6 and time.monotonic() < deadline and workers[0].poll() is None:
        time.sleep(0.002)
    for worker in workers:
        worker.kill()
        worker.wait()
    assert len(read_history(killed)) >= 6 and not (killed / "result.json").exists()
    with pytest.raises(ConfigError, match=r"was started with another workers \(2, now 1\); use the same value"):
        run_stage("finetune", killed, FINETUNE, inputs)
    finish(start(tmp_path / "b", 2, "stage", "finetune", killed, FINETUNE, inputs))
    a, b = (safetensors_io.load(folder / "denoiser.safetensors") for folder in (straight, killed))
    assert a.keys() == b.keys() and all(torch.allclose(a[key], b[key], rtol=0, atol=1e-6) for key in a)
    assert (straight / "history.csv").read_text() == (killed / "history.csv").read_text()
    result = run_stage("finetune", killed, FINETUNE, inputs)  # finished, it can be read with any number of workers
    assert result.metrics["validation_loss"] > 0


def test_a_batch_that_does_not_divide_evenly_is_refused_before_anything_starts(space, tmp_path):
    space.save(tmp_path / "space.yaml")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{space: space.yaml, stages: {distill: {batch: 4}}}")
    with pytest.raises(
        ConfigError, match=r"stages.distill.batch: 4 cannot be shared evenly by 3 workers; choose a mul"
    ):
        train("distill", recipe, tmp_path / "run", workers=3)
    with pytest.raises(ConfigError, match="workers: must be at least 1, not 0"):
        train("distill", recipe, tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def recipe(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The recipe of a fine-tuning that can start in the folder `run` beside it."""
    (tmp_path / "run").mkdir()
    for name, there in (("decoder", inputs.decoder), ("supernet", inputs.start)):
        (tmp_path / "run" / name).symlink_to(there)
    inputs.space.save(tmp_path / "space.yaml")
    inputs.architecture.save(tmp_path / "architecture.json")
    (tmp_path / "table.csv").write_text("workload,latency_ms\n")
    options = {"steps": 6, "batch": 4, "image_batch_size": 8, "validation": 4, "eval_steps": [], "save_every": 5}
    recipe = {"space": "space.yaml", "architecture": "architecture.json", "table": "table.csv"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "stages": {"finetune": options}}))
    monkeypatch.chdir(tmp_path)  # Ray's workers run elsewhere, and must find it all the same
    return "recipe.yaml"


@pytest.mark.slow
def test_ray_and_torchrun_train_with_two_workers(inputs, recipe, tmp_path):
    """`nas train --workers 2` in this machine's own Ray cluster, which ends with it; then `torchrun ... nas train`."""
    import ray

    result = train("finetune", recipe, "run", workers=2)
    assert not ray.is_initialized()  # or whatever uses Ray next would be on that cluster, whatever address it gives
    assert [row["step"] for row in read_history(result.folder)] == list(range(1, 7))
    alone = run_stage("finetune", tmp_path / "alone", replace(FINETUNE, steps=6), inputs)
    assert read_history(result.folder)[0]["loss"] == pytest.approx(read_history(alone.folder)[0]["loss"], abs=1e-5)
    provenance = checkpoint.load(result.folder).info.provenance
    assert provenance["space_hash"] == inputs.space.hash and provenance["table_hash"]

    shutil.move(result.folder, tmp_path / "by-ray")
    words = ["--standalone", "--nproc-per-node", "2", "-m", "nas.cli", "train", "finetune"]
    command = [sys.executable, "-m", "torch.distributed.run", *words, "--config", recipe, "--out", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("finetune: {") == 1, "only rank 0 prints"
    assert read_history(tmp_path / "run" / "finetune") == read_history(tmp_path / "by-ray")


def test_workers_beside_torchrun_are_refused(recipe, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="workers: torchrun has started 3 processes; leave out --workers"):
        train("finetune", recipe, "run", workers=2)
    with pytest.raises(ConfigError, match=r"stages.finetune.batch: 4 cannot be shared evenly by 3 workers"):
        train("finetune", recipe, "run")


def test_finetune_from_a_model_of_another_architecture_is_refused(inputs, space, decoder, tmp_path):
    """Its temporal layers would be dropped where the new architecture has others."""
    one_step = replace(FINETUNE, steps=1)
    trained = run_stage("finetune", tmp_path / "first", one_step, inputs).folder
    other = space.architecture({"down.0.0/0": "Conv1D", "up.1.1/0": "Conv1D"})
    for arch in (other, space.architecture({"down.0.0/0": "Conv1D"})):
        with pytest.raises(ConfigError, match=r"denoiser.safetensors: does not fit .*'temporal\."):
            run_stage(
                "finetune", tmp_path / str(arch.choices["up.1.1/0"]), one_step, Inputs(space, decoder, trained, arch)
            )
    run_stage("finetune", tmp_path / "third", one_step, Inputs(space, decoder, trained, inputs.architecture))

"""Two workers over gloo do what one process does; they resume as more or fewer after kill -9; Ray Train starts them."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import nas
from nas import checkpoint
from nas.data import latent_cache
from nas.errors import ConfigError
from nas.models import safetensors_io
from nas.training import (
    AdversarialConfig,
    DecoderConfig,
    DistillConfig,
    ExecutionConfig,
    FinetuneConfig,
    Inputs,
    SupernetConfig,
    read_history,
    run_stage,
    states,
)
from nas.training.recipe import train
from nas.training.stages.few_step_methods import METHODS, Dmd2Config
from nas.training.stages.prepare import PrepareConfig, prepare
from nas.training.telemetry.history import History
from tests.support.clip_files import write_clip
from tests.support.distributed_worker import gradients, learner_of
from tests.support.forked import Running, start_python

STEPS = 10
FINETUNE = FinetuneConfig(steps=STEPS, batch=4, image_batch_size=8, validation=4, eval_steps=(), save_every=2)
WORKER = Path(__file__).parents[1] / "support" / "distributed_worker.py"


def start_workers(tmp_path: Path, workers: int, function: str, *arguments: object) -> list[Running]:
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


TINY = {"batch": 2, "image_batch_size": 4, "validation": 4, "save_every": 2}
ADVERSARIAL = AdversarialConfig(
    steps=2, batch=2, image_batch_size=4, image_share=0.5, teacher_batches=3, eval_steps=(), save_every=2
)
CONFIGS = {
    "decoder": DecoderConfig(steps=2, batch=2, channels=(8, 16, 16), held_out=2),
    "distill": DistillConfig(steps=2, batch=4, validation=4),
    "supernet": SupernetConfig(steps=2, image_share=0.5, paths=1, **TINY),
    "finetune": FinetuneConfig(steps=2, image_share=0.5, eval_steps=(), **TINY),
    "adversarial": ADVERSARIAL,
    **{
        f"adversarial-{method}": replace(ADVERSARIAL, steps=4, method=method, dmd2=Dmd2Config(2))
        for method in METHODS[1:]
    },
}
"""By stage, or `STAGE-METHOD`."""
SHARDED = ("distill", "supernet")
"""Stages that are run with FSDP2 as well; `finetune` is, where it is killed."""
KINDS = ("ddp", "averaged", "sharded", "hybrid")


@pytest.fixture(scope="module")
def together(tmp_path_factory, space, decoder, inputs, vae) -> Path:
    """What one process does, in folders `alone` and NAME-alone, and what two workers do: see `like_one_process`."""
    root = tmp_path_factory.mktemp("together")
    space_file, start, stages = space.save(root / "space.yaml"), inputs.start, []
    gradients(root / "alone", space_file, decoder, "ddp", 2)
    data = clips(root / "clips")
    for name, config in CONFIGS.items():
        config = replace(config, data=str(data)) if name == "decoder" else config
        arch = inputs.architecture if name == "finetune" else None
        given = (
            Inputs(space) if name == "decoder" else Inputs(space, decoder, None if name == "distill" else start, arch)
        )
        stage = name.partition("-")[0]
        alone = run_stage(stage, root / f"{name}-alone", config, given).folder
        for way in ("ddp", "sharded") if name in SHARDED else ("ddp",):
            there = replace(given, execution=ExecutionConfig(shard=way == "sharded"))
            stages.append((stage, root / f"{name}-{way}", config, there))
        start = start if stage in ("decoder", "adversarial") else alone
    prepared = (PrepareConfig(str(data), str(vae)), space)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_cache, "SHARD", 2)
        prepare(root / "cache-alone", *prepared)
    half = root / "cache" / "train"  # as after kill -9: complete shards, but not all, and not the first
    half.mkdir(parents=True)
    for name in ("source.json", "videos-00001.json", "videos-00001.safetensors"):
        shutil.copy(root / "cache-alone" / "train" / name, half)
    task = (root, space_file, decoder, (*KINDS, "bf16"), 2, stages, (root / "cache", *prepared))
    finish(start_workers(root, 2, "like_one_process", *task))
    return root


def clips(folder: Path) -> Path:
    folder.mkdir()
    names = [f"{number}.mp4" for number in range(12)]
    for frames, name in enumerate(names, 8):
        write_clip(folder / name, frames)
    (folder / "bad.mp4").write_bytes(b"nothing")
    rows = [f"{name},take {name}" for name in [*names, "bad.mp4"]]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *rows]) + "\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_workers_take_the_steps_of_the_whole_batch(kind, together, space):
    """Each with half the batch, itself in two parts: DDP, averaged gradients, FSDP2 and HSDP against one process."""
    alone, folder = together / "alone", together / kind
    first, expected = (safetensors_io.load(path / "first.safetensors") for path in (folder, alone))
    assert first.keys() == expected.keys()
    assert all(torch.allclose(value, first[name], atol=1e-6) for name, value in expected.items())
    for row, theirs in zip(read_history(alone), read_history(folder), strict=True):
        assert row["loss"] == pytest.approx(theirs["loss"], abs=2e-5) and row["step"] == theirs["step"]
    check_close(folder / "mean.safetensors", alone / "mean.safetensors")
    again = learner_of(space, "ddp")  # what two workers have saved, in one process
    assert states.restore(folder, {"model": again})[0] == 100
    mean = safetensors_io.load(folder / "mean.safetensors")
    assert all(torch.equal(value, mean[name]) for name, value in again.ema_state().items())
    if (folder / "reread.safetensors").exists():  # what one process has saved, in two workers
        reread, wanted = (
            safetensors_io.load(folder / "reread.safetensors"),
            safetensors_io.load(alone / "mean.safetensors"),
        )
        assert all(torch.equal(value, reread[name]) for name, value in wanted.items())


@pytest.mark.slow
def test_sharded_parameters_are_gathered_in_half_precision(together):
    """See `check_half_precision` as well; losses are those of float32, up to the rounding of bfloat16."""
    rows = list(zip(read_history(together / "alone"), read_history(together / "bf16"), strict=True))
    assert all(row["loss"] == pytest.approx(theirs["loss"], rel=0.03) for row, theirs in rows)
    assert any(row["loss"] != pytest.approx(theirs["loss"], abs=2e-5) for row, theirs in rows)


def check_close(path: Path, expected: Path, within: float = 1e-5) -> None:
    found, wanted = safetensors_io.load(path), safetensors_io.load(expected)
    assert found.keys() == wanted.keys()
    # Adam's first steps are all of length lr, whichever way rounding turns a gradient that is zero
    assert all((value.float() - found[name].float()).abs().mean() < within for name, value in wanted.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_every_stage_ends_with_the_weights_of_one_process(name, together):
    """With DDP, and some with FSDP2."""
    ways = [way for way in ("ddp", "sharded") if (together / f"{name}-{way}" / "result.json").exists()]
    assert len(ways) == 1 + (name in SHARDED)
    weights = {"decoder": "decoder", "supernet": "supernet"}.get(name, "denoiser") + ".safetensors"
    for way in ways:
        # The decoder's learning rate is high, and its biases before a norm have gradients of rounding errors.
        within = 1e-4 if name == "decoder" else 1e-5
        check_close(together / f"{name}-{way}" / weights, together / f"{name}-alone" / weights, within)
        assert not list((together / f"{name}-{way}").glob("*state*"))
        rows = zip(read_history(together / f"{name}-alone"), read_history(together / f"{name}-{way}"), strict=True)
        assert all(row["loss"] == pytest.approx(theirs["loss"], abs=1e-5, nan_ok=True) for row, theirs in rows)


@pytest.mark.slow
def test_two_workers_prepare_the_files_of_one(together):
    """Half of which a killed run has left."""
    for split in ("train", "test"):
        names = sorted(path.name for path in (together / "cache-alone" / split).iterdir())
        assert names == sorted(path.name for path in (together / "cache" / split).iterdir()) and len(names) > 5
        for name in names:
            one, two = (together / folder / split / name for folder in ("cache-alone", "cache"))
            assert one.read_bytes() == two.read_bytes(), name
    assert (together / "cache-alone/skipped.csv").read_text() == (together / "cache/skipped.csv").read_text()
    assert "bad.mp4" in (together / "cache/skipped.csv").read_text()


@pytest.mark.slow
def test_killed_and_resumed_with_another_number_of_workers_it_ends_where_a_straight_run_does(inputs, tmp_path):
    """SIGKILL of one of two workers that save a sharded state; then one process, interrupted; then two workers."""
    straight = run_stage("finetune", tmp_path / "straight", FINETUNE, inputs)
    killed, sharded = tmp_path / "killed", replace(inputs, execution=ExecutionConfig(shard=True))
    workers = start_workers(tmp_path / "a", 2, "stage", "finetune", killed, FINETUNE, sharded, (1, 4))
    assert [worker.wait(timeout=600) != 0 for worker in workers] == [True, True]
    assert [path.name for path in killed.glob("state*")] == ["state-00000002"] and list(killed.glob(".state-*"))

    append = History.append

    def interrupted(self: History, step: int, losses: object) -> None:
        if step == 7:
            raise KeyboardInterrupt
        append(self, step, losses)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(History, "append", interrupted)
        run_stage("finetune", killed, FINETUNE, inputs)
    assert [path.name for path in killed.glob("state*")] == ["state.safetensors"] and not list(killed.glob(".state-*"))
    finish(start_workers(tmp_path / "b", 2, "stage", "finetune", killed, FINETUNE, inputs))

    rows = list(zip(read_history(straight.folder), read_history(killed), strict=True))
    assert len(rows) == STEPS
    assert all(row["loss"] == pytest.approx(theirs["loss"], abs=1e-5) for row, theirs in rows)
    check_close(killed / "denoiser.safetensors", straight.folder / "denoiser.safetensors")
    assert run_stage("finetune", killed, FINETUNE, inputs).metrics["validation_loss"] == pytest.approx(
        straight.metrics["validation_loss"], abs=1e-5
    )


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
    for execution, reason in (
        ("{shard: true, shard_size: 3}", "execution.shard_size: 3 does not divide 4 workers; choose one of 1, 2, 4"),
        ("{shard_size: 2}", "shard_size: is part of 'shard: true'; add that, or remove it"),
    ):
        recipe.write_text(f"{{space: space.yaml, execution: {execution}, stages: {{distill: {{batch: 4}}}}}}")
        with pytest.raises(ConfigError, match=f"recipe.yaml.*{reason}") as error:
            train("distill", recipe, tmp_path / "run", workers=4)
        assert "\n" not in str(error.value)
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

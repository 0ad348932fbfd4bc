"""Resolution of paths in recipes, the autoencoder that is trained, exported recipes, and keys of earlier versions."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import nas
from nas.checkpoint import load_autoencoder
from nas.cli import main
from nas.config import build, load
from nas.errors import ConfigError
from nas.export import recipe as export_recipe
from nas.files import local_or_hub, read_json, write_json
from nas.spaces import VAEConfig
from nas.training import DecoderConfig, FinetuneConfig, Inputs, run_stage
from nas.training.recipe import Recipe, train
from nas.training.stage import BASE, check_or_record_config
from tests.support.clip_files import write_clip

SPACE = """
name: tiny
latent: {channels: 4, frames: 2, height: 8, width: 8}
text: {tokens: 16, dim: 384}
backbone: {channels: [16, 16], heads: 2, norm_groups: 8}
operators: {none: , Conv1D: }
only_sites: [mid.0]
"""
DECODER = {"steps": 1, "batch": 2, "channels": [8, 8], "held_out": 1, "data": "clips"}


def write_project(folder: Path, space: str = SPACE, **options: object) -> Path:
    """A recipe with its space and its clips beside it."""
    for split, count in (("train", 2), ("test", 1)):
        (folder / "clips" / split).mkdir(parents=True)
        for i in range(count):
            write_clip(folder / "clips" / split / f"{i}.mp4", frames=3, height=16, width=16)
        lines = "".join(f"{i}.mp4,a clip\n" for i in range(count))
        (folder / "clips" / split / "metadata.csv").write_text(f"file_name,text\n{lines}")
    (folder / "space.yaml").write_text(space)
    contents = {"space": "space.yaml", "stages": {"decoder": {**DECODER, **options}}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(contents))
    return folder / "recipe.yaml"


def test_paths_start_in_the_folder_of_the_recipe_wherever_it_is_called_from(tmp_path, monkeypatch):
    write_project(tmp_path / "project")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = train("decoder", "../project/recipe.yaml", "run")
    assert result.folder == tmp_path / "elsewhere" / "run" / "decoder" and result.metrics["videos"] == 2
    (tmp_path / "project").rename(tmp_path / "moved")  # what lies together may be moved together
    assert train("decoder", tmp_path / "moved" / "recipe.yaml", "run").metrics == result.metrics


def test_the_command_line_names_its_data_from_the_working_folder(tmp_path, monkeypatch, capsys):
    recipe = write_project(tmp_path / "project", data="nowhere")
    monkeypatch.chdir(tmp_path / "project" / "clips")
    assert main(["train", "decoder", "--config", str(recipe), "--out", "../run"]) == 2
    assert f"{tmp_path}/project/nowhere" in capsys.readouterr().err
    assert main(["train", "decoder", "--config", str(recipe), "--out", "../other", "--data", "../clips"]) == 0


def test_folders_of_teachers_start_there_too_and_hub_names_stay(space, tmp_path):
    (tmp_path / "owner" / "local").mkdir(parents=True)
    inputs = Inputs(space, base=tmp_path)
    base = inputs.path(".")
    assert local_or_hub("owner/name", base) == "owner/name"
    assert local_or_hub("owner/local", base) == str(tmp_path / "owner" / "local")
    assert local_or_hub("../teacher", base) == str(tmp_path / ".." / "teacher")
    assert inputs.path("/pruned") == Path("/pruned")


def test_a_jobs_paths_start_in_the_folder_of_its_config(tmp_path, monkeypatch):
    from nas.runs.job import Job
    from nas.runs.job_config import JobConfig, JobPreviewConfig

    write_project(tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    previews = JobPreviewConfig((), {})
    job = Job(JobConfig("job", "space.yaml", "latency<=75%", previews), tmp_path / "run", "project/job.yaml")
    assert job.space.name == "tiny" and job.base == tmp_path / "project"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "table.csv").write_text("")
    assert job._inputs("decoder").path("clips") == tmp_path / "project" / "clips"


# -- the autoencoder that costs are counted with -------------------------------------------------------------------------

DECLARED = "decoder: {vae: {channels: [8, 16], layers_per_block: 2, norm_groups: 4, mid_attention: false}}\n"


def test_the_decoder_that_the_space_declares_is_trained(tmp_path):
    recipe = write_project(tmp_path, SPACE + DECLARED, channels=None)
    folder = train("decoder", recipe, tmp_path / "run").folder
    made = load_autoencoder(folder).config
    declared = nas.SearchSpace.load(tmp_path / "space.yaml").decoder
    assert made.channels == (8, 16) and made.layers_per_block == 2
    assert nas.spaces.Decoder(made).hash() == declared.hash()


@pytest.mark.parametrize(
    "options, declared, words",
    [
        ({"channels": [8, 8]}, DECLARED, r"decoder\.channels: \[8, 8\] is not what .*\[8, 16\]"),
        ({"channels": None, "norm_groups": 8}, DECLARED, r"decoder\.norm_groups: 8"),
        ({"channels": None, "mid_attention": True}, DECLARED, r"decoder\.mid_attention: True"),
        ({"channels": None}, DECLARED.replace("vae: {", "vae: {image_channels: 1, "), "image_channels: 1"),
    ],
)
def test_another_decoder_than_the_declared_one_is_refused(tmp_path, options, declared, words):
    recipe = write_project(tmp_path, SPACE + declared, **options)
    with pytest.raises(ConfigError, match=words) as error:
        train("decoder", recipe, tmp_path / "run")
    assert "\n" not in str(error.value)


def test_data_is_not_prepared_with_another_decoder_than_the_declared_one(tmp_path, vae):
    from nas.training.stages.prepare import PrepareConfig, prepare

    write_project(tmp_path, SPACE + DECLARED)
    space = nas.SearchSpace.load(tmp_path / "space.yaml")
    with pytest.raises(ConfigError, match=r"another autoencoder .*\[8, 16, 16\].*\[8, 16\]"):
        prepare(tmp_path / "out", PrepareConfig(str(tmp_path / "clips"), str(vae)), space)


def test_clips_that_are_too_small_to_judge_are_refused_before_they_are_trained_on(tmp_path):
    recipe = write_project(tmp_path, SPACE.replace("height: 8, width: 8", "height: 4, width: 4"))
    with pytest.raises(ConfigError, match="8x8 pixels"):
        train("decoder", recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "decoder" / "history.csv").exists()


def test_without_a_declared_decoder_the_small_one_is_trained(space):
    config = DecoderConfig().with_space_defaults(space)
    assert (config.channels, config.norm_groups, config.mid_attention) == ((16, 32, 32), 8, False)
    assert VAEConfig(config.channels, norm_groups=config.norm_groups)


# -- the exported recipe -------------------------------------------------------------------------------------------------


def exported(tiny_checkpoint: Path, run: Path, base: Path, **config: object) -> Path:
    """The exported recipe of a run whose decoder stage had this config, in a file in `base`."""
    import shutil

    shutil.copytree(tiny_checkpoint, run / "adversarial")
    write_json(run / "decoder" / "stage.json", {"stage": "decoder", BASE: str(base), "config": config})
    return export_recipe(run / "adversarial", run / "export")[0]


def shell(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    command = ["sh", str(folder / "train.sh"), *map(str, arguments)]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)


def test_the_exported_recipe_says_where_its_clips_are_and_takes_others(tiny_checkpoint, tmp_path):
    import shutil

    write_project(tmp_path / "my project")
    folder = exported(tiny_checkpoint, tmp_path / "run", tmp_path / "my project", **DECODER)
    shutil.copytree(folder, copied := tmp_path / "other machine")
    clips = tmp_path / "my project" / "clips"
    assert yaml.safe_load((copied / "recipe.yaml").read_text())["stages"]["decoder"]["data"] == str(clips)
    (tmp_path / "bin").mkdir()
    script = (copied / "train.sh").read_text().replace("nas train", "echo")
    (copied / "train.sh").write_text(script)
    assert shell(copied, "out").stdout.splitlines()[0].endswith(f"--out out --data {clips}")
    clips.rename(there := tmp_path / "clips of another machine")
    gone = shell(copied, "out")
    assert gone.returncode == 2 and gone.stderr.count("\n") == 1 and str(clips) in gone.stderr
    assert shell(copied, "out", there).stdout.splitlines()[0].endswith(f"--data {there}")


@pytest.mark.slow
def test_the_exported_recipe_trains_when_it_is_copied(tmp_path, monkeypatch):
    """From clips to a checkpoint, exported, copied, and trained again from a folder that has nothing to do with it."""
    import shutil

    project = tmp_path / "project"
    recipe = write_project(project)
    space = nas.SearchSpace.load(project / "space.yaml")
    space.architecture({"mid.0/0": "Conv1D"}).save(project / "arch.json")
    contents = yaml.safe_load(recipe.read_text()) | {"architecture": "arch.json"}
    small = {"steps": 1, "batch": 2, "images": 2}
    contents["stages"] |= {
        "distill": {"steps": 1, "batch": 2},
        "supernet": {**small, "paths": 1},
        "finetune": small,
        "adversarial": {**small, "teacher_batches": 1, "control_steps": 1, "control": small},
    }
    recipe.write_text(yaml.safe_dump(contents))
    for stage in contents["stages"]:
        result = train(stage, recipe, tmp_path / "run")
    folder = export_recipe(result.folder, tmp_path / "export")[0]
    shutil.copytree(folder, copied := tmp_path / "copied")
    monkeypatch.chdir("/")  # train.sh itself runs in test_stages_recipe.py
    for stage in contents["stages"]:
        train(stage, copied / "recipe.yaml", tmp_path / "again")
    assert nas.checkpoint.load(tmp_path / "again" / "adversarial").space.hash == space.hash
    assert read_json(tmp_path / "again" / "decoder" / "stage.json", "stage")["config"]["data"] == str(project / "clips")


def test_what_is_finished_needs_no_lock(tmp_path):
    """A finished stage in a folder that cannot be written is still read."""
    recipe = write_project(tmp_path)
    result = train("decoder", recipe, tmp_path / "run")
    write_json(result.folder / ".nas.lock", {})
    assert (
        run_stage("decoder", result.folder, DecoderConfig(**DECODER | {"channels": (8, 8)}), _inputs(tmp_path))
        == result
    )


def _inputs(folder: Path) -> Inputs:
    return Inputs(nas.SearchSpace.load(folder / "space.yaml"), base=folder)


def test_keys_of_earlier_versions_are_read(tmp_path):
    """In a recipe and in the `stage.json` of a folder that was started before the rename."""
    earlier = {"images": 4, "drop": 0.2, "judged_steps": [2], "judged_clips": 7}
    config = build(FinetuneConfig, earlier, "recipe.yaml")
    assert (config.image_batch_size, config.caption_dropout, config.eval_steps, config.eval_clips) == (4, 0.2, (2,), 7)
    (tmp_path / "recipe.yaml").write_text("space: demo\ncompute: {accumulate: 2}\nwatch: {every: 5}\n")
    recipe = load(Recipe, tmp_path / "recipe.yaml", "recipe")
    assert recipe.execution.accumulate == 2 and recipe.previews.every == 5
    with pytest.raises(ConfigError, match="'drop' is the old name of 'caption_dropout'"):
        build(FinetuneConfig, {**earlier, "caption_dropout": 0.1}, "recipe.yaml")
    inputs = Inputs(nas.SearchSpace.load("demo"))
    check_or_record_config("finetune", tmp_path, config, inputs, 1)
    note = read_json(tmp_path / "stage.json", "stage")
    names = {field.name: field.metadata["old"] for field in fields(FinetuneConfig) if field.metadata}
    write_json(
        tmp_path / "stage.json", {**note, "config": {names.get(key, key): v for key, v in note["config"].items()}}
    )
    check_or_record_config("finetune", tmp_path, config, inputs, 1)

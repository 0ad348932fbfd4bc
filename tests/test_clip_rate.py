"""A clip's frame rate and length travel from the search space to data, checkpoint, written files and the cost sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch

import nas
from nas import checkpoint
from nas.cli import main
from nas.data.latent_cache import LatentCache
from nas.errors import ConfigError
from nas.export.random_weights import random_checkpoint
from nas.pipeline import Pipeline
from nas.training import DecoderConfig, DistillConfig, FinetuneConfig, Inputs, run_stage
from tests.support.clip_files import write_clip

SPACE = """
name: twelve
clip: {{seconds: 0.4, fps: 12, height: 16, width: 16}}
autoencoder: {{channels: [8, 8], norm_groups: 8, mid_attention: false, temporal_compression: 2}}
decoder: {{frames: 1}}
text: {{tokens: 8, dim: 32, encoder: {encoder}}}
text_encoder: {{kind: bert, layers: 2, heads: 2, vocabulary: 30}}
backbone: {{channels: [16], heads: 2, norm_groups: 8, mid: false}}
operators: {{none: , Conv1D: }}
only_sites: [down.0.0]
"""
FRAMES = 5


@pytest.fixture(scope="module")
def space(tmp_path_factory, tiny_checkpoint) -> nas.SearchSpace:
    path = tmp_path_factory.mktemp("twelve") / "space.yaml"
    path.write_text(SPACE.format(encoder=checkpoint.load(tiny_checkpoint).space.text.encoder))
    return nas.SearchSpace.load(path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Clips at 24 frames per second whose brightness counts the frames."""
    folder = tmp_path_factory.mktemp("clips")
    for split, count in (("train", 2), ("test", 1)):
        (folder / split).mkdir()
        for i in range(count):
            write_clip(folder / split / f"{i}.mp4", frames=2 * FRAMES, rate=24, height=16, width=16)
        lines = "".join(f"{i}.mp4,a clip\n" for i in range(count))
        (folder / split / "metadata.csv").write_text(f"file_name,text\n{lines}")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, space, clips) -> Path:
    """The folder of a `finetune` stage of one step, after a `decoder` stage of one step."""
    folder = tmp_path_factory.mktemp("run")
    config = DecoderConfig(data=str(clips), steps=1, batch=2, held_out=1)
    decoder = run_stage("decoder", folder / "decoder", config, Inputs(space)).folder
    assert json.loads((decoder / "stage.json").read_text())["config"]["fps"] == 12
    architecture = space.architecture({"down.0.0/0": "Conv1D"})
    config = FinetuneConfig(steps=1, batch=2, image_share=0.0, validation=1, eval_clips=1)
    previews = nas.training.PreviewConfig(every=1, clips=1, steps=1)
    distill = run_stage(
        "distill", folder / "distill", DistillConfig(steps=1, batch=2, validation=1), Inputs(space, decoder=decoder)
    ).folder
    inputs = Inputs(space, decoder=decoder, start=distill, architecture=architecture, previews=previews)
    return run_stage("finetune", folder / "finetune", config, inputs).folder


def rate_of(path: Path) -> tuple[float, int]:
    """Frames per second and frames of a video file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float(stream.average_rate), sum(1 for _ in container.decode(stream))


def test_training_data_are_resampled_to_the_spaces_rate(space, clips):
    source = nas.data.load_source(str(clips), "train", space, space.autoencoder)
    assert (source.fps, source.frames) == (12, FRAMES)


def test_checkpoint_and_written_clips_have_the_rate(trained, tmp_path):
    loaded = checkpoint.load(trained)
    assert loaded.clip == nas.spaces.Clip(FRAMES, 12.0, 16, 16) and loaded.space.input_shape() == (1, 4, 3, 8, 8)
    assert main(["generate", "--checkpoint", str(trained), "--prompt", "a clip", "--out", str(tmp_path / "a.mp4")]) == 0
    assert rate_of(tmp_path / "a.mp4") == (12, FRAMES)
    assert rate_of(trained / "samples" / "step-0000001.mp4") == (12, FRAMES)


def test_longer_clips_and_lengths_without_latents(trained):
    pipeline = Pipeline.from_pretrained(trained)
    assert pipeline("a clip", steps=1, frames=9).frames.shape == (1, 9, 16, 16, 3)
    with pytest.raises(ConfigError, match=r"frames: 8 is not 1 \+ a multiple of 2; try 7 or 9"):
        pipeline("a clip", steps=1, frames=8)


def test_the_pipeline_decodes_in_parts_what_it_would_at_once(trained):
    pipeline = Pipeline.from_pretrained(trained)
    assert pipeline._chunk == 1
    shown = pipeline("a clip", steps=1).frames
    pipeline.checkpoint = replace(pipeline.checkpoint, space=replace(pipeline.checkpoint.space, decoder=None))
    assert pipeline._chunk > 3
    assert np.abs(shown.astype(int) - pipeline("a clip", steps=1).frames).max() <= 1


def test_prepared_data_are_compressed_alike(trained, space, clips, tmp_path):
    """`nas prepare` with the trained autoencoder gives the latents of its own stage."""
    out = tmp_path / "prepared"
    space_file = space.save(tmp_path / "space.yaml")
    decoder = trained.parent / "decoder"
    call = ["prepare", "--data", clips, "--space", space_file, "--decoder", decoder, "--out", out, "--held-out", 1]
    assert main(list(map(str, call))) == 0
    own, prepared = (LatentCache(folder / "train") for folder in (decoder, out))
    assert prepared.counts("videos") == own.counts("videos") == (2,)
    latents = [cache.latents("videos", [0, 1])[0] for cache in (own, prepared)]
    assert latents[0].shape == (2, 4, 3, 8, 8)
    torch.testing.assert_close(*latents)
    assert json.loads((out / "data.json").read_text()) == {"data": str(clips), "frames": FRAMES, "fps": 12.0}


def test_manifest_and_cost_sentence_have_the_rate(trained, space, tmp_path, capsys):
    rows = [
        {"workload": str(w), "latency_ms": 10.0, "memory_mb": 1.0, "weights_mb": 1.0, "params": 1, "source": "measured"}
        for w in [*space.workloads(), *space.pipeline_workloads()]
    ]
    nas.LookupTable.from_frame(pd.DataFrame(rows), {"runtime": "litert", "chip": "Phone"}).save(tmp_path / "table.csv")
    space_file, arch = space.save(tmp_path / "space.yaml"), trained / "architecture.json"
    main(["export", "--checkpoint", str(trained), "--format", "recipe", "--out", str(tmp_path / "out")])
    summary = json.loads((tmp_path / "out" / "export.json").read_text())["recipe"]["summary"]
    assert summary.startswith("A 0.417 s clip (5 frames at 12 fps, 16x16): latency unknown")
    capsys.readouterr()
    cost = ["cost", "--space", str(space_file), "--table", str(tmp_path / "table.csv"), "--arch", str(arch)]
    assert main(cost) == 0
    shown = capsys.readouterr().out
    assert "A 0.417 s clip (5 frames at 12 fps, 16x16) in 0.12 s on Phone (litert)" in shown
    assert "3 x decoder 0.03 s" in shown
    assert main([*cost, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clip"] == {
        "frames": FRAMES, "fps": 12.0, "height": 16, "width": 16, "seconds": FRAMES / 12
    }  # fmt: skip


def test_another_rate_than_the_spaces_is_refused(space, clips, tmp_path):
    config = DecoderConfig(data=str(clips), fps=24, steps=1, batch=2, held_out=1)
    with pytest.raises(ConfigError, match=r"fps: 24 is not what the search space 'twelve' states, clip\.fps: 12"):
        run_stage("decoder", tmp_path / "decoder", config, Inputs(space))


def test_a_space_that_states_no_rate_takes_that_of_the_data(trained, space, tmp_path):
    """The checkpoint then has the rate that its data were prepared with."""
    loaded, silent = checkpoint.load(trained), replace(space, fps=None)
    assert silent.clip.fps == 8
    decoder = trained.parent / "decoder"
    saved = checkpoint.save(
        tmp_path / "a", loaded.denoiser.state_dict(), silent, loaded.architecture, decoder, loaded.info
    )
    assert checkpoint.load(saved).clip.fps == 12


def test_checkpoints_from_before_clips_keep_their_rate(trained, tmp_path):
    import shutil

    old = shutil.copytree(trained, tmp_path / "old")
    lines = (old / "space.yaml").read_text().splitlines(keepends=True)
    (old / "space.yaml").write_text("".join(line for line in lines if not line.startswith("clip:")))
    assert checkpoint.load(old).clip.fps == 8
    paths = Pipeline.from_pretrained(old)("a clip", steps=1).save(tmp_path / "old.mp4")
    assert rate_of(paths[0]) == (8, FRAMES)


def test_the_pipeline_of_snapgen_v_writes_five_seconds(tmp_path):
    """The shipped space with a narrow backbone and small frames: length and rate are its own."""
    full = nas.SearchSpace.load("snapgen_v")
    small = replace(
        full,
        backbone=replace(full.backbone, channels=(32, 32, 32, 32)),
        latent=replace(full.latent, height=8, width=8),
        text=replace(full.text, tokens=8, dim=32, encoder=str(tmp_path / "none")),
        text_encoder=replace(full.text_encoder, layers=1, heads=2, vocabulary=300),
    )
    folder = random_checkpoint(small, small.architecture({"mid.0/0": "Conv1D"}), tmp_path)
    path = Pipeline.from_pretrained(folder)("a clip", steps=1).save(tmp_path / "five.mp4")[0]
    assert rate_of(path) == (full.clip.fps, full.clip.frames) == (16, 81)

"""Text to clips: determinism, shapes, memory in length, and what a person may get wrong."""

import dataclasses

import numpy as np
import pytest
import torch

import nas
from nas import checkpoint
from nas.data import video_writer
from nas.diffusion.seeding import generator
from nas.errors import ConfigError, NasError
from nas.models import decode_chunks
from nas.spaces import Decoder


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint):
    return nas.Pipeline.from_pretrained(tiny_checkpoint)


def test_a_clip_is_what_its_prompt_alone_gives_at_its_seed(pipeline):
    prompts = ["a cat runs", "the digit three moves left", "a cat runs"]
    clips = pipeline(prompts, seed=7)
    assert clips.frames.shape == (3, 4, 16, 16, 1) and clips.frames.dtype == np.uint8 and clips.prompts == (*prompts,)
    for i, prompt in enumerate(prompts):
        np.testing.assert_array_equal(pipeline(prompt, seed=7 + i).frames[0], clips.frames[i])
    assert (clips.frames[0] != clips.frames[2]).any(), "another seed is another clip"


def test_prompt_steps_and_guidance_matter(pipeline):
    base = pipeline("a cat runs").frames
    np.testing.assert_array_equal(base, pipeline("a cat runs", steps=2, guidance=1.0).frames)
    for other in ({"steps": 1}, {"steps": 4}, {"guidance": 3.0}):
        assert (base != pipeline("a cat runs", **other).frames).any(), other
    assert (base != pipeline("the digit five").frames).any()


def test_the_clip_is_the_one_that_training_would_sample(pipeline):
    """By hand: Euler steps of the checkpoint's denoiser from the noise of the seed, decoded."""
    parts = pipeline.checkpoint
    context = pipeline._text(["a cat runs"])
    x = torch.randn((4, 4, 8, 8), generator=generator(3, 0))[None]
    with torch.no_grad():
        for t in (1.0, 0.5):
            x = x - 0.5 * parts.denoiser(x, torch.tensor([1000 * t]), context)
        wanted = parts.autoencoder.decode(x)
    got = pipeline("a cat runs", seed=3).frames.astype(int)
    assert np.abs(got - video_writer.to_uint8(wanted.numpy())).max() <= 1


def test_what_a_clip_costs_is_what_was_measured(pipeline):
    """As the profiler: in inference mode, and as often as the cost model counts; with guidance in one batch, no more."""
    denoiser, batches = pipeline.checkpoint.denoiser, []

    def ran(module, inputs, output):
        assert torch.is_inference_mode_enabled() and output.is_inference()
        batches.append(len(output))

    hook = denoiser.register_forward_hook(ran)
    try:
        pipeline("a dog sits", steps=3, guidance=1.0)
        pipeline("a dog sits", steps=3, guidance=2.0)
    finally:
        hook.remove()
    assert batches == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("sizes", [{"frames": 1}, {"frames": 11}, {"height": 32, "width": 8}])
def test_lengths_and_aspect_ratios(pipeline, sizes):
    wanted = {"frames": 4, "height": 16, "width": 16} | sizes
    assert pipeline("a cat runs", **sizes).frames.shape[1:4] == tuple(wanted.values())


@pytest.mark.parametrize(("seconds", "frames"), [(0.01, 1), (0.5, 4), (0.51, 5), (1.5, 12)])
def test_length_in_seconds_is_rounded_up_to_frames(pipeline, seconds, frames):
    clips = pipeline("a cat runs", seconds=seconds)
    assert clips.frames.shape[1] == frames and clips.fps == 8
    np.testing.assert_array_equal(clips.frames, pipeline("a cat runs", frames=frames).frames)


def test_longer_clip_than_trained_is_seen_by_the_denoiser_in_parts_of_the_trained_length(pipeline, monkeypatch):
    seen = []
    forward = type(pipeline.checkpoint.denoiser).forward

    def spy(self, x, *rest):
        seen.append(x.shape[2])
        return forward(self, x, *rest)

    monkeypatch.setattr(type(pipeline.checkpoint.denoiser), "forward", spy)
    assert pipeline("a cat runs", frames=11).frames.shape[1] == 11
    assert set(seen) == {4}, "memory does not grow with the length"


@pytest.mark.parametrize("frames", [1, 8, 9, 20])
def test_decoding_in_parts_changes_nothing(pipeline, frames):
    latents = torch.randn(1, 4, frames, 8, 8)
    whole = pipeline.checkpoint.autoencoder.decode(latents)
    parts = list(decode_chunks(pipeline.checkpoint.autoencoder, latents, 8))
    assert max(part.shape[2] for part in parts) <= 8
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)


def test_a_clip_is_decoded_in_the_parts_that_its_space_declares(pipeline, monkeypatch):
    whole, runs = pipeline("a cat runs").frames.astype(int), []
    autoencoder = pipeline.checkpoint.autoencoder
    unscaled = autoencoder.decode_unscaled
    space = dataclasses.replace(pipeline.checkpoint.space, decoder=Decoder(autoencoder.config, frames=1))
    monkeypatch.setattr(autoencoder, "decode_unscaled", lambda *a: runs.append(a[0].shape[2]) or unscaled(*a))
    parts = nas.Pipeline(dataclasses.replace(pipeline.checkpoint, space=space))("a cat runs").frames
    assert runs == [1] * space.decoder_runs == [1, 1, 1, 1]
    assert np.abs(parts - whole).max() <= 1


def test_a_checkpoint_that_renoises_is_sampled_so(pipeline):
    parts = pipeline.checkpoint
    other = nas.Pipeline(dataclasses.replace(parts, info=dataclasses.replace(parts.info, sampler="renoise")))
    clips = other(["a cat runs", "the digit five"], steps=4)
    assert (clips.frames[:1] != pipeline("a cat runs", steps=4).frames).any()
    np.testing.assert_array_equal(clips.frames[1:], other("the digit five", steps=4, seed=1).frames)


def test_clips_are_saved_at_their_own_size_each_in_a_file_of_its_own(pipeline, tmp_path):
    from PIL import Image

    clips = pipeline(["a cat runs"] * 4)
    paths = clips.save(tmp_path / "four.gif")
    assert [path.name for path in paths] == [f"four-{i}.gif" for i in (1, 2, 3, 4)]
    assert {Image.open(path).size for path in paths} == {(16, 16)}
    assert [path.name for path in clips.save(tmp_path / "frames")] == [f"frames-{i}" for i in (1, 2, 3, 4)]
    (one,) = pipeline("a cat runs", height=32, width=8).save(tmp_path / "one.gif")
    assert one.name == "one.gif" and Image.open(one).size == (8, 32)
    (tile,) = clips.save(tmp_path / "tile.gif", tiled=True, scale=2)
    assert Image.open(tile).size == (33 * 2, 33 * 2)


def test_the_command_line_writes_a_file_for_each_prompt(tiny_checkpoint, tmp_path, capsys):
    from PIL import Image

    from nas.cli import main

    call = ["generate", "--checkpoint", str(tiny_checkpoint), "--prompt", "a cat runs", "the digit five"]
    assert main([*call, "--out", str(tmp_path / "two.gif"), "--height", "16", "--width", "24"]) == 0
    paths = capsys.readouterr().out.split()
    assert paths == [str(tmp_path / "two-1.gif"), str(tmp_path / "two-2.gif")]
    assert {Image.open(path).size for path in paths} == {(24, 16)}
    assert main([*call, "--out", str(tmp_path / "both.gif"), "--tile"]) == 0
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["both.gif", "two-1.gif", "two-2.gif"]


def test_a_second_process_that_writes_the_same_clip_is_refused(tiny_checkpoint, tmp_path, capsys):
    import subprocess
    import sys

    from nas.cli import main

    holder = "from nas.locks import output_lock\nwith output_lock({!r}):\n    print(flush=True)\n    input()"
    path = str(tmp_path / "one.gif")
    with subprocess.Popen(
        [sys.executable, "-c", holder.format(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        assert main(["generate", "--checkpoint", str(tiny_checkpoint), "--prompt", "a cat", "--out", path]) == 2
        other.communicate("\n")
    assert "is writing to it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "prompts, options, words",
    [
        ([], {}, "prompts"),
        ("a cat", {"steps": 0}, "steps"),
        ("a cat", {"frames": 0}, "frames"),
        ("a cat", {"height": 18}, "multiple of 4; try 16"),
        ("a cat", {"width": -4}, "width"),
        ("a cat", {"steps": -1}, "steps"),
        ("a cat", {"steps": 10**9}, "steps"),
        ("a cat", {"guidance": float("nan")}, "guidance"),
        ("a cat", {"guidance": float("inf")}, "guidance"),
        ("a cat", {"guidance": -1}, "guidance"),
        ("a cat", {"frames": 10**9}, "frames"),
        ("a cat", {"seconds": 1.0, "frames": 4}, "give either 'seconds' or 'frames'"),
        ("a cat", {"seconds": 0.0}, "seconds: must be above 0"),
        ("a cat", {"seconds": float("nan")}, "seconds: must be a finite number"),
        ("a cat", {"seconds": 1e7}, "too many for one clip"),
        ("a cat", {"height": 4 * 10**8}, "height"),
        ("a cat \ud800", {}, "prompts"),
    ],
)
def test_what_makes_no_clip_is_one_line(pipeline, prompts, options, words):
    with pytest.raises(ConfigError, match=words) as error:
        pipeline(prompts, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["space.yaml", "architecture.json", "denoiser.safetensors", "checkpoint.json"])
def test_a_checkpoint_with_a_missing_or_torn_file_says_which(tiny_checkpoint, tmp_path, name):
    import shutil

    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    with pytest.raises(NasError, match=name) as torn:
        nas.Pipeline.from_pretrained(folder)
    (folder / name).unlink()
    with pytest.raises(NasError, match=name) as missing:
        nas.Pipeline.from_pretrained(folder)
    assert "\n" not in f"{torn.value}{missing.value}"
    assert checkpoint.load(tiny_checkpoint)


def damage(name, **fields):
    """Give fields of a JSON file of a checkpoint other values; `...` takes one away."""

    def apply(folder):
        import json

        there = json.loads((folder / name).read_text()) | fields
        (folder / name).write_text(json.dumps({key: value for key, value in there.items() if value is not ...}))

    return apply


def contents(name, text):
    return lambda folder: (folder / name).write_text(text)


def tensors_of(name, change):
    """Change one tensor of a weights file."""

    def apply(folder):
        from safetensors.torch import load_file, save_file

        state = load_file(folder / name)
        key = "conv_out.bias" if "conv_out.bias" in state else "decoder.conv_out.bias"
        changed = change(state.pop(key))
        save_file(state if changed is None else {**state, key: changed}, folder / name)

    return apply


NAN, INF = float("nan"), float("inf")
DAMAGES = [
    *(damage("checkpoint.json", steps=value) for value in (0, -1, 10**9, 2.5, "4", None, True, [4])),
    *(damage("checkpoint.json", guidance=value) for value in (NAN, INF, -1, "much", None)),
    *(damage("checkpoint.json", shift=value) for value in (NAN, INF, 0, -1, "x")),
    *(damage("checkpoint.json", sampler=value) for value in ("best", None, 3)),
    *(damage("checkpoint.json", objective=value) for value in ("magic", None)),
    *(damage("checkpoint.json", time_std=value) for value in (NAN, 0, -1)),
    damage("checkpoint.json", shift_base=0),
    damage("checkpoint.json", provenance=[1]),
    damage("checkpoint.json", steps=...),
    damage("checkpoint.json", unheard_of=1),
    *(contents("checkpoint.json", text) for text in ("", "null", "[]", "{")),
    *(
        damage("decoder.json", channels=value)
        for value in ([], [0, 0], [-16, 32], [16 * 10**12, 32], "x", None, [16.5])
    ),
    *(damage("decoder.json", channels=value) for value in ([16] * 10**5, [16, 32, 32], [10**5 * 16, 10**5 * 32])),
    *(damage("decoder.json", layers_per_block=value) for value in (0, -1, 10**9, 2)),
    *(damage("decoder.json", norm_groups=value) for value in (0, -8, 7)),
    *(damage("decoder.json", scaling_factor=value) for value in (0, NAN, INF, -1, None)),
    *(damage("decoder.json", image_channels=value) for value in (0, 3, 10**12)),
    damage("decoder.json", latent_channels=5),
    *(contents("decoder.json", text) for text in ("", "3", "[]")),
    *(tensors_of(name, lambda value: value * NAN) for name in ("denoiser.safetensors", "decoder.safetensors")),
    *(tensors_of(name, lambda value: value / 0) for name in ("denoiser.safetensors", "decoder.safetensors")),
    *(tensors_of(name, lambda value: value.long()) for name in ("denoiser.safetensors", "decoder.safetensors")),
    *(tensors_of(name, lambda value: value.repeat(2)) for name in ("denoiser.safetensors", "decoder.safetensors")),
    *(tensors_of(name, lambda value: None) for name in ("denoiser.safetensors", "decoder.safetensors")),
    *(contents(f"{name}.safetensors", "") for name in ("denoiser", "decoder")),
]


def test_a_damaged_checkpoint_is_one_line_that_names_the_file(tiny_checkpoint, tmp_path):
    import shutil

    for i, apply in enumerate(DAMAGES):
        folder = shutil.copytree(tiny_checkpoint, tmp_path / str(i))
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        apply(folder)
        changed = [path.name for path in folder.iterdir() if before[path.name] != path.read_bytes()]
        with pytest.raises(NasError) as error:
            nas.Pipeline.from_pretrained(folder)
        assert str(folder) in str(error.value) and changed[0] in str(error.value), (i, error.value)
        assert "\n" not in str(error.value) and len(str(error.value)) < 700, (i, error.value)


def test_a_pipe_in_the_place_of_weights_is_not_waited_for(tiny_checkpoint, tmp_path):
    import os
    import shutil

    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (folder / "denoiser.safetensors").unlink()
    os.mkfifo(folder / "denoiser.safetensors")
    with pytest.raises(NasError, match="not a regular file"):
        nas.Pipeline.from_pretrained(folder)


def test_weights_in_half_precision_are_read_as_single(tiny_checkpoint, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_checkpoint, tmp_path / "half")
    for name in ("denoiser.safetensors", "decoder.safetensors"):
        save_file({key: value.half() for key, value in load_file(folder / name).items()}, folder / name)
    half, single = (nas.Pipeline.from_pretrained(f)("a cat runs").frames.astype(int) for f in (folder, tiny_checkpoint))
    assert np.abs(half - single).mean() < 2


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("text", ["", "{}", "[[[", "null", '{"model": {"type": "Nothing"}}'])
def test_a_broken_text_encoder_is_one_line(tiny_checkpoint, tmp_path, name, text):
    import shutil

    from nas.models.text_encoder import PromptEncoder
    from nas.spaces import Text

    folder = shutil.copytree(tiny_checkpoint.parent / "text", tmp_path / "text")
    assert (folder / name).exists()
    (folder / name).write_text(text)
    try:
        made = PromptEncoder(Text(8, 32, encoder=str(folder)))(["a cat"])
    except NasError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
    else:
        assert name == "tokenizer_config.json" and torch.isfinite(made).all()  # only there to override defaults


def test_a_text_encoder_with_nan_or_without_all_weights_is_refused(tiny_checkpoint, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    from nas.models.text_encoder import PromptEncoder
    from nas.spaces import Text

    folder = shutil.copytree(tiny_checkpoint.parent / "text", tmp_path / "text")
    state = load_file(folder / "model.safetensors")
    key = next(key for key in state if "layer.1" in key and key.endswith("weight"))
    for words, broken in (
        (f"{key}|NaN", {**state, key: state[key] * NAN}),
        ("lack", {k: v for k, v in state.items() if k != key}),
    ):
        save_file(broken, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ConfigError, match=words):
            PromptEncoder(Text(8, 32, encoder=str(folder)))(["a cat"])
    save_file({k: v.half() for k, v in state.items()}, folder / "model.fp16.safetensors", {"format": "pt"})
    (folder / "model.safetensors").unlink()
    expected = PromptEncoder(Text(8, 32, encoder=str(tiny_checkpoint.parent / "text")))(["a cat"])
    torch.testing.assert_close(PromptEncoder(Text(8, 32, encoder=str(folder)))(["a cat"]), expected, rtol=0, atol=0.02)
    (folder / "model.fp16.safetensors").rename(folder / "pytorch_model.fp16.bin")
    with pytest.raises(ConfigError, match="only pickled weights of variant 'fp16'"):
        PromptEncoder(Text(8, 32, encoder=str(folder)))(["a cat"])

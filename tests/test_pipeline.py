"""Text to clips: determinism, shapes, memory in length, and what a person may get wrong."""

import dataclasses

import numpy as np
import pytest
import torch

import nas
from nas.errors import ConfigError, NasError
from nas.pipeline import decode
from nas.spaces import Decoder
from nas.training import checkpoint, objective, video


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
    x = torch.randn((4, 4, 8, 8), generator=objective.generator(3, 0))[None]
    with torch.no_grad():
        for t in (1.0, 0.5):
            x = x - 0.5 * parts.denoiser(x, torch.tensor([1000 * t]), context)
        wanted = parts.autoencoder.decode(x)
    got = pipeline("a cat runs", seed=3).frames.astype(int)
    assert np.abs(got - video.to_uint8(wanted.numpy())).max() <= 1


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


@pytest.mark.parametrize("frames", [1, 8, 9, 20])
def test_decoding_in_parts_changes_nothing(pipeline, frames):
    latents = torch.randn(1, 4, frames, 8, 8)
    whole = pipeline.checkpoint.autoencoder.decode(latents)
    parts = list(decode(pipeline.checkpoint.autoencoder, latents))
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


def test_several_clips_are_saved_side_by_side(pipeline, tmp_path):
    from PIL import Image

    path = pipeline(["a cat runs"] * 4).save(tmp_path / "four.gif")
    assert Image.open(path).size == (33 * 8, 33 * 8)


@pytest.mark.parametrize(
    "prompts, options, words",
    [
        ([], {}, "prompts"),
        ("a cat", {"steps": 0}, "steps"),
        ("a cat", {"frames": 0}, "frames"),
        ("a cat", {"height": 18}, "multiple of 4; try 16"),
        ("a cat", {"width": -4}, "width"),
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

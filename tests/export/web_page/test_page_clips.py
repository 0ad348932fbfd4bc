"""The exported page in a browser makes the clip of `nas generate`."""

import shutil

import numpy as np
import pytest
from PIL import Image

from nas.export.web_page import add_page
from nas.pipeline import Pipeline
from tests.support import browser as browsers
from tests.support import exported

pytestmark = pytest.mark.slow


def psnr(a, b) -> float:
    error = np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


@pytest.fixture(scope="module")
def pipeline(clip_checkpoint):
    return Pipeline.from_pretrained(clip_checkpoint)


def test_same_prompt_and_seed_give_the_clip_of_nas_generate(exported_web, pipeline, open_page, serve, generate):
    page = open_page(serve(exported_web), cores=2)
    browsers.wait_for(page, "#status", "^Ready")
    assert page.input_value("#accelerator") == "threads"
    for seed, prompt in enumerate(prompt for prompt in exported.PROMPTS if prompt):
        if seed == 1:
            page.select_option("#accelerator", "wasm")
            browsers.wait_for(page, "#status", "^Ready")
        expected = pipeline(prompt, seed=seed).frames[0]
        found = generate(page, prompt, seed)
        assert psnr(found, np.broadcast_to(expected, found.shape)) >= 50, prompt
        assert page.is_visible("#note") == (len(prompt) > 100)  # only the long prompt was cut
    assert psnr(found, pipeline(exported.PROMPTS[0]).frames[0]) < 40  # the comparison can see a wrong clip
    assert page.locator("#times tbody tr").count() == 4 and not page.is_visible("#problem")


def test_renoising_without_guidance(clip_checkpoint, exported_litert, open_page, serve, generate, tmp_path):
    """A sampler that draws noise at every step, with other numbers of steps than the first export."""
    saved, folder = exported.resampled(
        clip_checkpoint, exported_litert, tmp_path, sampler="renoise", steps=3, guidance=1.0
    )
    add_page(folder)
    page = open_page(serve(folder))
    found = generate(page, "a cat runs", 12345678901234567)
    expected = Pipeline.from_pretrained(saved)("a cat runs", seed=12345678901234567).frames[0]
    assert psnr(found, np.broadcast_to(expected, found.shape)) >= 50
    assert page.locator("#times tbody tr:nth-child(2)").inner_text().split("\t")[1].startswith("3 \u00d7")


def test_models_that_do_not_fit_together_are_loaded_one_after_the_other(
    exported_web, pipeline, open_page, serve, generate
):
    page = open_page(None)
    browsers.patch(page, "generator.js", "KEEP_ALL_MB = 300", "KEEP_ALL_MB = 0")
    page.goto(serve(exported_web))
    for seed in (3, 4):
        found = generate(page, "five", seed)
        expected = pipeline("five", seed=seed).frames[0]
        assert psnr(found, np.broadcast_to(expected, found.shape)) >= 50


@pytest.fixture(scope="module")
def streaming(streaming_litert, tmp_path_factory):
    """The checkpoint, and its export as a page."""
    out = shutil.copytree(streaming_litert / "export", tmp_path_factory.mktemp("streaming") / "export")
    add_page(out)
    return streaming_litert / "checkpoint", out


def test_a_decoder_that_streams_with_its_state(streaming, open_page, serve, generate):
    saved, folder = streaming
    page = open_page(serve(folder))
    found = generate(page, "five", 2)
    expected = Pipeline.from_pretrained(saved)("five", seed=2).frames[0]
    assert len(found) == len(expected) == 7
    assert psnr(found, np.broadcast_to(expected, found.shape)) >= 50
    assert page.locator("#times tbody tr:nth-child(3)").inner_text().split("\t")[1].startswith("2 \u00d7")


def test_the_saved_gif_is_the_clip(exported_web, pipeline, open_page, serve, generate, tmp_path):
    page = open_page(serve(exported_web))
    found = generate(page, "The digit three, left!", 7)
    with page.expect_download() as download:
        page.click("#save-gif")
    assert download.value.suggested_filename == "the-digit-three-left-7.gif"
    download.value.save_as(tmp_path / "clip.gif")
    with Image.open(tmp_path / "clip.gif") as gif:
        assert gif.n_frames == len(found) and gif.size == (256, 256) and gif.info["loop"] == 0
        lengths = []
        for i, frame in enumerate(found):
            gif.seek(i)
            lengths.append(gif.info["duration"])
            assert (np.asarray(gif.convert("RGB"))[::16, ::16] == frame).all()  # gray clips are exact
    assert sum(lengths) == pytest.approx(1000 * len(found) / 8, abs=10)


def test_the_saved_video_plays(exported_web, open_page, serve, generate, tmp_path):
    import av

    page = open_page(serve(exported_web))
    found = generate(page, "five", 1)
    with page.expect_download() as download:
        page.click("#save-video")
    path = tmp_path / download.value.suggested_filename
    assert path.suffix in (".mp4", ".webm")
    download.value.save_as(path)
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == len(found) and frames[0].shape == (256, 256, 3)
    centers = np.stack(frames)[:, 8::16, 8::16]
    assert np.abs(centers.astype(int) - found).mean() < 12  # encoded with losses

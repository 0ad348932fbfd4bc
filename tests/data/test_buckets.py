from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.data.batches import Batches
from nas.data.buckets import Size, choose, sizes
from nas.data.folders import VideoFolder
from nas.data.source import batch_indices, bucket_batch
from nas.spaces import Latent, VAEConfig
from nas.training import FinetuneConfig, Inputs, read_history, run_stage
from tests.support.clip_files import write_clip, write_image


@given(
    st.integers(2, 33),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([4, 8]),
    st.sampled_from([1, 2, 4]),
)
def test_every_bucket_is_a_size_that_the_networks_take_at_no_more_than_its_cost(
    frames, high, wide, levels, factor, compression
):
    vae = VAEConfig((32,) * factor.bit_length(), temporal_compression=compression)
    step = 2 ** (levels - 1)
    latent = Latent(4, frames, high * step, wide * step)
    found = sizes(latent, levels, vae)
    assert found[0] == Size(vae.pixel_frames(frames), latent.height * factor, latent.width * factor)
    assert len(set(found)) == len(found)
    for size in found:
        assert size.height % (factor * step) == size.width % (factor * step) == 0
        assert size.height * size.width <= found[0].height * found[0].width
        assert 1 + compression <= size.frames <= vae.pixel_frames(frames) and (size.frames - 1) % compression == 0
    ratios = sorted({size.ratio for size in found})
    assert all(b / a >= 1.15 - 1e-9 for a, b in pairwise(ratios))


def test_the_published_size_has_landscape_and_portrait_buckets():
    found = sizes(Latent(4, 16, 64, 64), 4, VAEConfig.stable_diffusion())
    shapes = {(size.height, size.width) for size in found}
    assert {(512, 512), (384, 640), (640, 384)} <= shapes
    assert {size.frames for size in found} == {16, 8, 4, 2}


def test_a_clip_goes_to_the_nearest_shape_and_the_longest_length_that_it_fills():
    found = sizes(Latent(4, 16, 64, 64), 4, VAEConfig.stable_diffusion())
    assert choose(found, 16 / 9, 100) == Size(16, 384, 640)
    assert choose(found, 9 / 16, 15) == Size(8, 640, 384)
    assert choose(found, 1.0, 1) == Size(2, 512, 512)  # nothing that it fills: the least that is missing


@given(st.integers(0, 3), st.integers(1, 6), st.lists(st.integers(0, 13), min_size=1, max_size=4).filter(sum))
def test_every_clip_is_seen_once_per_epoch_and_batches_are_full_and_of_one_bucket(seed, batch, counts):
    steps = sum(counts)  # `batch` whole epochs
    seen = [Counter() for _ in counts]
    for step in range(steps):
        bucket, indices = bucket_batch(seed, step, batch, counts)
        assert len(indices) == batch and all(0 <= index < counts[bucket] for index in indices)
        seen[bucket].update(indices)
        assert max(seen[bucket].values()) - min(seen[bucket][i] for i in range(counts[bucket])) <= 1
    assert [[found[index] for index in range(count)] for found, count in zip(seen, counts)] == [
        [batch] * count for count in counts
    ]


@given(st.integers(0, 5), st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 100))
def test_one_bucket_is_the_order_without_buckets(seed, step, batch, count):
    assert bucket_batch(seed, step, batch, [count]) == (0, batch_indices(seed, step, batch, count))


def test_a_bucketed_run_resumes_in_constant_time():
    counts = (700, 200, 101)
    assert bucket_batch(3, 10**9, 4, counts) == bucket_batch(3, 10**9, 4, counts)
    buckets = Counter(bucket_batch(3, step, 4, counts)[0] for step in range(10**9, 10**9 + 2500))
    assert np.allclose([buckets[i] / 2500 for i in range(3)], np.array(counts) / 1001, atol=0.01)


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips wide, tall and square, long and short, and images."""
    folder = tmp_path_factory.mktemp("shaped")
    (folder / "train").mkdir()
    (folder / "test").mkdir()
    rows = []
    for number, (height, width, frames) in enumerate([(48, 96, 9), (96, 48, 9), (64, 64, 9), (64, 64, 5), (48, 96, 5)]):
        write_clip(folder / f"train/{number}.mp4", frames, height=height, width=width)
        rows += [f"{number}.mp4,clip {number} take {take}" for take in range(4)]
    write_image(folder / "train/wide.png", 40, 80)
    write_image(folder / "train/tall.png", 80, 40)
    rows += ["wide.png,wide", "tall.png,tall", "wide.png,a wide one"]
    (folder / "train/metadata.csv").write_text("file_name,text\n" + "\n".join(rows) + "\n")
    write_clip(folder / "test/a.mp4", 9, height=48, width=96)
    (folder / "test/metadata.csv").write_text("file_name,text\na.mp4,held out\n")
    return folder


def test_clips_come_out_at_the_size_of_their_bucket(shaped, space):
    buckets = sizes(space.latent, 2, space.autoencoder)
    source = VideoFolder(shaped, "train", buckets, 8)
    found = {source.name("videos", i)[-5]: source.video(i).pixels.shape[1:] for i in range(source.videos)}
    assert found["2"] == (8, 32, 32) and found["3"] == (4, 32, 32)
    assert {found["0"], found["1"], found["4"]} <= {(b.frames, b.height, b.width) for b in buckets}
    assert found["0"][1] < found["0"][2] and found["1"][1] > found["1"][2] and found["4"][0] == 4
    images = {source.image(i).pixels.shape for i in range(source.images)}
    assert all(shape[1] == 1 and shape[2:] != (32, 32) for shape in images)


def test_stages_train_on_a_bucketed_cache(shaped, space, vae, tmp_path):
    from nas.training.stages.prepare import PrepareConfig, prepare

    torch.set_num_threads(1)
    done = prepare(tmp_path / "decoder", PrepareConfig(str(shaped), str(vae), buckets=True), space)
    assert done.metrics == {"videos": 20, "images": 3, "held_out": 1, "skipped": 0}
    batches = Batches(done.folder, seed=0, videos=3, images=2, image_share=0.3)
    kinds = {batches.joint(step).latents.shape[2:] for step in range(40)}
    assert len(kinds) >= 5 and (8, 8, 8) in kinds and any(size[0] == 1 for size in kinds)
    again = Batches(done.folder, seed=0, videos=3, images=2, image_share=0.3).joint(17)
    assert torch.equal(again.latents, batches.joint(17).latents) and torch.equal(again.noise, batches.joint(17).noise)
    start = run_stage("distill", tmp_path / "distill", _short("distill"), Inputs(space, done.folder))
    inputs = Inputs(space, done.folder, start.folder, space.random(0))
    run_stage(
        "finetune", tmp_path / "finetune", FinetuneConfig(steps=8, batch=3, image_batch_size=2, validation=4), inputs
    )
    assert {row["frames"] for row in read_history(tmp_path / "finetune")} >= {1, 4, 8}


def _short(stage: str):
    from nas.training import STAGES

    return STAGES[stage].config(steps=2)

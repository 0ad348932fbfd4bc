"""Batches that are read ahead in worker processes are those that are read when they are asked for."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import av
import pytest
import torch

from nas.data import skipped
from nas.data.batches import Batches
from nas.data.buckets import Size
from nas.data.folders import VideoFolder
from nas.data.latent_cache_writer import fill_cache
from nas.data.skipped import SkippingSource
from nas.data.source import UnreadableSample
from nas.distributed.prefetch import StepLoader
from nas.errors import ConfigError, NasError
from nas.training.execution import ExecutionConfig
from tests.support.clip_files import write_clip


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_the_same_with_and_without_workers(decoder: Path, workers: int):
    batches = Batches(decoder, seed=1, videos=3, images=4, image_share=0.4, other_contexts=True)
    before = torch.get_rng_state()
    ahead = batches.ahead(workers)
    for step in (5, 6, 7, 8, 2, 3):  # a resumed run starts anywhere
        found, expected = ahead(step).tensors(), batches.joint(step).tensors()
        assert len(found) == len(expected) == 5
        assert all(torch.equal(a, b) for a, b in zip(found, expected)), step
    assert torch.equal(before, torch.get_rng_state())


def test_they_are_read_in_other_processes_before_they_are_asked_for():
    inputs = StepLoader(lambda step: [torch.tensor([float(os.getpid()), step])], workers=1)
    readers = {int(inputs(step)[0][0]) for step in range(4)}
    assert len(readers) == 1 and os.getpid() not in readers


def test_workers_do_not_free_the_frames_that_were_decoded_before(tmp_path: Path):
    """FFmpeg's threads, for which that would wait forever, are not in the workers."""
    container = av.open(str(write_clip(tmp_path / "a.mp4", 2, height=720, width=1280)))

    def read(step: int) -> list[torch.Tensor]:
        gc.collect()
        return [torch.tensor([float(step)])]

    def gives_up(*_: object) -> None:
        raise TimeoutError("the worker waits for threads that it does not have")

    gc.disable()
    for frame in container.decode(video=0):
        frame.to_ndarray(format="rgb24")
        holder = [frame]
        holder.append(holder)  # garbage that only the collector finds
    del frame, holder
    before = signal.signal(signal.SIGALRM, gives_up)
    signal.alarm(120)
    try:
        assert int(StepLoader(read, workers=1)(3)[0]) == 3
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()


def test_an_error_of_a_worker_is_one_line():
    def read(step: int) -> list[torch.Tensor]:
        if step == 1:
            raise UnreadableSample("a.mp4", "is torn")
        return [torch.zeros(1)]

    inputs = StepLoader(read, workers=2)
    inputs(0)
    with pytest.raises(NasError, match=r"^a\.mp4: is torn$"):
        inputs(1)


class Torn:
    """A source of which every second clip is unusable."""

    videos, skipped = 8, ()

    def video(self, index: int):
        if index % 2:
            raise UnreadableSample(f"{index}.mp4", "is torn")
        return index


def test_processes_that_skip_clips_complete_one_list(tmp_path: Path):
    usable = SkippingSource(Torn(), tmp_path / "skipped.csv")
    inputs = StepLoader(lambda step: [torch.tensor([float(usable.video(step))])], workers=2)
    assert [int(inputs(step)[0]) for step in range(7)] == [0, 2, 2, 4, 4, 6, 6]
    rows = skipped.read(tmp_path / "skipped.csv")
    assert {file for file, _ in rows} >= {"1.mp4", "3.mp4", "5.mp4"} and len(rows) == len(set(rows))


def test_a_cache_that_is_read_by_processes_holds_the_same_bytes(tmp_path: Path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(5):
        write_clip(folder / f"{number}.mp4", 9 + number)
    (folder / "torn.mp4").write_bytes(b"nothing")
    rows = [f'{number}.mp4,"[""take {number}"", ""other""]"' for number in range(5)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *rows, "torn.mp4,not seen"]) + "\n")
    source = VideoFolder(folder, "train", [Size(8, 16, 16)], 8)
    for name, workers in (("a", 0), ("b", 2)):
        fill_cache(
            tmp_path / name, source, lambda x: x[..., ::4, ::4], lambda c: torch.zeros(len(c), 2, 3), workers=workers
        )
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    assert "torn.mp4" in (tmp_path / "b/skipped.csv").read_text()


def test_the_number_of_processes_is_an_option():
    assert (
        ExecutionConfig().loaders(torch.device("cpu")) == 0 and ExecutionConfig().loaders(torch.device("cuda", 0)) == 2
    )
    assert ExecutionConfig(data_workers=0).loaders(torch.device("cuda", 0)) == 0
    with pytest.raises(ConfigError, match="data_workers: must be at least 0, not -1"):
        ExecutionConfig(data_workers=-1)

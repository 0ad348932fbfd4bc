"""Latents and text embeddings computed once and kept on disk: what the denoiser's stages train on.

A cache folder holds::

    videos-00000.safetensors ...   latents (n, C, T, h, w)
    videos-00000.json ...          their captions (n), and what was skipped on the way, with the reason
    images-00000.safetensors ...   the same with T = 1
    text-00000.safetensors ...     context (n, tokens, dim) of captions.json, the empty caption first
    captions.json                  the distinct captions
    skipped.json                   all items that could not be read
    cache.json                     items in each shard; written last: the cache is complete

It is written shard by shard, each in one atomic piece, and an interrupted run goes on after the last whole shard.
No more than one shard is held in memory, neither in writing nor in reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from nas.errors import ConfigError
from nas.files import read_json, write_json
from nas.training import tensors
from nas.training.data import Sample, Source, UnreadableSample, batch_indices
from nas.training.loop import progress
from nas.training.text import EMPTY

SHARD = 512
KINDS = ("videos", "images")


def prepare(
    folder: str | Path,
    source: Source,
    encode: Callable[[Tensor], Tensor],
    text: Callable[[Sequence[str]], Tensor],
    videos: int | None = None,
    images: int | None = None,
    more_captions: Sequence[str] = (),
    title: str = "prepare",
) -> Cache:
    """Fill `folder` from a source; returns at once when it is complete.

    Args:
        encode: pixels `(B, C, T, H, W)` -> latents, as `Autoencoder.encode`.
        text: captions -> contexts `(B, tokens, dim)`, as a `TextEncoder`.
        videos, images: how many, from a fixed shuffle of the source; all by default.
        more_captions: captions to embed besides those of the items.
    """
    folder = Path(folder)
    if (folder / "cache.json").exists():
        return Cache(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for kind, wanted, read in (("videos", videos, source.video), ("images", images, source.image)):
        there = getattr(source, kind)
        count = there if wanted is None else min(wanted, there)
        chosen = batch_indices(0, 0, count, there)
        shards += [
            (kind, number, read, chosen[start : start + SHARD]) for number, start in enumerate(range(0, count, SHARD))
        ]
    sizes: dict[str, list[int]] = {kind: [] for kind in KINDS}
    captions, skipped = dict.fromkeys([EMPTY, *more_captions]), []
    for kind, number, read, chosen in progress(shards, title, len(shards)):
        path = folder / f"{kind}-{number:05d}.safetensors"
        if not path.with_suffix(".json").exists():
            _write_shard(path, chosen, read, encode)
        note = read_json(path.with_suffix(".json"), "shard")
        sizes[kind].append(len(note["captions"]))
        skipped += note["skipped"]
        captions |= dict.fromkeys(note["captions"])
    names = list(captions)
    for number, start in enumerate(range(0, len(names), SHARD)):
        tensors.save(folder / f"text-{number:05d}.safetensors", {"context": text(names[start : start + SHARD])})
    write_json(folder / "captions.json", names)
    write_json(folder / "skipped.json", skipped)
    write_json(folder / "cache.json", sizes)
    return Cache(folder)


@torch.no_grad()
def _write_shard(path: Path, chosen: list[int], read: Callable[[int], Sample], encode: Callable) -> None:
    samples, skipped = [], []
    for index in chosen:
        try:
            samples.append(read(index))
        except UnreadableSample as error:
            skipped.append({"index": index, "reason": str(error)})
    parts = [samples[start : start + 32] for start in range(0, len(samples), 32)]
    latents = [encode(torch.from_numpy(np.stack([sample.pixels for sample in part]))) for part in parts]
    tensors.save(path, {"latents": torch.cat(latents)} if latents else {})
    write_json(path.with_suffix(".json"), {"captions": [s.caption for s in samples], "skipped": skipped})


class Cache:
    """What `prepare` wrote, read item by item.

    Attributes:
        videos, images: how many there are.

    Raises:
        ConfigError: the folder is no complete cache.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        sizes = read_json(self.folder / "cache.json", "cache")
        self._starts = {kind: np.cumsum([0, *sizes[kind]]) for kind in KINDS}
        self.videos, self.images = (int(self._starts[kind][-1]) for kind in KINDS)
        if not self.videos:
            raise ConfigError(f"{self.folder}: holds no clip that could be read; see skipped.json there")
        self._shard = lru_cache(maxsize=64)(self._open)

    def latents(self, kind: str, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Latents `(n, C, T, h, w)` and contexts `(n, tokens, dim)` of these `videos` or `images`."""
        found, names = [], []
        for index in indices:
            shard = int(np.searchsorted(self._starts[kind], index, side="right")) - 1
            rows, captions = self._shard(kind, shard)
            row = index - int(self._starts[kind][shard])
            found.append(rows[row : row + 1])
            names.append(captions[row])
        return torch.cat(found), self.contexts(names)

    def contexts(self, captions: Sequence[str]) -> Tensor:
        """`(n, tokens, dim)` of captions that the cache knows.

        Raises:
            ConfigError: none of the cached clips and images has such a caption.
        """
        found = []
        for caption in captions:
            if caption not in self._numbers:
                raise ConfigError(f"{self.folder}: no clip in it has the caption '{caption}'; prepare more clips")
            shard, row = divmod(self._numbers[caption], SHARD)
            found.append(self._shard("text", shard)[0][row : row + 1])
        return torch.cat(found)

    def all_contexts(self) -> Tensor:
        """`(captions, tokens, dim)` of every distinct caption."""
        return self.contexts(list(self._numbers))

    @cached_property
    def empty(self) -> Tensor:
        """The context of the empty caption `(1, tokens, dim)`."""
        return self.contexts([EMPTY])

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {caption: number for number, caption in enumerate(read_json(self.folder / "captions.json", "captions"))}

    def _open(self, kind: str, shard: int) -> tuple:
        """A shard's rows, read from disk as they are sliced, and their captions."""
        path = self.folder / f"{kind}-{shard:05d}.safetensors"
        file = safe_open(str(path), framework="pt")
        if kind == "text":
            return file.get_slice("context"), ()
        return file.get_slice("latents"), read_json(path.with_suffix(".json"), "shard")["captions"]

"""Latent cache: latents and text embeddings computed once and stored on disk, for training the denoiser.

`nas.data.latent_cache_writer` writes a cache folder::

    videos-00000.safetensors ...   latents (n, C, T, h, w), one tensor for each bucket (size of clips) in the shard
    source.json                    hash of the data it is made from
    videos-00000.json ...          their captions (a list if a clip has several), and skipped files with the reason
    images-00000.safetensors ...   the same with T = 1
    text-00000.safetensors ...     contexts (n, tokens, dim) of captions.json, the empty caption first
    captions.json                  the distinct captions
    skipped.csv                    file and reason of everything that could not be used
    cache.json                     number of items in each shard; written last: the cache is complete

Each shard is written atomically, and an interrupted run resumes after the last complete one. Neither writing nor reading
holds more than one shard's latents and a few clips in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nas.data import skipped
from nas.errors import ConfigError
from nas.files import open_regular, read_json
from nas.models.text_encoder import EMPTY

SHARD = 512
"""Items of a shard, and captions of a text shard."""
KINDS = ("videos", "images")
ONLY_BUCKET = "latents"
"""Name of the tensor in caches that were written before there were buckets; now tensors are named `TxHxW`."""


class LatentCache:
    """A complete latent cache, read item by item.

    Clips of one size form a bucket; a cache of a single size has one bucket.

    Attributes:
        videos, images: number of each.

    Raises:
        ConfigError: the folder is not a complete cache.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        sizes = read_json(self.folder / "cache.json", "cache", dict)
        try:
            buckets = {kind: list(_by_bucket(sizes[kind]).items()) for kind in KINDS}
            self._tensors = {kind: [name for name, _ in buckets[kind]] for kind in KINDS}
            self._starts = {kind: [_starts(shards) for _, shards in buckets[kind]] for kind in KINDS}
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{self.folder / 'cache.json'}: is not the index of a latent cache") from None
        self.videos, self.images = (sum(int(starts[-1]) for starts in self._starts[kind]) for kind in KINDS)
        if not self.videos:
            raise ConfigError(f"{self.folder}: contains no usable clip; see {skipped.SKIPPED} there")
        self._shard = lru_cache(maxsize=64)(self._open)

    def counts(self, kind: str) -> tuple[int, ...]:
        """Items of `videos` or `images` in each bucket.

        Raises:
            ConfigError: the cache has none.
        """
        if not getattr(self, kind):
            raise ConfigError(f"{self.folder}: contains no {kind} to train on; prepare some, or set image_share to 0")
        return tuple(int(starts[-1]) for starts in self._starts[kind])

    def latents(
        self, kind: str, indices: Sequence[int], bucket: int = 0, draw: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Latents `(n, C, T, h, w)` and contexts `(n, tokens, dim)` of `videos` or `images` of one bucket.

        Args:
            draw: (seed, step) that choose among several captions of an item; default: the first caption.
        """
        latents, captions = [], []
        starts, tensor = self._starts[kind][bucket], self._tensors[kind][bucket]
        for index in indices:
            shard = int(np.searchsorted(starts, index, side="right")) - 1
            rows, of_items = self._shard(kind, shard, tensor)
            row = index - int(starts[shard])
            latents.append(rows[row : row + 1])
            choices = item_captions(of_items[row])
            chosen = 0
            if draw and len(choices) > 1:
                chosen = int(np.random.default_rng((*draw, KINDS.index(kind), bucket, index)).integers(len(choices)))
            captions.append(choices[chosen])
        return torch.cat(latents), self.contexts(captions)

    def captions(self, kind: str, indices: Sequence[int], bucket: int = 0) -> tuple[str, ...]:
        """The first caption of each of these items of `videos` or `images` of one bucket."""
        starts, tensor = self._starts[kind][bucket], self._tensors[kind][bucket]
        shards = [int(np.searchsorted(starts, index, side="right")) - 1 for index in indices]
        items = (self._shard(kind, s, tensor)[1][i - int(starts[s])] for s, i in zip(shards, indices))
        return tuple(item_captions(item)[0] for item in items)

    def contexts(self, captions: Sequence[str]) -> Tensor:
        """Contexts `(n, tokens, dim)` of captions in the cache.

        Raises:
            ConfigError: no cached clip or image has one of the captions.
        """
        contexts = []
        for caption in captions:
            if caption not in self._numbers:
                raise ConfigError(f"{self.folder}: no clip has the caption '{caption}'; prepare more clips")
            shard, row = divmod(self._numbers[caption], SHARD)
            contexts.append(self._shard("text", shard, "context")[0][row : row + 1])
        return torch.cat(contexts)

    def all_contexts(self, limit: int = 1024) -> Tensor:
        """`(captions, tokens, dim)` of the first `limit` distinct captions."""
        return self.contexts(list(islice(self._numbers, limit)))

    @cached_property
    def empty(self) -> Tensor:
        """The context of the empty caption `(1, tokens, dim)`."""
        return self.contexts([EMPTY])

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {
            caption: number for number, caption in enumerate(read_json(self.folder / "captions.json", "captions", list))
        }

    def _open(self, kind: str, shard: int, tensor: str) -> tuple:
        """A shard's rows, read from disk when sliced, and their captions."""
        path = self.folder / f"{kind}-{shard:05d}.safetensors"
        try:
            open_regular(path).close()
            rows = safe_open(str(path), framework="pt").get_slice(tensor)
            if kind == "text":
                return rows, ()
            captions = _by_bucket(read_json(path.with_suffix(".json"), "shard", dict)["captions"])[tensor]
            if rows.get_shape()[0] != len(captions):
                raise ValueError(f"{rows.get_shape()[0]} latents, {len(captions)} captions")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"{path}: this cache shard cannot be read ({reason}); remove the cache and prepare it again"
            ) from None
        return rows, captions


def item_captions(item: Any) -> list[str]:
    """The captions of an item as a shard's JSON file has them: one text or a list.

    Raises:
        TypeError: the item is neither.
    """
    captions = item if isinstance(item, list) else [item]
    if not all(isinstance(caption, str) for caption in captions):
        raise TypeError
    return captions


def _starts(shards: list[int]) -> np.ndarray:
    """Index of the first item of each shard, and the number of all items.

    Raises:
        ValueError: not a list of counts.
    """
    if not all(isinstance(count, int) and count >= 0 for count in shards):
        raise ValueError
    return np.cumsum([0, *shards])


def _by_bucket(value: Any) -> dict[str, Any]:
    """A value by bucket; caches written before there were buckets have the value alone."""
    return value if isinstance(value, dict) else {ONLY_BUCKET: value}

"""Writes a latent cache: encodes a source's clips, images and captions shard by shard; see `nas.data.latent_cache`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas import distributed
from nas.data import latent_cache, skipped
from nas.data.latent_cache import KINDS, LatentCache, item_captions
from nas.data.source import Sample, Source, UnreadableSample, batch_indices
from nas.errors import ConfigError
from nas.files import read_json, write_json
from nas.models import safetensors_io
from nas.models.autoencoder.streaming import MAX_PIXELS
from nas.models.text_encoder import EMPTY
from nas.progress import progress

SHARD_MB = 128
"""A shard of large latents is closed once it holds this many megabytes."""
GROUP = 32
"""Most clips encoded at once; groups have at most `MAX_PIXELS` pixels over all frames, or one clip."""
OTHER_DATA = "was started with other clips or captions than the data hold now; restore them, or use another folder"

Encode = Callable[[Tensor], Tensor]
EncodeText = Callable[[Sequence[str]], Tensor]


def fill_cache(
    folder: str | Path,
    source: Source,
    encode: Encode,
    encode_text: EncodeText,
    videos: int | None = None,
    images: int | None = None,
    more_captions: Sequence[str] = (),
    title: str = "prepare",
) -> LatentCache:
    """Fill `folder` from a source; an interrupted call resumes after the last complete shard.

    Args:
        encode: clips `(B, C, T, H, W)` -> latents, in bounded memory for any length, such as
            `partial(encode_clips, autoencoder)`.
        encode_text: captions -> contexts `(B, tokens, dim)`, such as a `PromptEncoder`.
        videos, images: number of each, from a fixed shuffle of the source; default: all.
        more_captions: further captions to embed.

    Raises:
        ConfigError: the folder was started with other clips or captions.
    """
    folder = Path(folder)
    check_source(folder, source)
    if (folder / "cache.json").exists():
        return LatentCache(folder)
    counts = {
        kind: available if limit is None else min(limit, available)
        for kind, limit, available in (("videos", videos, source.videos), ("images", images, source.images))
    }
    sizes: dict[str, list[dict[str, int]]] = {kind: [] for kind in KINDS}
    captions = dict.fromkeys([EMPTY, *more_captions])
    bad = [(error.file, error.reason) for error in source.skipped]
    with progress(None, title, sum(counts.values()), unit="clip") as bar:
        for kind, read in zip(KINDS, (source.video, source.image)):
            for shard in _shards(folder, kind, counts[kind], getattr(source, kind), read, encode, bar.update):
                sizes[kind].append({bucket: len(items) for bucket, items in shard.captions.items()})
                bad += shard.skipped
                for item in chain.from_iterable(shard.captions.values()):
                    captions |= dict.fromkeys(item_captions(item))
    skipped.write(folder / skipped.SKIPPED, bad)
    _write_texts(folder, list(captions), encode_text, f"{title}: text")
    write_json(folder / "captions.json", list(captions))
    write_json(folder / "cache.json", {kind: _by_bucket(shards) for kind, shards in sizes.items()})
    return LatentCache(folder)


def check_source(folder: Path, source: Source) -> None:
    """Record the hash of the data a cache is made from, or check it against the recorded one.

    Raises:
        ConfigError: the hash differs.
    """
    path, current = folder / "source.json", getattr(source, "hash", "")
    if not path.exists():
        if current and distributed.is_main() and not (folder / "cache.json").exists():
            if any(folder.glob("*-*.safetensors")):
                raise ConfigError(f"{folder}: was started by an older version; remove it and run again")
            write_json(path, {"hash": current})
    elif read_json(path, "source") != {"hash": current}:
        raise ConfigError(f"{folder}: {OTHER_DATA}")


@dataclass(frozen=True)
class _Shard:
    """What a shard's JSON file says.

    Attributes:
        captions: of its items, in order, by bucket; an item has one caption or a list of them.
        skipped: (file, reason) of the items that could not be used.
    """

    captions: dict[str, list[str | list[str]]]
    skipped: list[tuple[str, str]]

    @property
    def source_items(self) -> int:
        """Items of the source that the shard accounts for."""
        return sum(map(len, self.captions.values())) + len(self.skipped)


def _shards(
    folder: Path,
    kind: str,
    count: int,
    available: int,
    read: Callable[[int], Sample],
    encode: Encode,
    advance: Callable[[int], Any],
) -> Iterator[_Shard]:
    """Yield every shard of a kind, after writing it if it is missing."""
    start, number = 0, 0
    while start < count:
        path = folder / f"{kind}-{number:05d}.safetensors"
        if not path.with_suffix(".json").exists():
            indices = (
                batch_indices(0, p, 1, available)[0] for p in range(start, min(start + latent_cache.SHARD, count))
            )
            _write_shard(path, indices, read, encode, advance)
            shard = _read_shard(path)
        else:
            shard = _read_shard(path)
            advance(shard.source_items)
        yield shard
        start, number = start + shard.source_items, number + 1


@torch.no_grad()
def _write_shard(
    path: Path, indices: Iterator[int], read: Callable[[int], Sample], encode: Encode, advance: Callable[[int], Any]
) -> None:
    """Encode items into one file until there are no more or the shard is full."""
    pending: dict[tuple[int, ...], list[Sample]] = {}
    latents: dict[str, list[Tensor]] = {}
    captions: dict[str, list[str | list[str]]] = {}
    unreadable, size = [], 0

    def encode_group(group: list[Sample]) -> int:
        encoded = encode(torch.from_numpy(np.stack([sample.pixels for sample in group]))).cpu()
        bucket = "x".join(map(str, encoded.shape[2:]))
        latents.setdefault(bucket, []).append(encoded)
        captions.setdefault(bucket, []).extend(
            list(sample.captions) if sample.others else sample.caption for sample in group
        )
        group.clear()
        return encoded.numel() * encoded.element_size()

    for index in indices:
        advance(1)
        try:
            sample = read(index)
        except UnreadableSample as error:
            unreadable.append({"file": error.file, "reason": error.reason})
            continue
        group = pending.setdefault(sample.pixels.shape, [])
        group.append(sample)
        frames, height, width = sample.pixels.shape[1:]
        if len(group) == GROUP or (len(group) + 1) * frames * height * width > MAX_PIXELS:
            size += encode_group(group)
        if size >= SHARD_MB * 1e6:
            break
    for group in filter(None, pending.values()):
        encode_group(group)
    safetensors_io.save(path, {bucket: torch.cat(parts) for bucket, parts in latents.items()})
    write_json(path.with_suffix(".json"), {"captions": captions, "skipped": unreadable})


def _write_texts(folder: Path, captions: list[str], encode_text: EncodeText, title: str) -> None:
    """Embed the captions shard by shard; shards that exist are kept."""
    missing = [
        (path, start)
        for number, start in enumerate(range(0, len(captions), latent_cache.SHARD))
        if not (path := folder / f"text-{number:05d}.safetensors").exists()
    ]
    for path, start in progress(missing, title, len(missing), unit="shard"):
        safetensors_io.save(path, {"context": encode_text(captions[start : start + latent_cache.SHARD])})


def _read_shard(path: Path) -> _Shard:
    """
    Raises:
        ConfigError: the shard's JSON file is damaged, or was written by an older version.
    """
    path = path.with_suffix(".json")
    values = read_json(path, "shard", dict)
    try:
        if not isinstance(values["captions"], dict):
            raise ConfigError(f"{path.parent}: was started by an older version; remove it and run again")
        shard = _Shard(values["captions"], [(entry["file"], entry["reason"]) for entry in values["skipped"]])
        valid = all(map(all, shard.skipped))
        valid = valid and all(map(item_captions, chain.from_iterable(shard.captions.values())))
    except (KeyError, TypeError):
        valid = False
    if not valid:
        raise ConfigError(f"{path}: is not the description of a shard; remove it and run again")
    return shard


def _by_bucket(shards: list[dict[str, int]]) -> dict[str, list[int]]:
    """Number of items in each shard, by bucket."""
    buckets = dict.fromkeys(bucket for shard in shards for bucket in shard)
    return {bucket: [shard.get(bucket, 0) for shard in shards] for bucket in buckets}

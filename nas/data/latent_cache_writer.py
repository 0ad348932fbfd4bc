"""Writes a latent cache: encodes a source's clips, images and captions shard by shard; see `nas.data.latent_cache`.

Which items a shard holds is known before they are read, so several workers each encode some of the shards, and write the
same files as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas import distributed
from nas.data import latent_cache, skipped
from nas.data.latent_cache import KINDS, LatentCache, item_captions
from nas.data.source import Sample, Source, UnreadableSample, batch_indices
from nas.distributed.prefetch import read_ahead
from nas.errors import ConfigError
from nas.files import read_json, write_json
from nas.models import safetensors_io
from nas.models.autoencoder.streaming import MAX_PIXELS
from nas.models.text_encoder import EMPTY
from nas.progress import progress
from nas.spaces import Latent

SHARD_MB = 128
"""A shard has as many large latents as these megabytes hold."""
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
    latent: Latent | None = None,
    workers: int = 0,
) -> LatentCache:
    """Fill `folder` from a source; an interrupted call resumes after the shards that exist. All workers must call it.

    Args:
        encode: clips `(B, C, T, H, W)` -> latents, in bounded memory for any length, such as
            `partial(encode_clips, autoencoder)`.
        encode_text: captions -> contexts `(B, tokens, dim)`, such as a `PromptEncoder`.
        videos, images: number of each, from a fixed shuffle of the source; default: all.
        more_captions: further captions to embed.
        latent: size of the largest latents, so that shards of large ones have fewer items.
        workers: processes that read and decode ahead.

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
    plan = [shard for kind in KINDS for shard in _plan(folder, kind, counts[kind], _shard_items(kind, latent))]
    _encode_missing(plan, source, encode, title, workers)
    captions = dict.fromkeys([EMPTY, *more_captions])
    bad = [(error.file, error.reason) for error in source.skipped]
    sizes: dict[str, list[dict[str, int]]] = {kind: [] for kind in KINDS}
    for planned in plan:
        shard = _read_shard(planned.path)
        sizes[planned.kind].append({bucket: len(items) for bucket, items in shard.captions.items()})
        bad += shard.skipped
        for item in chain.from_iterable(shard.captions.values()):
            captions |= dict.fromkeys(item_captions(item))
    _write_texts(folder, list(captions), encode_text, f"{title}: text")
    distributed.barrier()
    if distributed.is_main():
        skipped.write(folder / skipped.SKIPPED, bad)
        write_json(folder / "captions.json", list(captions))
        write_json(folder / "cache.json", {kind: _by_bucket(shards) for kind, shards in sizes.items()})
    distributed.barrier()
    return LatentCache(folder)


def check_source(folder: Path, source: Source) -> None:
    """Record the hash of the data a cache is made from, or check it against the recorded one; of workers, the first does.

    Raises:
        ConfigError: the hash differs.
    """
    if not distributed.is_main():
        return
    path, current = folder / "source.json", getattr(source, "hash", "")
    if not path.exists():
        if current and not (folder / "cache.json").exists():
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


@dataclass(frozen=True)
class _Planned:
    """A shard, written or not.

    Attributes:
        items: places in the shuffle of the source.
    """

    kind: str
    path: Path
    items: range
    written: bool


def _plan(folder: Path, kind: str, count: int, shard_items: int) -> Iterator[_Planned]:
    """The shards of a kind."""
    start, number = 0, 0
    while start < count:
        path = folder / f"{kind}-{number:05d}.safetensors"
        written = path.with_suffix(".json").exists()
        # Older versions closed a shard of large latents when it was full, so what is written says what it holds.
        size = _read_shard(path).source_items if written else shard_items
        yield _Planned(kind, path, range(start, min(start + size, count)), written)
        start, number = start + size, number + 1


def _encode_missing(plan: Sequence[_Planned], source: Source, encode: Encode, title: str, workers: int) -> None:
    """Write the shards that are missing, each worker some of them."""
    missing = [shard for shard in plan if not shard.written]
    distributed.barrier()  # before any worker writes one of them
    mine = missing[distributed.rank() :: distributed.world_size()]
    done = sum(len(shard.items) for shard in plan if shard.written)
    total = done + sum(len(shard.items) for shard in mine)
    with progress(None, title, total, done, "clip", shown=distributed.is_main()) as bar:
        for shard in mine:
            available, read = getattr(source, shard.kind), source.video if shard.kind == "videos" else source.image
            indices = [batch_indices(0, item, 1, available)[0] for item in shard.items]
            _write_shard(shard.path, _samples(read, indices, workers), len(indices), encode, bar.update)
    distributed.barrier()


def _shard_items(kind: str, latent: Latent | None) -> int:
    """Items of a shard."""
    if latent is None:
        return latent_cache.SHARD
    numbers = latent.channels * latent.height * latent.width * (latent.frames if kind == "videos" else 1)
    return max(1, min(latent_cache.SHARD, int(SHARD_MB * 1e6 / (4 * numbers))))


_Sample = tuple[Tensor, tuple[str, ...]] | UnreadableSample
"""Pixels `(C, T, H, W)` and captions."""


def _samples(read: Callable[[int], Sample], indices: Sequence[int], workers: int) -> Iterator[_Sample]:
    def one(index: int) -> _Sample:
        try:
            sample = read(index)
        except UnreadableSample as error:
            return error
        return torch.from_numpy(sample.pixels), sample.captions

    return read_ahead(one, indices, workers) if workers else map(one, indices)


@torch.no_grad()
def _write_shard(
    path: Path, samples: Iterator[_Sample], count: int, encode: Encode, advance: Callable[[int], Any]
) -> None:
    """Encode at most `count` items into one file."""
    pending: dict[tuple[int, ...], list[tuple[Tensor, tuple[str, ...]]]] = {}
    # One tensor for each bucket: small ones that stay, in between, would keep the memory of each clip from the next one.
    latents: dict[str, Tensor] = {}
    captions: dict[str, list[str | list[str]]] = {}
    unreadable = []

    def encode_group(group: list[tuple[Tensor, tuple[str, ...]]]) -> None:
        encoded = encode(torch.stack([pixels for pixels, _ in group])).cpu()
        bucket = "x".join(map(str, encoded.shape[2:]))
        if bucket not in latents:
            latents[bucket] = encoded.new_empty(count, *encoded.shape[1:])
        known = captions.setdefault(bucket, [])
        latents[bucket][len(known) : len(known) + len(group)] = encoded
        known.extend(list(texts) if len(texts) > 1 else texts[0] for _, texts in group)
        group.clear()

    for sample in samples:
        advance(1)
        if isinstance(sample, UnreadableSample):
            unreadable.append({"file": sample.file, "reason": sample.reason})
            continue
        group = pending.setdefault(tuple(sample[0].shape), [])
        group.append(sample)
        frames, height, width = sample[0].shape[1:]
        if len(group) == GROUP or (len(group) + 1) * frames * height * width > MAX_PIXELS:
            encode_group(group)
    for group in filter(None, pending.values()):
        encode_group(group)
    safetensors_io.save(path, {bucket: rows[: len(captions[bucket])] for bucket, rows in latents.items()})
    write_json(path.with_suffix(".json"), {"captions": captions, "skipped": unreadable})


def _write_texts(folder: Path, captions: list[str], encode_text: EncodeText, title: str) -> None:
    """Embed the captions shard by shard, each worker some of them; shards that exist are kept."""
    missing = [
        (path, start)
        for number, start in enumerate(range(0, len(captions), latent_cache.SHARD))
        if not (path := folder / f"text-{number:05d}.safetensors").exists()
    ]
    distributed.barrier()
    mine = missing[distributed.rank() :: distributed.world_size()]
    for path, start in progress(mine, title, len(mine), unit="shard", shown=distributed.is_main()):
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

"""Latents and text embeddings computed once and kept on disk: what the denoiser's stages train on.

A cache folder holds::

    videos-00000.safetensors ...   latents (n, C, T, h, w), one tensor for each size of clips in the shard
    source.json                    hash of the data it is made of
    videos-00000.json ...          their captions (a list where a clip has several), and what was skipped, with the reason
    images-00000.safetensors ...   the same with T = 1
    text-00000.safetensors ...     context (n, tokens, dim) of captions.json, the empty caption first
    captions.json                  the distinct captions
    skipped.csv                    file, reason of all that could not be used
    cache.json                     items in each shard; written last: the cache is complete

It is written shard by shard, each in one atomic piece, and an interrupted run goes on after the last whole shard.
No more than one shard's latents and a few clips are held in memory, neither in writing nor in reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nas import distributed
from nas.data import skipped
from nas.data.source import Sample, Source, UnreadableSample, batch_indices
from nas.errors import ConfigError
from nas.files import open_regular, read_json, write_json
from nas.models import safetensors_io
from nas.models.text_encoder import EMPTY
from nas.progress import progress

SHARD = 512
"""Items of a shard, and captions of a text shard."""
SHARD_MB = 128
"""A shard of large latents is closed when it holds so many megabytes."""
GROUP, GROUP_PIXELS = 32, 1 << 18
"""Clips encoded at once, and how many pixels, frames counted, that may be; a longer clip is encoded in pieces."""
KINDS = ("videos", "images")
OTHER_DATA = "was begun with other clips or captions than the data hold now; restore them, or give another folder"
LATENTS = "latents"
"""Name of the tensor in caches written before there were buckets; now they are called `TxHxW`."""

Encode = Callable[[Tensor], Tensor]
Text = Callable[[Sequence[str]], Tensor]


def prepare(
    folder: str | Path,
    source: Source,
    encode: Encode,
    text: Text,
    videos: int | None = None,
    images: int | None = None,
    more_captions: Sequence[str] = (),
    title: str = "prepare",
) -> Cache:
    """Fill `folder` from a source; returns at once when it is complete.

    Args:
        encode: pixels `(B, C, T, H, W)` -> latents, each frame by itself, as `Autoencoder.encode`.
        text: captions -> contexts `(B, tokens, dim)`, as a `PromptEncoder`.
        videos, images: how many, from a fixed shuffle of the source; all by default.
        more_captions: captions to embed besides those of the items.

    Raises:
        ConfigError: the folder was begun with other clips or captions.
    """
    folder = Path(folder)
    same_source(folder, source)
    if (folder / "cache.json").exists():
        return Cache(folder)
    counts = {
        kind: there if wanted is None else min(wanted, there)
        for kind, wanted, there in (("videos", videos, source.videos), ("images", images, source.images))
    }
    sizes: dict[str, list[dict[str, int]]] = {kind: [] for kind in KINDS}
    captions = dict.fromkeys([EMPTY, *more_captions])
    bad = [(error.file, error.reason) for error in source.skipped]
    with progress(None, title, sum(counts.values()), unit="clip") as bar:
        for kind, read in zip(KINDS, (source.video, source.image)):
            for note in _shards(folder, kind, counts[kind], getattr(source, kind), read, encode, bar.update):
                sizes[kind].append({name: len(found) for name, found in note["captions"].items()})
                bad += [(entry["file"], entry["reason"]) for entry in note["skipped"]]
                for item in chain.from_iterable(note["captions"].values()):
                    captions |= dict.fromkeys(_captions(item))
    skipped.write(folder / skipped.SKIPPED, bad)
    _write_texts(folder, list(captions), text, f"{title}: text")
    write_json(folder / "captions.json", list(captions))
    write_json(folder / "cache.json", {kind: _by_tensor(shards) for kind, shards in sizes.items()})
    return Cache(folder)


def same_source(folder: Path, source: Source) -> None:
    """Note what the cache is made of, or check that it is the same.

    Raises:
        ConfigError: it is not.
    """
    path, now = folder / "source.json", getattr(source, "hash", "")
    if not path.exists():
        if now and distributed.is_main() and not (folder / "cache.json").exists():
            if any(folder.glob("*-*.safetensors")):
                raise ConfigError(f"{folder}: was begun by an older version; remove it and run again")
            write_json(path, {"hash": now})
    elif read_json(path, "source") != {"hash": now}:
        raise ConfigError(f"{folder}: {OTHER_DATA}")


def _shards(
    folder: Path,
    kind: str,
    count: int,
    there: int,
    read: Callable[[int], Sample],
    encode: Encode,
    advance: Callable[[int], Any],
) -> Iterator[dict[str, Any]]:
    """Write the shards that are missing; yields the note of each: its captions by tensor, and what was skipped."""
    place, number = 0, 0
    while place < count:
        path = folder / f"{kind}-{number:05d}.safetensors"
        if not path.with_suffix(".json").exists():
            chosen = (batch_indices(0, p, 1, there)[0] for p in range(place, min(place + SHARD, count)))
            _write_shard(path, chosen, read, encode, advance)
            note = _note(path)
        else:
            note = _note(path)
            advance(_taken(note))
        yield note
        place, number = place + _taken(note), number + 1


@torch.no_grad()
def _write_shard(
    path: Path, chosen: Iterator[int], read: Callable[[int], Sample], encode: Encode, advance: Callable[[int], Any]
) -> None:
    """Encode items into one file, until they run out or it is large enough."""
    waiting: dict[tuple[int, ...], list[Sample]] = {}
    latents: dict[str, list[Tensor]] = {}
    captions: dict[str, list[str | list[str]]] = {}
    missed, size = [], 0

    def encode_group(group: list[Sample]) -> int:
        found = encode_clips(encode, torch.from_numpy(np.stack([sample.pixels for sample in group]))).cpu()
        name = "x".join(map(str, found.shape[2:]))
        latents.setdefault(name, []).append(found)
        several = (list(sample.captions) if sample.others else sample.caption for sample in group)
        captions.setdefault(name, []).extend(several)
        group.clear()
        return found.numel() * found.element_size()

    for index in chosen:
        advance(1)
        try:
            sample = read(index)
        except UnreadableSample as error:
            missed.append({"file": error.file, "reason": error.reason})
            continue
        group = waiting.setdefault(sample.pixels.shape, [])
        group.append(sample)
        frames, height, width = sample.pixels.shape[1:]
        if len(group) == GROUP or (len(group) + 1) * frames * height * width > GROUP_PIXELS:
            size += encode_group(group)
        if size >= SHARD_MB * 1e6:
            break
    for group in filter(None, waiting.values()):
        encode_group(group)
    safetensors_io.save(path, {name: torch.cat(parts) for name, parts in latents.items()})
    write_json(path.with_suffix(".json"), {"captions": captions, "skipped": missed})


def encode_clips(encode: Encode, video: Tensor) -> Tensor:
    """Latents of clips `(B, C, T, H, W)`, a long or large one's in pieces of a few frames."""
    batch, _, _, height, width = video.shape
    frames = max(1, GROUP_PIXELS // (batch * height * width))
    return torch.cat([encode(part) for part in video.split(frames, dim=2)], dim=2)


def _write_texts(folder: Path, captions: list[str], text: Text, title: str) -> None:
    missing = [
        (path, start)
        for number, start in enumerate(range(0, len(captions), SHARD))
        if not (path := folder / f"text-{number:05d}.safetensors").exists()
    ]
    for path, start in progress(missing, title, len(missing), unit="shard"):
        safetensors_io.save(path, {"context": text(captions[start : start + SHARD])})


def _note(path: Path) -> dict[str, Any]:
    note = read_json(path.with_suffix(".json"), "shard", dict)
    try:
        if not isinstance(note["captions"], dict):
            raise ConfigError(f"{path.parent}: was begun by an older version; remove it and run again")
        whole = all(entry["file"] and entry["reason"] for entry in note["skipped"])
        whole = whole and all(_captions(item) for item in chain.from_iterable(note["captions"].values()))
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise ConfigError(f"{path.with_suffix('.json')}: is not a shard's note; remove it and run again")
    return note


def _captions(item: Any) -> list[str]:
    """Of an item in a shard's note, which is one caption or several.

    Raises:
        TypeError: it is neither.
    """
    found = item if isinstance(item, list) else [item]
    if not all(isinstance(caption, str) for caption in found):
        raise TypeError
    return found


def _taken(note: dict[str, Any]) -> int:
    """How many items of the source a shard accounts for."""
    return sum(map(len, note["captions"].values())) + len(note["skipped"])


def _by_tensor(shards: list[dict[str, int]]) -> dict[str, list[int]]:
    """Items in each shard, by tensor."""
    names = dict.fromkeys(name for shard in shards for name in shard)
    return {name: [shard.get(name, 0) for shard in shards] for name in names}


class Cache:
    """What `prepare` wrote, read item by item.

    Clips of one size make up a bucket; a cache of a single size has one.

    Attributes:
        videos, images: how many there are.

    Raises:
        ConfigError: the folder is no complete cache.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        sizes = read_json(self.folder / "cache.json", "cache", dict)
        try:
            buckets = {kind: list(_named(sizes[kind]).items()) for kind in KINDS}
            self._tensors = {kind: [name for name, _ in buckets[kind]] for kind in KINDS}
            self._starts = {kind: [_starts(shards) for _, shards in buckets[kind]] for kind in KINDS}
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{self.folder / 'cache.json'}: is not the list of a cache's items") from None
        self.videos, self.images = (sum(int(starts[-1]) for starts in self._starts[kind]) for kind in KINDS)
        if not self.videos:
            raise ConfigError(f"{self.folder}: holds no clip that could be used; see {skipped.SKIPPED} there")
        self._shard = lru_cache(maxsize=64)(self._open)

    def counts(self, kind: str) -> tuple[int, ...]:
        """Items of `videos` or `images` in each bucket.

        Raises:
            ConfigError: there are none at all.
        """
        if not getattr(self, kind):
            raise ConfigError(f"{self.folder}: holds no {kind} to train on; prepare some, or set image_share to 0")
        return tuple(int(starts[-1]) for starts in self._starts[kind])

    def latents(
        self, kind: str, indices: Sequence[int], bucket: int = 0, draw: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Latents `(n, C, T, h, w)` and contexts `(n, tokens, dim)` of these `videos` or `images` of a bucket.

        Args:
            draw: seed and step, which decide which caption is taken of several; the first without them.
        """
        found, names = [], []
        starts, tensor = self._starts[kind][bucket], self._tensors[kind][bucket]
        for index in indices:
            shard = int(np.searchsorted(starts, index, side="right")) - 1
            rows, captions = self._shard(kind, shard, tensor)
            row = index - int(starts[shard])
            found.append(rows[row : row + 1])
            several = _captions(captions[row])
            chosen = 0
            if draw and len(several) > 1:
                chosen = int(np.random.default_rng((*draw, KINDS.index(kind), bucket, index)).integers(len(several)))
            names.append(several[chosen])
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
            found.append(self._shard("text", shard, "context")[0][row : row + 1])
        return torch.cat(found)

    def all_contexts(self, most: int = 1024) -> Tensor:
        """`(captions, tokens, dim)` of the distinct captions, of the first `most` if there are more."""
        return self.contexts(list(islice(self._numbers, most)))

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
        """A shard's rows, read from disk as they are sliced, and their captions."""
        path = self.folder / f"{kind}-{shard:05d}.safetensors"
        try:
            open_regular(path).close()
            rows = safe_open(str(path), framework="pt").get_slice(tensor)
            note = (
                ()
                if kind == "text"
                else _named(read_json(path.with_suffix(".json"), "shard", dict)["captions"])[tensor]
            )
            if kind != "text" and rows.get_shape()[0] != len(note):
                raise ValueError(f"{rows.get_shape()[0]} latents, {len(note)} captions")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{path}: this shard of a cache cannot be read ({reason}); prepare it again") from None
        return rows, note


def _starts(shards: list[int]) -> np.ndarray:
    """
    Raises:
        ValueError: these are no counts.
    """
    if not all(isinstance(count, int) and count >= 0 for count in shards):
        raise ValueError
    return np.cumsum([0, *shards])


def _named(found: Any) -> dict[str, Any]:
    """By tensor; caches of one size used to leave the name out."""
    return found if isinstance(found, dict) else {LATENTS: found}

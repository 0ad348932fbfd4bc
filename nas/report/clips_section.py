"""The page's clips: what each stage generates, one above the other at the same number of steps."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from nas.report.folder import RunFolder, inside, stage_order
from nas.report.markup import Markup, tag
from nas.report.numbers import plural
from nas.report.record import Sample

CLIP_BYTES = 4_000_000
"""A clip larger than this is not embedded; the page says where it is."""
PAGE_BYTES = 24_000_000
"""All clips of a page together."""


@dataclass(frozen=True)
class Clip:
    """A sample as it stands on the page.

    Attributes:
        size: bytes that it takes there.
        ratio: width by height, for a GIF.
    """

    picture: Markup
    size: int = 0
    ratio: float = 1.0


def samples(run: RunFolder) -> Markup:
    """Clips of every stage playing together: grouped by the number of steps, stages in the order of training."""
    if not run.record.samples:
        return tag("p", "Not in this run yet: no stage has drawn clips.", class_="absent")
    captions = run.record.samples[0].captions
    same = all(sample.captions == captions for sample in run.record.samples)
    room, groups, strips = PAGE_BYTES, {}, same
    for sample in sorted(run.record.samples, key=lambda s: (s.steps == 0, -s.steps, stage_order(s.model))):
        clip = _clip(run.path, sample, room)
        room -= clip.size
        strips = strips and (not clip.size or _is_row(clip.ratio, len(captions)))
        own = "" if same else _captions(sample.captions)
        figure = tag("figure", tag("figcaption", sample.model), tag("div", clip.picture, own))
        groups.setdefault(sample.steps, []).append(figure)
    heads = [tag("span", caption) for caption in captions]
    columns = f"grid-template-columns:repeat({len(captions)},minmax(0,1fr))"
    parts = []
    for steps, figures in groups.items():
        title = tag("h3", plural(steps, "denoising step") if steps else "Not generated")
        above = tag("div", heads, class_="captions", style=columns) if strips else ""
        parts.append(tag("div", title, above, tag("div", figures, class_="strips" if strips else "clips")))
    words = "What different stages make of the same number of steps, side by side in the order of training."
    below = _captions(captions) if same and not strips else ""
    return tag("div", tag("p", words, class_="caption"), parts, below)


def _is_row(ratio: float, clips: int) -> bool:
    """Whether a picture of this shape is that many square clips side by side, so that captions can stand above them."""
    return clips >= 3 and abs(ratio - clips * 17 / 16) < 0.5


def _captions(captions: tuple[str, ...]) -> Markup:
    items = [tag("li", caption) for caption in captions]
    return tag(
        "details",
        tag("summary", plural(len(items), "caption"), ", clips in reading order"),
        tag("ol", items),
        open=True,
    )


def _clip(run: Path, sample: Sample, room: int) -> Clip:
    """The sample as an embedded GIF, or as an MP4 if only that is small enough; else where it lies."""
    reasons = []
    for name, kind in ((sample.gif, "image/gif"), (sample.mp4, "video/mp4")):
        path = inside(run, name)
        size = path.stat().st_size if path else 0
        if not size:
            reasons.append(f"{name} is missing" if name else "")
            continue
        if size * 4 / 3 > min(CLIP_BYTES, room):
            reasons.append(f"{name} is too large to embed ({size / 1e6:.1f} MB)")
            continue
        data = path.read_bytes()
        uri = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        if kind == "image/gif":
            width, height = (int.from_bytes(data[i : i + 2], "little") for i in (6, 8))  # of the GIF's header
            alt = f"Clips of {sample.model} at {sample.steps} steps: {'; '.join(sample.captions)}"
            return Clip(tag("img", src=uri, alt=alt, class_="clip"), len(uri), width / max(height, 1))
        else:
            video = tag("video", src=uri, autoplay=True, loop=True, muted=True, playsinline=True, class_="clip")
            return Clip(video, len(uri))
    return Clip(tag("p", "; ".join(filter(None, reasons)) or "no file named", ".", class_="absent"))

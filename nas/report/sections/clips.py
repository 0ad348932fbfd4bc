"""The page's clips: what each stage generates, one above the other at the same number of steps."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from nas.report.formatting import plural
from nas.report.markup import Markup, tag
from nas.runs.folder import RunFolder, file_in_run, stage_order
from nas.runs.record import Preview

CLIP_BYTES = 4_000_000
"""A clip larger than this is not embedded; the page says where it is."""
PAGE_BYTES = 24_000_000
"""All clips of a page together."""


@dataclass(frozen=True)
class Clip:
    """A sample as it stands on the page.

    Attributes:
        size: bytes that it takes there.
        ratio: width by height, for a GIF; 0 for a video, whose size is not known here.
        uri: the whole file, as a picture's `src`.
    """

    picture: Markup
    size: int = 0
    ratio: float = 0.0
    uri: str = ""


def previews(run: RunFolder) -> Markup:
    """Clips of every stage playing together: grouped by the number of steps, stages in the order of training."""
    if not run.record.previews:
        return tag("p", "Not in this run yet: no stage has drawn clips.", class_="absent")
    captions = run.record.previews[0].captions
    same = all(sample.captions == captions for sample in run.record.previews)
    room, groups, strips = PAGE_BYTES, {}, same
    for sample in sorted(run.record.previews, key=lambda s: (s.steps == 0, -s.steps, stage_order(s.model))):
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


def hero(run: RunFolder) -> Markup:
    """The clips that the run is about, large and playing, first on the page; nothing before there are any.

    They are of the last stage, at the most denoising steps that it was shown at. Clips side by side in one file become
    one tile each, so that they are large on a phone as well, where a row of six would be the height of a line.
    """
    made = [s for s in run.record.previews if s.model not in ("real", "control")]
    made.sort(key=lambda s: (-stage_order(s.model), -s.steps))
    for sample in made:
        clip = _clip(run.path, sample, PAGE_BYTES // 3)
        if not clip.size:
            continue
        says = f"After the {sample.model} stage, {plural(sample.steps, 'denoising step')}"
        count = len(sample.captions)
        if not _is_row(clip.ratio, count):
            return tag("figure", tag("div", clip.picture, class_="whole"), _captions(sample.captions),
                       tag("figcaption", says), class_="hero")  # fmt: skip
        width = (clip.ratio - (count - 1) / 16) / count  # of one clip, by its height
        tiles = []
        for i, caption in enumerate(sample.captions):
            style = (
                f"aspect-ratio:{width:.4f};background-size:{100 * clip.ratio / width:.3f}% 100%;"
                f"background-position:{100 * i / (count - 1):.3f}% 0"
            )
            picture = tag("div", class_="clip", style=style, role="img", aria_label=f"Generated clip: {caption}")
            tiles.append(tag("figure", picture, tag("figcaption", caption)))
        return tag("figure", tag("style", Markup(f'.hero{{--strip:url("{clip.uri}")}}')),
                   tag("div", tiles, class_="tiles", style=f"--columns:{3 if count > 4 else count}"), tag("figcaption", says), class_="hero")  # fmt: skip
    return Markup()


def _is_row(ratio: float, clips: int) -> bool:
    """Whether a picture of this shape can be that many clips side by side, a sixteenth of their height apart."""
    return clips >= 3 and 0.5 <= (ratio - (clips - 1) / 16) / clips <= 2.4


def _captions(captions: tuple[str, ...]) -> Markup:
    items = [tag("li", caption) for caption in captions]
    return tag(
        "details",
        tag("summary", plural(len(items), "caption"), ", clips in reading order"),
        tag("ol", items),
        open=True,
    )


def _clip(run: Path, sample: Preview, room: int) -> Clip:
    """The sample as an embedded GIF, or as an MP4 if only that is small enough; else where it lies."""
    reasons = []
    for name, kind in ((sample.gif, "image/gif"), (sample.mp4, "video/mp4")):
        path = file_in_run(run, name)
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
            return Clip(tag("img", src=uri, alt=alt, class_="clip"), len(uri), width / max(height, 1), uri)
        else:
            video = tag("video", src=uri, autoplay=True, loop=True, muted=True, playsinline=True, class_="clip")
            return Clip(video, len(uri))
    return Clip(tag("p", "; ".join(filter(None, reasons)) or "no file named", ".", class_="absent"))

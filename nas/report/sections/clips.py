"""The preview clips of the page: by number of denoising steps, and those of the last stage at the top."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from nas.report.formatting import plural
from nas.report.sections import absent_text
from nas.report.templating import render
from nas.runs.folder import RunFolder, file_in_run, stage_order
from nas.runs.record import CONTROL, REAL, Preview

CLIP_BYTES = 4_000_000
"""A larger clip is not embedded; the page names its file instead."""
PAGE_BYTES = 24_000_000
"""Limit of all embedded clips of a page together."""


@dataclass(frozen=True)
class EmbeddedClip:
    """A preview clip as an element of the page.

    Attributes:
        size: bytes of `uri`; 0 if the clip is not embedded.
        ratio: width by height of a GIF; 0 for a video, whose size is not read.
        uri: the file as a `data:` address.
    """

    picture: Markup
    size: int = 0
    ratio: float = 0.0
    uri: str = ""


@dataclass(frozen=True)
class Figure:
    """A clip with its stage and its captions."""

    model: str
    picture: Markup
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Clips of all stages at one number of denoising steps."""

    steps: int
    figures: list[Figure]


@dataclass(frozen=True)
class Tile:
    """CSS values that show one clip of a row of clips."""

    caption: str
    ratio: str
    size: str
    position: str


def previews(run: RunFolder) -> Markup:
    """Preview clips of every stage, grouped by number of denoising steps, stages in the order of training."""
    if not run.record.previews:
        return absent_text("no stage has generated clips")
    captions = run.record.previews[0].captions
    same = all(preview.captions == captions for preview in run.record.previews)
    bytes_left, groups, strips = PAGE_BYTES, {}, same
    for preview in sorted(run.record.previews, key=lambda p: (p.steps == 0, -p.steps, stage_order(p.model))):
        clip = _embed(run.path, preview, bytes_left)
        bytes_left -= clip.size
        strips = strips and (not clip.size or _is_row(clip.ratio, len(captions)))
        group = groups.setdefault(preview.steps, Group(preview.steps, []))
        group.figures.append(Figure(preview.model, clip.picture, preview.captions))
    return render("previews", groups=list(groups.values()), strips=strips, shared_captions=captions if same else ())


def hero(run: RunFolder) -> Markup:
    """The clips at the top of the page, of the last stage at its most denoising steps; empty before there are any.

    A row of clips in one file is shown as one tile per clip, which is readable on a phone as well.
    """
    generated = [preview for preview in run.record.previews if preview.model not in (REAL, CONTROL)]
    generated.sort(key=lambda preview: (-stage_order(preview.model), -preview.steps))
    for preview in generated:
        clip = _embed(run.path, preview, PAGE_BYTES // 3)
        if not clip.size:
            continue
        count, tiles = len(preview.captions), []
        if _is_row(clip.ratio, count):
            ratio = (clip.ratio - (count - 1) / 16) / count
            size, step = f"{100 * clip.ratio / ratio:.3f}%", 100 / (count - 1)
            tiles = [Tile(text, f"{ratio:.4f}", size, f"{i * step:.3f}%") for i, text in enumerate(preview.captions)]
        return render(
            "hero",
            tiles=tiles,
            columns=3 if count > 4 else count,
            uri=Markup(clip.uri),  # base64; escaping would change nothing but takes long
            picture=clip.picture,
            clip_captions=preview.captions,
            text=f"After the {preview.model} stage, {plural(preview.steps, 'denoising step')}",
        )
    return Markup()


def _is_row(ratio: float, clips: int) -> bool:
    """Whether a picture of this shape can hold that many clips side by side, with gaps of 1/16 of its height."""
    return clips >= 3 and 0.5 <= (ratio - (clips - 1) / 16) / clips <= 2.4


def _embed(run: Path, preview: Preview, bytes_left: int) -> EmbeddedClip:
    """The preview as an embedded GIF, or as an MP4 if only that is small enough; otherwise the names of its files."""
    reasons = []
    for name, kind in ((preview.gif, "image/gif"), (preview.mp4, "video/mp4")):
        path = file_in_run(run, name)
        size = path.stat().st_size if path else 0
        if not size:
            reasons.append(f"{name} is missing" if name else "")
            continue
        if size * 4 / 3 > min(CLIP_BYTES, bytes_left):
            reasons.append(f"{name} is too large to embed ({size / 1e6:.1f} MB)")
            continue
        data = path.read_bytes()
        uri = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        ratio = 0.0
        if kind == "image/gif":
            width, height = (int.from_bytes(data[i : i + 2], "little") for i in (6, 8))  # of the GIF's header
            ratio = width / max(height, 1)
        alt = f"Clips of {preview.model} at {preview.steps} steps: {'; '.join(preview.captions)}"
        return EmbeddedClip(render("clip", kind=kind, uri=Markup(uri), alt=alt), len(uri), ratio, uri)
    reason = "; ".join(filter(None, reasons)) or "no file named"
    return EmbeddedClip(render("clip", kind="", uri="", alt=f"{reason}."))

"""Draws the README's picture from a finished run: `python docs/demo_picture.py runs/demo docs/images/demo.png`."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image, ImageSequence

from nas.costs import Budget
from nas.report import plots
from nas.runs.folder import RunFolder
from nas.runs.record import Preview

CLIPS, FRAMES, APART = 3, 4, 4
"""How many clips are shown, how many of each one's frames, and how far apart these are."""


def picture(run: RunFolder, out: Path) -> Path:
    """The front and the winner on the UNet above, frames of generated clips below."""
    space, arch = run.space, run.space.architecture(run.choices)
    figure = plt.figure(figsize=(10, 5.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3.2, 2.1))
    left, right = above.subplots(1, 2, width_ratios=(1, 1.55))
    plots.plot_front(run.front, budget=Budget(**run.record.budget), chosen=run.chosen or arch, ax=left)
    left.set_title("what no other architecture beats", loc="left", fontsize=9)
    plots.plot_architecture(space, arch, run.predicted_cost, ax=right)
    right.set_title("the chosen layers, and their share of the latency", loc="left", fontsize=9)
    shown = best_previews(run)
    rows = below.subplots(len(shown), CLIPS, squeeze=False)
    for axes, preview in zip(rows, shown):
        film(axes, preview, run.path, captions=preview is shown[0])
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return out


def best_previews(run: RunFolder) -> list[Preview]:
    """The fine-tuned model at its most steps, and the last stage at four (or the nearest that it has)."""
    by_model = {model: [s for s in run.record.previews if s.model == model] for model in ("finetune", "adversarial")}
    nearest = {"finetune": lambda s: -s.steps, "adversarial": lambda s: abs(s.steps - 4)}
    return [min(previews, key=nearest[model]) for model, previews in by_model.items() if previews]


def film(axes: list[Axes], preview: Preview, run: Path, captions: bool) -> None:
    """Some frames of the first clips of a preview's grid."""
    with Image.open(run / preview.gif) as gif:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(gif)]
    gap = frames[0].height // 16
    width = (frames[0].width + gap) // len(preview.captions)
    shown = frames[: FRAMES * APART : APART]
    for clip, ax in enumerate(axes):
        strip = Image.new("RGB", (len(shown) * width - gap, shown[0].height), "white")
        for i, frame in enumerate(shown):
            strip.paste(frame.crop((clip * width, 0, (clip + 1) * width - gap, frame.height)), (i * width, 0))
        ax.imshow(strip)
        ax.set_axis_off()
        if captions:
            ax.set_title(f'"{preview.captions[clip]}"', loc="left", fontsize=9)
    label = {"rotation": 90, "va": "center", "ha": "right", "fontsize": 9}
    axes[0].text(-0.03, 0.5, f"{preview.steps} steps", transform=axes[0].transAxes, **label)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/demo_picture.py RUN OUT.png")
    print(picture(RunFolder.read(sys.argv[1]), Path(sys.argv[2])))

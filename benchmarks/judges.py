"""How often the judges of scenes are right on held-out real clips, and on the same clips blurred.

    python benchmarks/judges.py [--clips 200] [--out docs/benchmarks/judges.json]

The handwritten digits of these clips were not trained on. Networks are trained in a folder of their own, and their training
is timed in seconds of the processor; on one thread unless OMP_NUM_THREADS says otherwise. For each size of clips: every
judge's accuracy with its 95% bootstrap interval over clips.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.data.scenes import SceneConfig, Scenes
from nas.files import write_json
from nas.metrics.judges import Judges, load_judges
from nas.metrics.results import JUDGED, TITLES
from nas.metrics.scene_scores import score
from nas.metrics.statistics import Estimate, share

SIZES = ((25, 8.0, 64), (29, 8.0, 32))
"""Frames, frames per second, and side of the clips."""
OBJECTS = (1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--judges", type=Path, help="folder with trained judges; default: train them")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/judges.json"))
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        judges = load_judges(args.judges or Path(folder))
        trained_s = None if args.judges else round(time.process_time() - started, 1)
    rows = []
    for frames, fps, side in SIZES:
        source = Scenes(SceneConfig(objects=OBJECTS), "test", frames, fps, side, side)
        for name, change in (("real", lambda clip: clip), ("blurred", blurred)):
            started = time.process_time()
            measured = judged(source, args.clips, judges, change)
            seconds = (time.process_time() - started) / args.clips
            row = {"frames": frames, "fps": fps, "side": side, "clips": name, "seconds_a_clip": round(seconds, 3)}
            rows.append({**row, "accuracy": {key: asdict(value) for key, value in measured.items()}})
            print(f"{frames} frames of {side}x{side}, {name}, {seconds:.2f} s a clip")
            for key, value in measured.items():
                print(f"  {TITLES[key]:<28} {value.value:.3f}  {value.low:.3f} to {value.high:.3f}  of {value.count}")
    write_json(args.out, {"clips": args.clips, "training_cpu_s": trained_s, "rows": rows})


def judged(source: Scenes, count: int, judges: Judges, change: Callable[[Tensor], Tensor]) -> dict[str, Estimate]:
    """The accuracies on this many scenes."""
    scenes = [source.scene(index) for index in range(count)]
    scores = [score(change(torch.from_numpy(source.paint(scene))).numpy(), scene, judges) for scene in scenes]
    return {name: share([one.right[name] for one in scores], [one.total[name] for one in scores]) for name in JUDGED}


def blurred(clip: Tensor) -> Tensor:
    """Each pixel the mean of 3x3, as a small autoencoder blurs, with noise of one gray level in forty."""
    soft = F.avg_pool2d(clip.transpose(0, 1), 3, 1, 1, count_include_pad=False).transpose(0, 1)
    return soft + 0.05 * torch.randn(soft.shape, generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    main()

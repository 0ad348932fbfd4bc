"""Collects finished runs of the demo into one result file, and prints their tables.

    python benchmarks/demo.py RUN [RUN ...] --out docs/benchmarks/demo.json

Each RUN is a folder `runs/demo` that `make demo` has written on a fresh clone, or `nas run` of configs/demo.yaml with another
`seed`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from summaries import spread

from nas.files import read_json, write_json

QUALITY = ("frechet", "digit_accuracy", "direction_accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs = [summary(read_json(run / "record.json", "record")) for run in args.runs]
    print(quality_table(runs))
    print(seconds_table(runs))
    if args.out:
        write_json(args.out, runs)


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """What a run chose, how good its clips are, and how long each of its steps took."""
    names = ("provenance", "budget", "choices", "predicted", "measured", "quality", "step_seconds")
    return {name: record[name] for name in names}


def quality_table(runs: list[dict[str, Any]]) -> str:
    """For each model and number of denoising steps the mean over the runs, and the lowest and the highest."""
    lines = ["| model | steps | Frechet | class and color | direction |", "| --- | --- | --- | --- | --- |"]
    for model, steps in dict.fromkeys((row["model"], row["steps"]) for row in runs[0]["quality"]):
        rows = [row for run in runs for row in run["quality"] if (row["model"], row["steps"]) == (model, steps)]
        values = {name: [row[name] for row in rows] for name in QUALITY}
        cells = [spread(values["frechet"], 2), *(spread(values[name], 2) for name in QUALITY[1:])]
        lines.append(f"| {model} | {steps or ''} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def seconds_table(runs: list[dict[str, Any]]) -> str:
    """The layers of each run, and the seconds of its steps."""
    steps = list(runs[0]["step_seconds"])
    lines = [f"| layers | {' | '.join(steps)} | all |", "| --- " * (len(steps) + 2) + "|"]
    for run in runs:
        kinds = Counter(kind for kind in run["choices"].values() if kind != "none")
        seconds = [run["step_seconds"][step] for step in steps]
        layers = ", ".join(f"{kind} x{count}" for kind, count in kinds.most_common())
        lines.append(f"| {layers} | {' | '.join(f'{s:.0f}' for s in [*seconds, sum(seconds)])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Progress bars: redrawn in place on a terminal, printed as occasional lines in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

LOG_EVERY_S = 15
"""Seconds between two lines in a log file."""


def progress(
    items: Iterable | None = None,
    title: str = "",
    total: int | None = None,
    done: int = 0,
    unit: str = "step",
    shown: bool = True,
    delay_s: float = 0,
):
    """A tqdm bar over `items`, or one to `update` by hand.

    Args:
        total: number of items, including those `done` in an earlier run.
        shown: False for a bar that prints nothing, such as that of another worker than the first.
        delay_s: nothing is printed of work that is done within this time.
    """
    options: dict[str, Any] = {"mininterval": 1, "maxinterval": 5, "dynamic_ncols": True, "delay": delay_s}
    if not sys.stderr.isatty():
        wording = "{desc}: {n_fmt} of {total_fmt} {unit}s, {rate_fmt}, {remaining} left{postfix}"
        options = {
            "delay": delay_s,
            "mininterval": LOG_EVERY_S,
            "maxinterval": LOG_EVERY_S,
            "bar_format": wording,
            "file": _Log(sys.stderr, started=delay_s > 0),
        }
    return tqdm(items, title, total, initial=done, unit=unit, disable=not shown, **options)


class _Log:
    """A file that writes tqdm's output as lines: one for each count, none before the first progress.

    Args:
        started: tqdm's first output is not that before the first progress, because it is delayed.
    """

    def __init__(self, file: TextIO, started: bool) -> None:
        self.file: TextIO = file
        self.last: str | None = "" if started else None

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        count = line.partition(",")[0]
        if line and count != self.last:
            if self.last is not None:
                self.file.write(line + "\n")
            self.last = count

    def flush(self) -> None:
        self.file.flush()

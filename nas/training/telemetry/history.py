"""`history.csv`: losses and other values of a stage, one row per step, flushed after each step.

`loss_t0` to `loss_t3` are the loss of the clips whose time t is in that quarter of 0..1; NaN if there were none.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from nas.errors import ConfigError
from nas.files import name_in_errors, read_text, write_atomic

HISTORY = "history.csv"
SHARE = ":share"


class History:
    """Appends to the history of a stage.

    Args:
        steps_done: the step of the saved state; later rows are dropped, since those steps are repeated.
        name: of the file.
    """

    def __init__(self, folder: Path, steps_done: int, name: str = HISTORY) -> None:
        self.path = folder / name
        rows = [row for row in read_history(folder, name) if row["step"] <= steps_done]
        self._columns = list(rows[0]) if rows else None
        text = io.StringIO()
        if rows:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(self._columns)
            writer.writerows([_cell(row[name]) for name in self._columns] for row in rows)
        write_atomic(self.path, text.getvalue())
        self._file = self.path.open("a")

    def append(self, step: int, losses: Mapping[str, float]) -> None:
        """Write the row of a step."""
        if self._columns is None:
            self._columns = ["step", *losses]
            self._file.write(",".join(self._columns) + "\n")
        values = {"step": step, **losses}
        with name_in_errors(self.path):
            self._file.write(",".join(_cell(values[name]) for name in self._columns) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_history(folder: str | Path, name: str = HISTORY) -> list[dict[str, float]]:
    """The rows of a stage's history; an incomplete last line is left out.

    Raises:
        ConfigError: the file is damaged; the message names the line.
    """
    path = Path(folder) / name
    if not path.exists():
        return []
    lines = read_text(path, "history").split("\n")[:-1]
    columns, rows = lines[0].split(",") if lines else [], []
    for number, line in enumerate(lines[1:], 2):
        try:
            row = dict(zip(columns, map(_number, line.split(",")), strict=True))
            rows.append({**row, "step": int(row["step"])})
        except (ValueError, KeyError, OverflowError):
            raise ConfigError(f"{path}:{number}: not a valid row; remove this line and those below it") from None
    return rows


def by_share(row: Mapping[str, float]) -> dict[str, float]:
    """A row in which values that are a mean over a share of the clips are divided by it.

    A value `NAME` is, if there is also `NAME:share`, which is left out.
    """
    return {
        name: (value / row[name + SHARE] if row[name + SHARE] else math.nan) if name + SHARE in row else value
        for name, value in row.items()
        if not name.endswith(SHARE)
    }


def _number(cell: str) -> float:
    value = float(cell)
    return math.nan if math.isnan(value) else value  # the same object, so that rows read twice are equal


def _cell(value: float) -> str:
    return repr(value) if isinstance(value, int) else f"{value:.6g}"

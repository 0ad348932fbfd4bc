"""`history.csv`: losses and other values of a stage, one row per step, flushed after each step."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from nas.errors import ConfigError
from nas.files import name_in_errors, read_text, write_atomic

HISTORY = "history.csv"


class History:
    """Appends to the history of a stage.

    Args:
        steps_done: the step of the saved state; later rows are dropped, since those steps are repeated.
    """

    def __init__(self, folder: Path, steps_done: int) -> None:
        self.path = folder / HISTORY
        rows = [row for row in read_history(folder) if row["step"] <= steps_done]
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


def read_history(folder: str | Path) -> list[dict[str, float]]:
    """The rows of a stage's history; an incomplete last line is left out.

    Raises:
        ConfigError: the file is damaged; the message names the line.
    """
    path = Path(folder) / HISTORY
    if not path.exists():
        return []
    lines = read_text(path, "history").split("\n")[:-1]
    columns, rows = lines[0].split(",") if lines else [], []
    for number, line in enumerate(lines[1:], 2):
        try:
            row = dict(zip(columns, map(float, line.split(",")), strict=True))
            rows.append({**row, "step": int(row["step"])})
        except (ValueError, KeyError, OverflowError):
            raise ConfigError(f"{path}:{number}: not a valid row; remove this line and those below it") from None
    return rows


def _cell(value: float) -> str:
    return repr(value) if isinstance(value, int) else f"{value:.6g}"

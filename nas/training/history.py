"""`history.csv`: what each step of a stage gave, a row a step, on disk as soon as the step is done."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from nas.errors import ConfigError
from nas.files import naming, read_text, write_atomic

HISTORY = "history.csv"


class History:
    """The file while it is written.

    Args:
        steps_done: rows beyond this step are dropped: it is taken again.
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
        write_atomic(self.path, text.getvalue())  # steps beyond the saved state are taken again: drop their rows
        self._file = self.path.open("a")

    def append(self, step: int, losses: Mapping[str, float]) -> None:
        if self._columns is None:
            self._columns = ["step", *losses]
            self._file.write(",".join(self._columns) + "\n")
        values = {"step": step, **losses}
        with naming(self.path):
            self._file.write(",".join(_cell(values[name]) for name in self._columns) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_history(folder: str | Path) -> list[dict[str, float]]:
    """The rows of a stage's history; a torn last line is left out.

    Raises:
        ConfigError: it is damaged; the text names the line.
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
            raise ConfigError(f"{path}:{number}: no row of a history; remove this line and those below it") from None
    return rows


def _cell(value: float) -> str:
    return repr(value) if isinstance(value, int) else f"{value:.6g}"

"""Damaged tables, tables of other versions, full and read-only disks: one-line errors, and no row is lost."""

import contextlib
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import nas
from nas.cli import main
from nas.costs import CostModel, LookupTable, Row, TableWriter
from nas.errors import BudgetError, NasError, TableError

MID = Path(__file__).parent / "tables" / "mid.csv"
META = {"device": "here", "runtime": "eager", "dtype": "float32", "threads": 2}


def edited(tmp_path: Path, line: int, column: str, value: str) -> Path:
    """The measured table with one cell changed, as in an editor."""
    frame = pd.read_csv(MID, dtype=str, keep_default_na=False)
    frame.loc[line - 2, column] = value
    path = tmp_path / "edited.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("latency_ms", "12,5", "latency_ms is '12,5', not a number"),
        ("latency_ms", "", "latency_ms is nan, must be a number of 0 or more"),
        ("latency_ms", "inf", "latency_ms is inf, must be a number of 0 or more"),
        ("memory_mb", "-1", "memory_mb is -1.0, must be a number of 0 or more"),
        ("memory_mb", "a lot", "memory_mb is 'a lot', not a number"),
        ("params", "1.5", "params is 1.5, must be a whole number"),
        ("params", "28K", "params is '28K', not a number"),
        ("count", "", "count is nan, must be a whole number"),
        ("status", "OK", "status 'OK' is none of ok, infeasible"),
        ("source", "", "source '' is none of measured, estimated, interpolated"),
        ("workload", " ", "workload is empty"),
        ("workload", "Conv1D[kernel=3] 1x192x8x8x8 float32", "has two rows; keep one"),
    ],
)
def test_a_cell_edited_by_hand_is_named_by_line_and_column(column, value, message, tmp_path):
    path = edited(tmp_path, 7, column, value)
    with pytest.raises(TableError) as caught:
        LookupTable.load(path)
    assert (
        str(caught.value).startswith(f"{path}:7: ") and message in str(caught.value) and "\n" not in str(caught.value)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("latency_ms", "latency"), r"column 'latency_ms' is missing"),
        (lambda text: text.replace("load_ms", "loading_ms"), r"unknown column 'loading_ms'; did you mean 'load_ms'"),
        (lambda text: text.replace("load_ms", "variant", 1), r"t\.csv: column 'variant' is given twice"),
        (
            lambda text: text.replace('float32"', 'float32""', 1),
            r"t\.csv:4: a quoted cell does not end on its line",
        ),
        (lambda text: text.replace(",ok,", ",ok,,", 1), r"t\.csv:2: .*15 cells for 14 columns"),
        (lambda text: "\x00" + text, r"t\.csv"),
        (lambda text: "", r"empty; a lookup table starts with"),
    ],
)
def test_a_file_of_another_kind_is_one_line(change, message, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(change(MID.read_text()))
    with pytest.raises(NasError, match=message) as caught:
        LookupTable.load(path)
    assert "\n" not in str(caught.value)


def test_what_a_spreadsheet_does_to_a_file_is_harmless(tmp_path):
    """Line ends of Windows, a byte-order mark, empty lines; the rows are the same."""
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + MID.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert list(LookupTable.load(path).rows()) == list(LookupTable.load(MID).rows())


def test_rows_of_another_version_are_not_appended_to(tmp_path):
    """A header with fewer columns: rows of this version would not fit under it."""
    path = tmp_path / "t.csv"
    path.write_text("workload,latency_ms,memory_mb,weights_mb,params,source\na,1,1,1,1,measured\n")
    before = path.read_bytes()
    assert LookupTable.load(path).rows()["a"].latency_ms == 1  # it can be read
    with pytest.raises(TableError, match=r"t\.csv:1: has other columns than this version writes"):
        TableWriter(path, {})
    assert path.read_bytes() == before


def test_a_reason_of_several_lines_stays_on_its_own(tmp_path):
    path = tmp_path / "t.csv"
    writer = TableWriter(path, META)
    writer.append(dataclasses.replace(Row("a", np.inf, 1, 1, 1), status="infeasible", reason="killed\nby the system"))
    writer.append(Row("b", 1, 1, 1, 1))
    assert len(path.read_text().splitlines()) == 3
    assert LookupTable.load(path).rows()["a"].reason == "killed by the system"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_no_space_left_on_the_device(tmp_path):
    path = tmp_path / "t.csv"
    writer = TableWriter(path, META)
    writer.append(Row("a", 1, 1, 1, 1))
    kept = path.rename(tmp_path / "kept.csv")
    path.symlink_to("/dev/full")
    with pytest.raises(TableError, match=r"cannot write row 'b': No space left on device.*1 finished rows are kept"):
        writer.append(Row("b", 1, 1, 1, 1))
    assert set(LookupTable.load(kept).rows()) == {"a"}


def without_rights(*actions: Callable[[], object]) -> list[str]:
    """What each action raises in a copy of this process that belongs to nobody; "done" where it raises nothing."""
    read, write = os.pipe()
    if not os.fork():
        with contextlib.suppress(PermissionError):
            os.setuid(65534)
        said = []
        for action in actions:
            try:
                action()
                said.append("done")
            except BaseException as error:
                said.append(f"{type(error).__name__}: {error}")
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.wait()
    os.close(write)
    with os.fdopen(read) as answer:
        return json.loads(answer.read())


@pytest.mark.skipif(sys.platform != "linux", reason="forks and gives up its rights as Linux does")
def test_a_file_that_may_not_be_written(tmp_path):
    path = tmp_path / "t.csv"
    TableWriter(path, META).append(Row("a", 1, 1, 1, 1))
    for folder in takewhile(lambda folder: folder != Path(tempfile.gettempdir()), [tmp_path, *tmp_path.parents]):
        folder.chmod(0o755)
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    finished, append, create, save = without_rights(
        lambda: TableWriter(path, META),
        lambda: TableWriter(path, META).append(Row("b", 1, 1, 1, 1)),
        lambda: TableWriter(tmp_path / "new.csv", META),
        lambda: LookupTable.load(path).save(path),
    )
    tmp_path.chmod(0o755)
    assert finished == "done"  # nothing is to be written to a table that is complete
    assert append.startswith(f"TableError: {path}: cannot write row 'b': Permission denied")
    assert create.startswith(f"TableError: {tmp_path / 'new.csv'}: cannot be written: Permission denied")
    assert save.startswith(f"TableError: {path}: cannot be written: Permission denied")
    assert set(LookupTable.load(path).rows()) == {"a"} and sorted(os.listdir(tmp_path)) == ["t.csv", "t.meta.json"]


# -- a device that does not tell how much memory a workload takes ------------------------------------------------------


@pytest.fixture
def unknown(tmp_path) -> tuple[nas.SearchSpace, Path, str]:
    """The measured table without one row's memory, read back from a file."""
    space = nas.SearchSpace.load("mid")
    key = str(space.workload("mid.0/0", "Conv3D"))
    lines = MID.read_text().splitlines()
    line = next(i for i, text in enumerate(lines, 1) if key in text)
    path = edited(tmp_path, line, "memory_mb", "")
    path.with_suffix(".meta.json").write_bytes(MID.with_suffix(".meta.json").read_bytes())
    return space, path, key


def test_unknown_memory_is_an_empty_cell_that_survives(unknown, tmp_path):
    _, path, key = unknown
    table = LookupTable.load(path)
    assert np.isnan(table.rows()[key].memory_mb)
    assert np.isnan(LookupTable.load(table.save(tmp_path / "copy.csv")).rows()[key].memory_mb)
    writer = TableWriter(tmp_path / "new.csv", META)
    writer.append(table.rows()[key])
    assert np.isnan(LookupTable.load(tmp_path / "new.csv").rows()[key].memory_mb)


def test_only_what_asks_for_memory_misses_it(unknown):
    space, path, key = unknown
    cost = CostModel(space, LookupTable.load(path))
    with_it, without = space.architecture({"mid.0/0": "Conv3D"}), space.architecture({"mid.0/0": "Conv1D"})
    assert np.isnan(cost.predict(with_it).memory_mb) and cost.predict(with_it).latency_ms > 0
    assert cost.predict(without).memory_mb > 0
    frame = cost.predict_many([space.encode(with_it), space.encode(without)])
    assert frame["memory_mb"].isna().tolist() == [True, False]
    scores = {"mid.0/0": {"Conv3D": 1.0}}
    best = nas.search.optimum(space, cost, scores, nas.Budget(latency_ms=1e6))
    assert best.architecture.choices["mid.0/0"] == "Conv3D"
    for ask in (
        lambda: nas.search.optimum(space, cost, scores, nas.Budget(memory_mb=1e6)),
        lambda: nas.search.pareto(space, cost, scores, "memory"),
        cost.check_memory,
    ):
        with pytest.raises(TableError) as caught:
            ask()
        assert f"row '{key}': memory_mb is unknown" in str(caught.value)
    with pytest.raises(BudgetError, match="memory in % needs"):
        nas.Budget.parse("memory<=50%", cost.upper_bounds())
    with pytest.raises(BudgetError, match="memory_mb is bounded but not known"):
        nas.Budget(memory_mb=1e6).mask(frame)


def test_the_command_line_says_unknown(unknown, tmp_path, capsys):
    space, path, _ = unknown
    arch = space.architecture({"mid.0/0": "Conv3D"}).save(tmp_path / "a.json")
    assert main(["cost", "--space", "mid", "--table", str(path), "--arch", str(arch)]) == 0
    assert "memory        unknown" in capsys.readouterr().out

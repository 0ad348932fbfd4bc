"""Lookup tables: no finished row is lost, and malformed tables are rejected."""

import dataclasses
import math
import os
import signal
import subprocess
import sys

import pandas as pd
import pytest

from nas.costs import Calibration, LookupTable, Row, TableWriter
from nas.costs.provenance import calibration_path
from nas.errors import ConfigError, TableError

META = {"device": "here", "runtime": "eager", "dtype": "float32", "threads": 2}


def row(name: str, **changes) -> Row:
    return dataclasses.replace(Row(name, 1.5, 2.0, 3.0, 750_000, 1.4, 1.7, 0.01, 40, 3.0, "plain"), **changes)


def test_rows_come_back_as_written(tmp_path):
    path = tmp_path / "t.csv"
    awkward = row('odd, "quoted" name', latency_ms=math.inf, status="infeasible", reason="out of memory, at 3 GB")
    writer = TableWriter(path, META)
    writer.append(row("a"))
    writer.append(awkward)
    table = LookupTable.load(path)
    assert table.rows() == {"a": row("a"), awkward.workload: awkward}
    assert table.meta == META


def test_torn_last_line_is_dropped_and_written_again(tmp_path):
    path = tmp_path / "t.csv"
    writer = TableWriter(path, META)
    writer.append(row("a"))
    whole = path.read_bytes()
    writer.append(row("b"))
    for cut in range(len(whole), path.stat().st_size):
        torn = tmp_path / "torn.csv"
        torn.write_bytes(path.read_bytes()[:cut])
        (tmp_path / "torn.meta.json").write_bytes((tmp_path / "t.meta.json").read_bytes())
        assert set(LookupTable.load(torn).rows()) == {"a"}
        again = TableWriter(torn, META)
        assert again.done == {"a"}
        again.append(row("b"))
        assert torn.read_bytes() == path.read_bytes()


def test_a_table_with_the_old_column_name_is_read_and_resumed(tmp_path):
    """The column `variant` was called `form`."""
    path = tmp_path / "t.csv"
    writer = TableWriter(path, META)
    writer.append(row("a"))
    new = path.read_bytes()
    old = new.replace(b",variant,", b",form,", 1)
    for content in (old, old + b"torn,1.5,2."):
        path.write_bytes(content)
        assert LookupTable.load(path).rows() == {"a": row("a")}
        again = TableWriter(path, META)
        assert again.done == {"a"} and path.read_bytes() == new
    frame = LookupTable.load(path).frame
    assert LookupTable.from_frame(frame.rename(columns={"variant": "form"})).rows() == {"a": row("a")}


def test_kill_9_loses_no_finished_row(tmp_path):
    path = tmp_path / "t.csv"
    code = (
        "import sys; from nas.costs import Row, TableWriter\n"
        f"w = TableWriter({str(path)!r}, {META!r})\n"
        "for i in range(10**6): w.append(Row(f'w{i}', 1, 1, 1, 1)); print(i, flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if int(line) >= 20:
            os.kill(child.pid, signal.SIGKILL)
            break
    child.wait()
    assert {f"w{i}" for i in range(21)} <= TableWriter(path, META).done


def test_a_full_disk_is_one_line_and_keeps_the_rows(tmp_path):
    path = tmp_path / "t.csv"
    code = (  # the kernel refuses to let the file grow past 400 bytes, as a full disk does
        "import resource, signal, sys; from nas.costs import Row, TableWriter; from nas.errors import TableError\n"
        f"w = TableWriter({str(path)!r}, {META!r}); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))\n"
        "try:\n"
        "    for i in range(99): w.append(Row(f'w{i}', 1, 1, 1, 1))\n"
        "except TableError as error: print(len(w.done), error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, message = done.stdout.split(" ", 1)
    assert "cannot write row" in message and "run again" in message and message.count("\n") == 1
    assert int(count) >= 2 and len(TableWriter(path, META).done) == int(count)


def test_another_device_is_refused(tmp_path):
    TableWriter(tmp_path / "t.csv", META).append(row("a"))
    with pytest.raises(TableError, match="profiled with threads=2, now it is threads=1; give another"):
        TableWriter(tmp_path / "t.csv", {**META, "threads": 1})
    with pytest.raises(TableError, match="profiled with no precision, now it is precision='int8'"):
        TableWriter(tmp_path / "t.csv", {**META, "precision": "int8"})


def test_unstated_source_never_counts_as_measured():
    table = LookupTable.from_frame(
        pd.DataFrame({"workload": ["a"], "latency_ms": 1.0, "memory_mb": 1.0, "weights_mb": 1.0, "params": 1})
    )
    assert table.rows()["a"].source == "estimated"


def test_metadata_that_is_no_object_is_refused(tmp_path):
    TableWriter(tmp_path / "t.csv", META).append(row("a"))
    (tmp_path / "t.meta.json").write_text("[]")
    with pytest.raises(TableError, match="expected an object"):
        TableWriter(tmp_path / "t.csv", META)


def test_calibration_travels_with_the_table(tmp_path):
    table = LookupTable.from_frame(pd.DataFrame([dataclasses.asdict(row("a"))]), META)
    table.calibration = Calibration(0.96, 0.4)
    table.save(tmp_path / "t.csv")
    assert LookupTable.load(tmp_path / "t.csv").calibration == Calibration(0.96, 0.4)
    calibration_path(tmp_path / "t.csv").write_text('{"scale": "x"}')
    with pytest.raises(TableError, match="scale"):
        LookupTable.load(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("workload,latency_ms\na,1\n", "column 'memory_mb' is missing"),
        ("workload,latency_ms,memory_mb,weights_mb,params,colour\na,1,1,1,1,red\n", "unknown column 'colour'"),
        (
            "workload,latency_ms,memory_mb,weights_mb,params\na,fast,1,1,1\n",
            "t.csv:2: latency_ms is 'fast', not a number",
        ),
        ("workload,latency_ms,memory_mb,weights_mb,params\na,-1,1,1,1\n", "latency_ms is -1"),
        ("workload,latency_ms,memory_mb,weights_mb,params\na,1,1,1,1\na,2,1,1,1\n", "two rows"),
        ("workload,latency_ms,memory_mb,weights_mb,params,source\na,1,1,1,1,guessed\n", "guessed"),
    ],
)
def test_malformed_tables(content, message, tmp_path):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(TableError, match=message):
        LookupTable.load(tmp_path / "t.csv")


def test_missing_file_names_itself(tmp_path):
    with pytest.raises(ConfigError, match="no such lookup table file"):
        LookupTable.load(tmp_path / "none.csv")

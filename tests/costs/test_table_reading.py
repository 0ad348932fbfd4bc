"""Reading tables saved by spreadsheets and Windows, damaged tables, and the files beside a table."""

import json

import numpy as np
import pandas as pd
import pytest

from nas.costs import Budget, Calibration, CostModel, LookupTable, Row, TableWriter
from nas.costs.provenance import calibration_path, meta_path
from nas.errors import NasError, TableError
from nas.search.evaluators import ScoreTable
from nas.spaces import SearchSpace

META = {"runtime": "roofline", "device": "phone", "dtype": "float32"}
ROWS = "workload,latency_ms,memory_mb,weights_mb,params,source\ns/a,1.5,2,3,4,measured\ns/b,2.5,2,3,4,measured\n"
SPACE = SearchSpace("small", {"s": ["a", "b"]})


def table(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(action):
    with pytest.raises(NasError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


# -- lookup tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        ROWS.replace(",", ";"),
        ROWS.replace(",", ";").replace("1.5", "1,5").replace("2.5", "2,5"),
        ROWS.replace(",", "\t").replace("1.5", "1,5"),
        "sep=;\n" + ROWS.replace(",", ";"),
        ROWS.replace("\n", "\r\n").encode("utf-8-sig"),
        ROWS.replace(",", "\t").encode("utf-16"),
        ROWS.replace("\n", ",,\n") + ",,,,,,,\n",
        ROWS.replace(",", ", "),
        ROWS.rstrip("\n"),
        '"workload","latency_ms","memory_mb","weights_mb","params","source"\n' + ROWS.partition("\n")[2],
    ],
    ids=["semicolon", "comma", "tab", "sep", "windows", "utf16", "empty cells", "blanks", "no line end", "quotes"],
)
def test_a_table_is_read_as_a_spreadsheet_leaves_it(content, tmp_path):
    rows = LookupTable.load(table(tmp_path, content)).rows()
    assert [(key, row.latency_ms) for key, row in rows.items()] == [("s/a", 1.5), ("s/b", 2.5)]
    assert {row.source.strip() for row in rows.values()} == {"measured"}


def test_a_table_that_a_spreadsheet_saved_is_resumed(tmp_path):
    path = tmp_path / "t.csv"
    TableWriter(path, META).append(Row("s/a", 1, 1, 1, 1))
    path.write_bytes(path.read_text().replace(",", ";").replace("\n", "\r\n").encode("utf-16"))
    again = TableWriter(path, META)
    assert again.done == {"s/a"}
    again.append(Row("s/b", 1, 1, 1, 1))
    assert set(LookupTable.load(path).rows()) == {"s/a", "s/b"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("1.5", '"1,5"', "t.csv:2: latency_ms is '1,5', not a number; write a decimal point"),
        ("1.5", "1.500.000", "not a number"),
        ("1.5", "1e999", "latency_ms is inf, must be a number of 0 or more"),
        ("1.5", "1e300", "latency_ms is 1e+300, must be"),
        ("1.5", "-1", "latency_ms is -1.0, must be"),
        ("1.5", "nan", "latency_ms is nan, must be"),
        ("1.5", "", "latency_ms is nan, must be"),
        ("1.5", "9" * 5000, "t.csv:2: "),
        ("1.5", "x" * 200_000, "t.csv:2: cannot be read: field larger than field limit"),
        ("s/a", "x" * 100_000, "up to"),
        ("s/b", "s/a", "workload 's/a' has two rows; keep one"),
        ("s/a", '"s/a', "t.csv:2: a quoted cell does not end on its line; close the quote"),
        ("4,measured\ns/b", "1e300,measured\ns/b", "params is 1e+300, must be"),
        ("4,measured\ns/b", "1.5,measured\ns/b", "params is 1.5, must be a whole number"),
        ("4,measured\ns/b", "-4,measured\ns/b", "params is -4.0"),
        ("4,measured\ns/b", "True,measured\ns/b", "params is 'True', not a number"),
        ("measured\ns/b", "guessed\ns/b", "source 'guessed' is none of measured, estimated, interpolated"),
        ("1.5,2,", "1.5,-2,", "memory_mb is -2.0"),
        ("1.5,2,3", "1.5,2,inf", "weights_mb is inf"),
        ("source\n", "latency_ci_ms\n", "latency_ci_ms is 'measured', not a number"),
    ],
)
def test_a_damaged_table_is_one_line(old, new, says, tmp_path):
    content = ROWS.replace(old, new, 1)
    if len(new) == 100_000:
        content = content.replace("1.5", "-1")
    assert says in refused(lambda: LookupTable.load(table(tmp_path, content)))


def test_numbers_beside_the_latency_are_finite_or_unknown_too(tmp_path):
    for column, value in (("latency_ci_ms", -1.0), ("load_ms", np.inf), ("latency_p90_ms", np.inf), ("count", -1)):
        frame = pd.DataFrame([{**vars(Row("s/a", 1, 1, 1, 1)), column: value}])
        assert column in refused(lambda frame=frame: LookupTable.from_frame(frame))
    frame = pd.DataFrame([vars(Row("s/a", np.inf, -5.0, 1, 1, status="infeasible"))])
    assert "memory_mb" in refused(lambda: LookupTable.from_frame(frame))
    frame = pd.DataFrame([vars(Row("s/a", np.inf, np.nan, np.nan, 1, status="infeasible", reason="a\nb"))])
    assert LookupTable.from_frame(frame).rows()["s/a"].reason == "a b"
    for name in (None, 3, ["x"], "a\0b"):
        frame = pd.DataFrame(
            {"workload": [name], **{c: [1] for c in ("latency_ms", "memory_mb", "weights_mb", "params")}}
        )
        assert "workload is" in refused(lambda frame=frame: LookupTable.from_frame(frame))
    frame["workload"], frame["params"] = "a", pd.Series([10**400], dtype=object)
    assert "params is inf" in refused(lambda: LookupTable.from_frame(frame))
    frame = pd.DataFrame([vars(Row("s/a", True, 1, 1, 1))])
    assert "latency_ms is True, not a number" in refused(lambda: LookupTable.from_frame(frame))


# -- side files --------------------------------------------------------------------------------------------------------


def test_side_files_carry_the_whole_name(tmp_path):
    for name in ("pixel.v1", "pixel.v2", "pixel.csv"):
        TableWriter(tmp_path / name, {**META, "chip": name}).append(Row("s/a", 1, 1, 1, 1))
    for name in ("pixel.v1", "pixel.v2", "pixel.csv"):
        assert LookupTable.load(tmp_path / name).meta["chip"] == name
    assert calibration_path("a/t.csv").name == "t.calibration.json" and meta_path("a/t.csv").name == "t.meta.json"
    assert calibration_path("a/pixel.v1").name == "pixel.v1.calibration.json"


@pytest.mark.parametrize(("first", "second"), [("pixel.csv", "pixel"), ("pixel", "pixel.csv")])
def test_two_tables_do_not_share_a_side_file(first, second, tmp_path):
    TableWriter(tmp_path / first, META).append(Row("s/a", 1, 1, 1, 1))
    assert f"{first} beside it has the same" in refused(lambda: TableWriter(tmp_path / second, META))
    assert f"{first} beside it has the same" in refused(
        lambda: LookupTable.load(tmp_path / first).save(tmp_path / second)
    )


def test_a_side_file_of_an_earlier_version_is_used_where_it_can_belong_to_one_table(tmp_path):
    (tmp_path / "pixel.v1").write_text(ROWS)
    (tmp_path / "pixel.meta.json").write_text(json.dumps({**META, "chip": "old"}))
    (tmp_path / "pixel.calibration.json").write_text('{"scale": 2.0, "offset_ms": 1.0}')
    found = LookupTable.load(tmp_path / "pixel.v1")
    assert found.meta["chip"] == "old" and found.calibration == Calibration(2.0, 1.0)
    (tmp_path / "pixel.v2").write_text(ROWS)
    says = refused(lambda: LookupTable.load(tmp_path / "pixel.v1"))
    assert "rename it to pixel.v1.meta.json, or to pixel.v2.meta.json" in says
    (tmp_path / "pixel.meta.json").rename(tmp_path / "pixel.v1.meta.json")
    (tmp_path / "pixel.calibration.json").rename(tmp_path / "pixel.v1.calibration.json")
    assert LookupTable.load(tmp_path / "pixel.v1").meta["chip"] == "old"
    assert LookupTable.load(tmp_path / "pixel.v2").meta == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"scale": NaN, "offset_ms": 0}', "scale: must be a finite number"),
        ('{"scale": -5, "offset_ms": 0}', "scale: must be above 0"),
        ('{"scale": 0, "offset_ms": 0}', "scale: must be above 0"),
        ('{"scale": 1e300, "offset_ms": 0}', "scale: must be above 0 and at most"),
        ('{"scale": 1, "offset_ms": Infinity}', "offset_ms: must be a finite number"),
        ('{"scale": true, "offset_ms": 0}', "scale: expected float, found True"),
        ('{"scale": "x", "offset_ms": 0}', "scale: expected float, found 'x'"),
        ('{"scale": 1}', "needs the numbers 'scale' and 'offset_ms'"),
        ('{"scale": 1, "scale": 2, "offset_ms": 0}', "'scale' is given twice"),
        ("null", "expected an object"),
        ("[[" * 5000, "nested more than 64 deep"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(text, says, tmp_path):
    path = table(tmp_path, ROWS)
    (tmp_path / "t.calibration.json").write_text(text)
    assert says in refused(lambda: LookupTable.load(path))


def test_a_calibration_that_makes_latencies_negative_is_refused(tmp_path):
    path = table(tmp_path, ROWS)
    (tmp_path / "t.calibration.json").write_text('{"scale": 1, "offset_ms": -5}')
    assert "makes latencies negative, down to -3.5 ms" in refused(lambda: CostModel(SPACE, LookupTable.load(path)))
    assert "scale: must be a finite" in refused(lambda: Calibration(float("nan")))


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ([], "expected an object"),
        ({"device": 3}, "device: expected str, found 3"),
        ({"runtime": None, "dtype": ["float32"]}, "dtype: expected str, found a list"),
        ({"continued": None}, "continued: expected a list"),
        ({"continued": [3]}, "continued[0]: expected a mapping, found 3"),
        ({"repeated": "often"}, "repeated: expected float, found 'often'"),
        ({"repeated": float("nan")}, "repeated: must be a finite number"),
    ],
)
def test_metadata_of_another_kind_is_one_line(meta, says, tmp_path):
    path = table(tmp_path, ROWS)
    (tmp_path / "t.meta.json").write_text(json.dumps(meta))
    assert f"t.meta.json: {says}" in refused(lambda: LookupTable.load(path))


# -- score tables, budgets, ways of generating -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "slot,choice,score\ns,a,0.5\ns,b,-1\n",
        "slot;choice;score\r\ns;a;0,5\r\ns;b;-1\r\n;;\r\n",
        "score\tslot\tchoice\tnote\n0,5\ts\ta\tx\n-1\ts\tb\t\n".encode("utf-16"),
        "slot,choice,score\ns,a,0.5\ns,b,-1".encode("utf-8-sig"),
    ],
)
def test_a_score_table_is_read_as_a_spreadsheet_leaves_it(content, tmp_path):
    assert ScoreTable.load(table(tmp_path, content)).scores == {"s": {"a": 0.5, "b": -1.0}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("slot,choice,score\ns,a,1\ns,a,2\n", "t.csv:3: 'a' of slot 's' has two rows; keep one"),
        ("slot,choice,score\ns,a,nan\n", "t.csv:2: score: expected a number, found 'nan'"),
        ("slot,choice,score\ns,a,1e300\n", "expected a number"),
        ("slot,choice,score\ns,a,\n", "expected a number, found ''"),
        ("slot,choice,score\ns,a\n", "t.csv:2: not a score table: 2 cells for 3 columns"),
        ("slot,choice\ns,a\n", "column 'score' is missing; a score table needs slot, choice, score"),
        ("slot,choice,score,score\ns,a,1,2\n", "each column once"),
        ('slot,choice,score\ns,"a,1\ns,b,2\n', "t.csv:2: a quoted cell does not end on its line"),
        (f"slot,choice,score\ns,{'x' * 200_000},1\n", "field larger than field limit"),
        ("", "empty; a score table starts with"),
    ],
)
def test_a_score_table_that_cannot_be_meant_is_one_line(content, says, tmp_path):
    assert says in refused(lambda: ScoreTable.load(table(tmp_path, content)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"scores": {"s": {"a": 1, "a": 2}}}', "'a' is given twice"),
        ('{"scores": {"s": {"a": true}}}', "scores.s.a: expected a number, found True"),
        ('{"scores": {"s": {"a": NaN}}}', "scores.s.a: expected a number, found nan"),
        ('{"scores": {"s": [1]}}', "scores.s: expected {choice: score}, found a list of 1 values"),
        ('{"scores": {}, "pairs": null}', "pairs: expected a list, found None"),
        (
            '{"scores": {}, "pairs": [{"slots": ["a"], "choices": ["x", "y"], "score": 1}]}',
            "pairs[0].slots: expected 2",
        ),
        ('{"scores": {}, "pairs": [{"slots": [["a"], "b"], "choices": ["x", "y"], "score": 1}]}', "expected str"),
        ("[]", "expected an object"),
    ],
)
def test_scores_in_json_that_cannot_be_meant_are_one_line(text, says, tmp_path):
    (tmp_path / "s.json").write_text(text)
    assert says in refused(lambda: ScoreTable.load(tmp_path / "s.json"))


def test_a_pair_is_scored_once(tmp_path):
    pair = {"slots": ["a", "b"], "choices": ["x", "y"], "score": 1}
    turned = {"slots": ["b", "a"], "choices": ["y", "x"], "score": 2}
    (tmp_path / "s.json").write_text(json.dumps({"scores": {}, "pairs": [pair, turned]}))
    assert "pairs[1]: these two choices have a score already" in refused(lambda: ScoreTable.load(tmp_path / "s.json"))


@pytest.mark.parametrize(
    "text",
    ["latency<=1e999ms", "latency<=" + "9" * 5000 + "ms", "latency<=1__0ms", "params<=1e300", "latency<=1e-999ms"],
)
def test_a_budget_is_finite(text):
    assert "budget: " in refused(lambda: Budget.parse(text))


@pytest.mark.parametrize("bound", [float("nan"), float("inf"), -1.0, 0.0, True, "80", [1]])
def test_a_budget_made_in_python_is_a_number(bound):
    assert "budget: latency_ms" in refused(lambda: Budget(latency_ms=bound))


@pytest.mark.parametrize("steps", [0, -1, 10**9, float("nan")])
def test_steps_are_in_range(steps, tmp_path):
    path = table(tmp_path, ROWS)
    assert "steps: must be" in refused(lambda: CostModel(SPACE, LookupTable.load(path), steps=steps))


def test_a_table_of_another_figure_is_not_resumed(tmp_path):
    TableWriter(tmp_path / "t.csv", {**META, "figures": {"peak": 1}})
    TableWriter(tmp_path / "t.csv", {**META, "figures": {"peak": 1}}).append(Row("s/a", 1, 1, 1, 1))
    with pytest.raises(TableError, match="was profiled with figures="):
        TableWriter(tmp_path / "t.csv", {**META, "figures": {"peak": 2}})

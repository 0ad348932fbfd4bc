"""Reading YAML and JSON into data classes: hand-edited, invalid and hostile files."""

import json
import os
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from nas.config import AtLeast0, AtLeast1, NotNegative, Positive, build, load, load_json, renamed
from nas.errors import ConfigError
from nas.files import parse_json, read_json, read_text
from nas.ranges import Range
from nas.runs.job_config import JobConfig


@dataclass(frozen=True)
class Inner:
    width: AtLeast1 = 8
    levels: tuple[AtLeast0, ...] = ()


@dataclass(frozen=True)
class Outer:
    name: str = ""
    steps: AtLeast1 = 1
    rate: Positive = 1e-3
    noise: float = 0.0
    weight: NotNegative | None = None
    memory: Annotated[float, Range(0, unknown=True)] = 0.0
    kind: Literal["euler", "renoise"] = "euler"
    window: int | str = 1
    pair: tuple[int, int] = (0, 1)
    inner: Inner = field(default_factory=Inner)
    shares: dict[str, Annotated[float, Range(0, 1)]] = field(default_factory=dict)
    anything: Any = None


@dataclass(frozen=True)
class Renamed:
    caption_dropout: Annotated[float, Range(0, 1)] = renamed("drop", default=0.1)


def from_yaml(tmp_path, content):
    path = tmp_path / "a.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load(Outer, path, "test")


def refused(action):
    with pytest.raises(ConfigError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_file_is_read_as_editors_and_windows_leave_it(encoding, end, tmp_path):
    text = "name: Zoë\nsteps: 3\nrate: 1e-4\n".replace("\n", end)
    assert from_yaml(tmp_path, text.encode(encoding)) == Outer("Zoë", 3, 1e-4)
    (tmp_path / "a.json").write_bytes(f'{{{end}"name": "Zoë",{end}"steps": 3}}'.encode(encoding))
    assert load_json(Outer, tmp_path / "a.json", "test") == Outer("Zoë", 3)


def test_anchors_and_merge_keys_are_followed(tmp_path):
    text = """
anything:
  - &small {width: 4, levels: [1]}
  - &wide {width: 16}
inner:
  <<: [*wide, *small]
  levels: [2, 3]
"""
    assert from_yaml(tmp_path, text).inner == Inner(16, (2, 3))
    with pytest.raises(ConfigError, match=r"a\.yaml:2: unknown key 'inner\.widht'; did you mean 'width'"):
        from_yaml(tmp_path, "\nanything: &a {widht: 4}\ninner: {<<: *a}\n")


def test_the_old_name_of_a_key_is_read():
    assert build(Renamed, {"drop": 0.5}, "a.yaml") == build(Renamed, {"caption_dropout": 0.5}, "a.yaml") == Renamed(0.5)
    assert "a.yaml: drop: must be at least 0 and at most 1" in refused(lambda: build(Renamed, {"drop": 2}, "a.yaml"))
    for keys in (("drop", "caption_dropout"), ("caption_dropout", "drop")):
        text = refused(lambda keys=keys: build(Renamed, dict.fromkeys(keys, 0.5), "a.yaml"))
        assert "'drop' is the old name of 'caption_dropout'" in text


@pytest.mark.parametrize("date", ["2024-13-45", "2024-01-01", "2024-01-01 99:99:99"])
def test_a_date_is_text(date, tmp_path):
    assert from_yaml(tmp_path, f"name: {date}").name == date


def test_types_are_tried_in_turn_and_unknown_values_may_be_declared():
    assert build(Outer, {"window": "all"}, "f").window == "all"
    assert build(Outer, {"memory": float("nan")}, "f").memory != 0
    assert build(Outer, {"rate": 2}, "f").rate == 2.0
    assert build(Inner, {"width": 2, "_class_name": "Other"}, "f", ignore_unknown=True) == Inner(2)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps: 0", "a.yaml:1: steps: must be at least 1, not 0"),
        ("\nsteps: -1", "a.yaml:2: steps: must be at least 1"),
        ("steps: " + "9" * 5000, "a.yaml:1: not valid YAML: '99"),
        ("steps: " + "9" * 1000, "a.yaml:1: steps: must fit 64 bits, found an integer of about 100"),
        ("steps: true", "steps: expected int, found True"),
        ("steps: 1.5", "steps: expected int, found 1.5"),
        ("steps:", "steps: expected int, found None"),
        ("rate: 0", "rate: must be above 0, not 0"),
        ("rate: .nan", "rate: must be a finite number, not nan"),
        ("rate: nan", "rate: must be a finite number, not nan"),
        ("rate: -.inf", "rate: must be a finite number"),
        ("rate: 1e999", "rate: must be a finite number"),
        ("rate: " + "9" * 400, "rate: expected float, found an integer of about 40"),
        ("noise: .inf", "noise: must be a finite number"),
        ("weight: -1", "weight: must be at least 0"),
        ("memory: .inf", "memory: must be a finite number"),
        ("kind: eulr", "kind: unknown value 'eulr'; did you mean 'euler'?"),
        ("kind: [euler]", "kind: expected one of euler, renoise, found a list of 1 values"),
        ("name: 3", "name: expected str, found 3; put it in quotes"),
        ("name: no", "name: expected str, found False; put it in quotes"),
        ("pair: [1]", "pair: expected 2 values, found 1"),
        ("inner:", "inner: expected a mapping, found None"),
        ("inner: [width]", "inner: expected a mapping, found a list of 1 values"),
        ("inner: {width: 0}", "inner.width: must be at least 1"),
        ("inner:\n  levels: [1, -2]", "a.yaml:2: inner.levels[1]: must be at least 0"),
        ("shares: {a: 2}", "shares.a: must be at least 0 and at most 1, not 2"),
        ("shares: {yes: 1}", "the key True is not text; put it in quotes"),
        ("shares: []", "shares: expected a mapping, found an empty list"),
        ("steps: 1\nsteps: 2", "a.yaml:2: not valid YAML: 'steps' is given twice"),
        ("- 1", "expected a mapping of keys to values, found a list of 1 values"),
        ("stepz: 1", "unknown key 'stepz'; did you mean 'steps'?"),
        ("k" * 1000 + ": 1", "unknown key 'kkk"),
        ("? [a, b]\n: 1", "a sequence cannot be a key"),
        ("? {a: b}\n: 1", "a mapping cannot be a key"),
        ("name: !!python/object/apply:os.system [ls]", "a.yaml:1: not valid YAML: could not determine a constructor"),
        ("name: !!int x", "'x' cannot be read as int"),
        ("name: !!float x", "'x' cannot be read as float"),
        ("name: !!bool x", "'x' cannot be read as bool"),
        ("name: !!timestamp x", "could not determine a constructor"),
        ("name: !!set {a}", "could not determine a constructor"),
        ("name: !!binary '%'", "could not determine a constructor"),
        ("inner: !!omap [a: 1]", "could not determine a constructor"),
        ("inner: !!map []", "expected a mapping, found a sequence"),
        ("inner: {<<: 3}", "<< takes a mapping"),
        ('name: "\\ud800"', "half of a surrogate pair"),
        ("name: *nothing", "a.yaml:1: not valid YAML: found undefined alias"),
        ("inner: &a {levels: *a}", "*a contains itself"),
        ("name: a\n--- \nname: b", "a.yaml:2: not valid YAML: but found another document"),
        ("name: \x07", "a.yaml:1: not valid YAML: special characters are not allowed"),
        ("anything: " + "[" * 5000, "nested more than 64 deep"),
        ("anything: " + "{a: " * 5000, "nested more than 64 deep"),
        ("anything:\n" + "".join("- " * i + "x\n" for i in (3000,)), "nested more than 64 deep"),
        ("x0: &x0 []\n" + "".join(f"x{i + 1}: &x{i + 1} [*x{i}]\n" for i in range(80)), "nested more than 64 deep"),
        (
            b"name: \xff\xfe",
            "not a text file, as every test file must be (byte 6 is not UTF-8); if it is text, save it as UTF-8",
        ),
        ("name: Zoë".encode("latin-1"), "save it as UTF-8"),
        ("name: a".encode("utf-16-le"), "save it as UTF-8"),
    ],
)
def test_what_cannot_be_meant_is_one_line(text, says, tmp_path):
    assert says in refused(lambda: from_yaml(tmp_path, text))


LAUGHS = "a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{','.join([f'*a{i}'] * 9)}]\n" for i in range(9)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [{','.join([f'*a{i}'] * 9)}]}}\n" for i in range(9))


@pytest.mark.parametrize("text", [LAUGHS, MERGES, "anything: [" + "1," * 20_000 + "]"], ids=["list", "merge", "long"])
def test_a_file_that_multiplies_is_refused_before_it_is_built(text, tmp_path):
    assert "more than 20000 values" in refused(lambda: from_yaml(tmp_path, text))


def test_a_value_that_multiplies_is_not_printed(tmp_path):
    fits = LAUGHS.split("a3:")[0] + "steps: *a2\n"
    path = tmp_path / "a.yaml"
    path.write_text("anything:\n" + "".join(f"  {line}\n" for line in fits.splitlines()[:-1]) + "steps: *a2\n")
    assert "steps: expected int, found a list of 9 values" in refused(lambda: load(Outer, path, "test"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"name": "a",\n "name": "b"}', "'name' is given twice; keep one"),
        ('{"inner": {"width": 1, "width": 2}}', "'width' is given twice"),
        ('{"steps": ' + "9" * 5000 + "}", "an integer of 5000 digits (999999999999...)"),
        ('{"steps": 99999999999999999999}', "steps: must fit 64 bits"),
        ('{"noise": 1e999}', "noise: must be a finite number"),
        ('{"noise": NaN}', "noise: must be a finite number, not nan"),
        ("[" * 5000, "nested more than 64 deep"),
        ("[" * 500 + "]" * 500, "nested more than 64 deep"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested more than 64 deep"),
        ('{"name": "\\ud800"}', "half of a surrogate pair"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
        ("[]", "a.json: expected an object {...}, found an empty list"),
        ("null", "expected an object {...}, found None"),
        ('"' + "x" * 100_000 + '"', "expected an object {...}, found 'xxx"),
        ('{"name": "a"', "a.json:1: this test file is not valid JSON"),
        ('{"inner": null}', "inner: expected a mapping, found None"),
        ('{"name": ["x"]}', "name: expected str, found a list of 1 values"),
    ],
)
def test_json_that_cannot_be_meant_is_one_line(text, says, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert says in refused(lambda: load_json(Outer, path, "test"))


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    assert parse_json(json.dumps({"a": "🎈"}), "f", "test") == {"a": "🎈"}


def test_a_text_of_one_line_keeps_the_place_it_was_given():
    assert refused(lambda: parse_json("{", "results.jsonl:7", "result")).startswith("results.jsonl:7: this result")


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    assert refused(lambda: read_json(tmp_path / "pipe.json", "test")).endswith(
        "pipe.json: is a pipe or a device; give the test file"
    )
    assert "is a pipe or a device" in refused(lambda: read_text("/dev/zero", "test"))
    assert "is a folder" in refused(lambda: read_text(tmp_path, "test"))
    assert "no such test file" in refused(lambda: read_text("a\0b", "test"))
    assert "cannot be read" in refused(lambda: read_text("a" * 300, "test"))


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"seed": -1}, "seed: must be at least 0"),
        ({"search": {"trials": 0}}, "search.trials: must be at least 1"),
        ({"search": {"shortlist": -3}}, "search.shortlist: must be at least 1"),
        (
            {"previews": {"captions": ["a"], "steps": {"finetune": [4, 0]}}},
            "previews.steps.finetune[1]: must be at least 1",
        ),
    ],
)
def test_a_job_asks_for_numbers_that_can_be(mapping, says):
    whole = {"name": "a", "space": "demo", "budget": "", "previews": {"captions": [], "steps": {}}, **mapping}
    assert says in refused(lambda: build(JobConfig, whole, "job.yaml"))

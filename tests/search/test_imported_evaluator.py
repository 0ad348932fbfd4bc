"""Evaluators named as module:function, from the command line and in worker processes."""

import json
import pickle
import sys

import pytest

from nas.cli import main
from nas.errors import ConfigError
from nas.search import parse_evaluator, run
from nas.search.evaluators.imported import ImportedEvaluator
from tests.support.instances import make

CODE = """
def score(arch):
    return float(sum(choice != "none" for choice in arch.choices.values()))

def in_steps(arch):
    yield score(arch) / 2
    yield score(arch)

class Kind:
    def __call__(self, arch):
        return 2.0
    def method(self, arch):
        return 3.0

thing = Kind()
number = 3

def two(arch, seed):
    return 1.0

def picky(arch):
    if arch.choices["s0"] == "o1":
        raise RuntimeError("no kernel for o1")
    return float("nan") if arch.choices["s0"] == "o2" else score(arch)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a new module in the working folder, which is not on the path, as for the installed command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    name = f"scores_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CODE)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def search():
    space, cost, budget, _ = make(0, 4, 4, share=0.5)
    return space, cost, budget


def test_functions_objects_and_methods(module, search):
    arch = search[0].random(0)
    score = sum(choice != "none" for choice in arch.choices.values())
    assert parse_evaluator(f"{module}:score")(arch) == score
    assert parse_evaluator(f"{module}:thing")(arch) == 2.0
    assert parse_evaluator(f"{module}:thing.method")(arch) == 3.0
    assert list(parse_evaluator(f"{module}:in_steps")(arch)) == [score / 2, score]
    copy = pickle.loads(pickle.dumps(parse_evaluator(f"{module}:score")))
    assert copy(arch) == score and copy.identity == parse_evaluator(f"{module}:score").identity


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:score", "no module 'no_such_module' in the working folder"),
        ("no_such.module:score", "no module 'no_such' in the working folder"),
        ("{m}.inner:score", "no module '{m}.inner'"),
        ("{m}:scor", "'{m}' has no 'scor'; did you mean 'score'"),
        ("{m}:Kind", "is the class Kind; name a function"),
        ("{m}:number", "is a int; name a function"),
        ("{m}:two", r"takes \(arch, seed\); an evaluator is called with one argument"),
        ("{m}.py:score", "name the module, '{m}:score', not its file"),
        ("{m}_broken:score", "importing '{m}_broken' failed: ZeroDivisionError"),
        ("{m}_needs:score", "importing '{m}_needs' failed: No module named 'no_such_package'"),
        ("{m}_exits:score", "importing '{m}_exits' failed: SystemExit: 3"),
        ("score", "a score table .*, a command with {{arch}} in it, or a Python callable as module:function"),
    ],
)
def test_what_cannot_be_called_is_refused_before_anything_runs(module, tmp_path, reference, message):
    (tmp_path / f"{module}_broken.py").write_text("1 / 0")
    (tmp_path / f"{module}_needs.py").write_text("import no_such_package")
    (tmp_path / f"{module}_exits.py").write_text("raise SystemExit(3)")
    with pytest.raises(ConfigError, match=message.format(m=module)) as caught:
        parse_evaluator(reference.format(m=module))
    assert "\n" not in str(caught.value)


def test_a_study_refuses_a_changed_module(module, search, tmp_path):
    space, cost, budget = search
    run(space, cost, ImportedEvaluator(f"{module}:score"), budget, trials=2, storage=tmp_path / "a.journal")
    run(space, cost, ImportedEvaluator(f"{module}:score"), budget, trials=3, storage=tmp_path / "a.journal")
    with pytest.raises(ConfigError, match=rf"was begun with evaluator {module}:score \w+, not {module}:thing"):
        run(space, cost, ImportedEvaluator(f"{module}:thing"), budget, trials=4, storage=tmp_path / "a.journal")
    (tmp_path / f"{module}.py").write_text(CODE.replace("float(sum", "2.0 * float(sum"))
    with pytest.raises(ConfigError, match=rf"was begun with evaluator {module}:score \w+, not {module}:score"):
        run(space, cost, ImportedEvaluator(f"{module}:score"), budget, trials=4, storage=tmp_path / "a.journal")


def test_an_own_identity_is_kept(module, tmp_path):
    (tmp_path / f"{module}.py").write_text(CODE + "\nscore.identity = 'version 1'\n")
    assert ImportedEvaluator(f"{module}:score").identity == "version 1"


def test_the_command_line_skips_what_fails_and_says_so(module, search, tmp_path, capsys):
    space, cost, _ = search
    space.save(tmp_path / "space.yaml")
    cost.table.save(tmp_path / "table.csv")
    words = "search --space space.yaml --table table.csv --budget latency<=90% --trials 30 --out best.json --evaluator"
    assert main([*words.split(), f"{module}:picky"]) == 0
    out = capsys.readouterr().out
    assert "trials failed, and their architectures are excluded; the first one with: " in out
    assert json.loads((tmp_path / "best.json").read_text())["choices"]["s0"] not in ("o1", "o2")
    assert main([*words.split(), f"{module}:piky"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "did you mean 'picky'" in error


@pytest.mark.slow
def test_workers_import_the_module_themselves(module, search):
    space, cost, budget = search
    result = run(space, cost, ImportedEvaluator(f"{module}:score"), budget, trials=4, workers=2)
    assert len(result.frame) == 4 and result.failures == []

"""The shipped lookup tables are complete for their spaces and usable in a cost model."""

from pathlib import Path

import nas.latency_tables
import numpy as np
import pytest

from nas.cli import main
from nas.costs import Budget, CostModel, LookupTable, compare
from nas.costs.table import shipped_tables
from nas.errors import TableError
from nas.profiling import calibrate
from nas.search import optimum
from nas.spaces import SearchSpace

FOLDER = Path(nas.latency_tables.__file__).parent
SHIPPED = "snapgen_v.roofline.iphone_16_pro_max"
PATHS = sorted(FOLDER.glob("*.csv"))


def test_the_devices_that_the_documentation_names_have_a_table():
    listed = (FOLDER / "README.md").read_text()
    assert {path.name for path in PATHS} == {name for name in listed.split("`") if name.endswith(".csv")}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_shipped_table_is_sound_for_its_space(path):
    table = LookupTable.load(path)
    space = SearchSpace.load(path.name.partition(".")[0])
    assert table.meta["space_hash"] == space.hash
    serious = [finding.text for finding in compare.check_table(path, space) if finding.is_error]
    assert not serious
    needed = {str(workload) for workload in space.workloads()}
    assert needed <= set(table.frame["workload"]) <= needed | {str(w) for w in space.pipeline_workloads()}
    infeasible = table.frame["status"] == "infeasible"
    assert (table.frame.loc[infeasible, "reason"] != "").all()
    assert set(table.frame["source"]) == {"estimated" if ".roofline." in path.name else "measured"}
    cost = CostModel(space, table)
    for seed in range(20):
        found = cost.predict(space.random(seed))
        assert found.latency_ms > 0 and found.memory_mb > 0
        assert found.generation_s is None or found.generation_s >= found.latency_ms / 1e3
    assert np.isfinite(cost.terms().base_latency_ms)


def test_a_published_table_tells_no_path():
    for path in FOLDER.iterdir():
        if path.suffix in (".csv", ".json"):
            text = path.read_text()
            assert not any(place in text for place in ("/home/", "/root/", "/tmp/", "/Users/")), path


def test_a_shipped_table_is_found_by_its_name(capsys, tmp_path, monkeypatch):
    assert set(LookupTable.load(SHIPPED).rows()) == set(LookupTable.load(shipped_tables()[SHIPPED]).rows())
    space = SearchSpace.load("snapgen_v")
    space.architecture({"mid.0/0": "Conv1D"}).save(tmp_path / "a.json")
    assert main(["cost", "--space", "snapgen_v", "--table", SHIPPED, "--arch", str(tmp_path / "a.json")]) == 0
    assert "(estimated)" in capsys.readouterr().out
    told = []
    for name in (SHIPPED, str(shipped_tables()[SHIPPED])):
        status = main(["table", "check", name, "--space", "snapgen_v"])
        told.append((status, capsys.readouterr().out.replace(name, "")))
    assert told[0] == told[1] and told[0][1]
    assert main(["table", "show", "snapgen_v.rofline.iphone_16_pro_max"]) == 2
    assert f"did you mean '{SHIPPED}'" in capsys.readouterr().err
    with pytest.raises(TableError, match="calibrate the copy"):
        calibrate(space, LookupTable.load(SHIPPED))
    monkeypatch.chdir(tmp_path)
    LookupTable.load("snapgen_v.roofline.dimensity_9400").save(SHIPPED)  # a file of that name comes first
    assert LookupTable.load(SHIPPED).path == Path(SHIPPED)


@pytest.mark.slow
def test_five_seconds_on_the_phone_by_estimate():
    """The claim of docs/benchmarks/five_seconds.md: a placement of the paper's size within five seconds, proved."""
    space = SearchSpace.load("snapgen_v")
    cost = CostModel(space, LookupTable.load(SHIPPED))
    params = zip(space.slots.items(), cost.terms().params)
    scores = {slot: dict(zip(choices, counts.tolist())) for (slot, choices), counts in params}
    found = optimum(space, cost, scores, Budget.parse("generation<=3.25s, memory<=3GB, params<=650M"))
    cost_of_found = cost.predict(found.architecture)
    assert found.proved and 500e6 <= cost_of_found.params <= 650e6 and cost_of_found.generation_s <= 3.25

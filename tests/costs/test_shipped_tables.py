"""The shipped lookup tables are complete for their spaces and usable in a cost model."""

from pathlib import Path

import nas.latency_tables
import numpy as np
import pytest

from nas.cli import main
from nas.costs import CostModel, LookupTable, compare
from nas.costs.table import shipped_tables
from nas.errors import TableError
from nas.profiling import calibrate
from nas.spaces import SearchSpace

FOLDER = Path(nas.latency_tables.__file__).parent
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
    assert set(LookupTable.load("snapgen_v.litert").rows()) == set(
        LookupTable.load(shipped_tables()["snapgen_v.litert"]).rows()
    )
    space = SearchSpace.load("snapgen_v")
    space.architecture({"mid.0/0": "Conv1D"}).save(tmp_path / "a.json")
    assert (
        main(["cost", "--space", "snapgen_v", "--table", "snapgen_v.litert", "--arch", str(tmp_path / "a.json")]) == 0
    )
    assert "(measured)" in capsys.readouterr().out
    assert main(["table", "show", "snapgen_v.litetr"]) == 2
    assert "did you mean 'snapgen_v.litert'" in capsys.readouterr().err
    with pytest.raises(TableError, match="calibrate the copy"):
        calibrate(space, LookupTable.load("snapgen_v.litert"))
    monkeypatch.chdir(tmp_path)
    LookupTable.load("snapgen_v.eager").save("snapgen_v.litert")  # a file of that name comes first
    assert LookupTable.load("snapgen_v.litert").path == Path("snapgen_v.litert")

"""The operator of docs/extend.md, registered once by an installed package, works wherever a built-in one does."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.support import docs_pages, quick_nas
from tests.support.forked import run_python

BLOCKS = {block.file: block.text for block in docs_pages.blocks(docs_pages.ROOT / "docs" / "extend.md") if block.file}
SLOT = "mid.0/0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The page's files, as an installed package with an entry point."""
    folder = tmp_path_factory.mktemp("shift")
    for name in ("shift.py", "shift_module.py", "shift.yaml"):
        (folder / name).write_text(BLOCKS[name])
    metadata = folder / "shift-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shift\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[nas.operators]\nShift1D = shift:SPEC\n")
    one_operator = BLOCKS["shift.yaml"].replace("Conv1D: , ", "")
    for text, other in (("[16, 32]", "[16], mid: false"), ("mid.0", "down.0.0")):  # fewer layers convert in less time
        assert text in one_operator
        one_operator = one_operator.replace(text, other)
    (folder / "one_operator.yaml").write_text(one_operator)
    (folder / "arch.json").write_text(json.dumps({"space": "shift", "choices": {SLOT: "Shift1D"}}))
    return folder


def run(folder: Path, program: str, *arguments: str) -> str:
    """What a process that finds the package prints; other packages' entry points are found as well."""
    environment = {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    done = run_python(program, *arguments, folder=folder, environment=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def nas(folder: Path, *words: str) -> str:
    return run(folder, Path(quick_nas.__file__).read_text(), *words)


def rows(folder: Path, table: str) -> pd.DataFrame:
    frame = pd.read_csv(folder / table)
    return frame[frame["workload"].str.startswith("Shift1D[share=4]")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "device", "source"), [("eager", "local", "measured"), ("roofline", "pixel", "estimated")]
)
def test_every_runtime_here_measures_it(folder, runtime, device, source):
    device = "snapdragon_8_elite" if runtime == "roofline" else device
    nas(folder, "profile", "--space", "shift.yaml", "--runtime", runtime, "--device", device, "--out", f"{runtime}.csv")
    (row,) = rows(folder, f"{runtime}.csv").to_dict("records")
    assert row["status"] == "ok" and row["source"] == source and row["latency_ms"] >= 0
    assert row["params"] == 32 * 32 + 32 + 2 * 32  # a 1x1 convolution with bias, and a norm
    told = nas(folder, "cost", "--space", "shift.yaml", "--table", f"{runtime}.csv", "--arch", "arch.json")
    assert "Shift1D" in told


LITERT = """
import nas
from pathlib import Path
from nas.profiling.workers.litert_convert import convert_cached
space = nas.SearchSpace.load("one_operator.yaml")
(slot,) = space.slots
model = convert_cached(space.workload(slot, "Shift1D"), "", 2, Path("models"))
assert model.params == 16 * 16 + 16 + 2 * 16 and model.copies == 2
assert model.path.stat().st_size > 2 * 4 * model.params
"""


@pytest.mark.slow
def test_litert_converts_it(folder):
    run(folder, LITERT)


COUNTS = """
import shift, torch, nas
from nas.costs import CostModel, LookupTable
from nas.costs.workload_counts import activation_bytes, count_ops
from nas.models import build_operator
from nas.spaces import colors
space = nas.SearchSpace.load("shift.yaml")
workload = space.workload("mid.0/0", "Shift1D")
counts = count_ops(workload)
module = build_operator(space.operators["Shift1D"], workload.shape[1], 32)
assert counts.params == sum(p.numel() for p in module.parameters()) and counts.flops > 0
assert activation_bytes(workload) == 4 * 5 * 4 * 32 * 4 * 4
assert colors.choice_colors(space)["Shift1D"] == "#1b9e77" and colors.short_label("Shift1D") == "Shift 1D"
"""


def test_counts_memory_and_figures_know_it(folder):
    run(folder, COUNTS)


INTERPOLATE = """
import pandas as pd, shift, nas
from nas.costs.workload_counts import count_ops
from pathlib import Path
text = Path("shift.yaml").read_text().replace("[16, 32]", "[16, 32, 48]").replace("only_sites: [mid.0]", "")
Path("three_levels.yaml").write_text(text.replace("Conv1D: ,", "Conv1D: , Conv3D: , SelfAttention1D: {heads: 2},"))
space = nas.SearchSpace.load("three_levels.yaml")
rows = [
    {
        "workload": str(workload),
        "latency_ms": count_ops(workload).memory_traffic / 1e6,
        "memory_mb": 1.0,
        "weights_mb": 1.0,
        "params": count_ops(workload).params,
    }
    for workload in space.workloads()
]
frame = pd.DataFrame(rows).set_index("workload")
missing = str(space.workload("mid.0/0", "Shift1D"))
table = nas.LookupTable.from_frame(frame.drop(missing).reset_index())
cost = nas.CostModel(space, table, interpolate=True).predict(space.architecture({"mid.0/0": "Shift1D"}))
row, truth = cost.breakdown.set_index("slot").loc["mid.0/0"], frame.latency_ms[missing]
assert row.source == "interpolated" and abs(row.latency_ms / truth - 1) < 0.1, (row, truth)
"""


def test_a_missing_row_of_it_is_interpolated(folder):
    run(folder, INTERPOLATE)


@pytest.mark.slow
def test_a_bundle_holds_it_as_core_ml_package(folder):
    nas(folder, "bundle", "create", "--space", "one_operator.yaml", "--runtime", "coreml", "--out", "bundle")
    manifest = (folder / "bundle" / "manifest.json").read_text()
    assert "Shift1D[share=4]" in manifest and list((folder / "bundle" / "packages").glob("*.mlpackage"))


RECIPE = """
import sys, shift, torch, nas
from nas.export import standalone
space = nas.SearchSpace.load("shift.yaml")
arch = space.architecture({"mid.0/0": "Shift1D"})
model = nas.models.build(space, arch)
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.1)
open("model.py", "w").write(standalone.source(space, arch, "0"))
torch.save(model.state_dict(), "weights.pt")
inputs = torch.randn(space.input_shape()), torch.tensor([500.0]), torch.randn(space.context_shape())
torch.save((inputs, model(*inputs).detach()), "inputs.pt")
"""

ALONE = """
import sys, torch, model
denoiser = model.Denoiser()
denoiser.load_state_dict(torch.load("weights.pt"))
inputs, wanted = torch.load("inputs.pt")
assert torch.equal(denoiser(*inputs), wanted)
assert not any(name == "nas" or name.startswith(("nas.", "shift")) for name in sys.modules)
"""


def test_the_training_recipe_carries_it(folder):
    run(folder, RECIPE)
    run(folder, ALONE)

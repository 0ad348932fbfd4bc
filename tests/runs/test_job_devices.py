"""A job with the tables of further devices: kept in the run folder, searched within, recorded, refused when changed."""

import dataclasses

import pandas as pd
import pytest

import nas
from nas.cli import main
from nas.costs import CostModel, LookupTable
from nas.report import RunRecord
from nas.report.summary import summary
from nas.runs import job as job_module
from nas.runs.record import DenoiserCost
from nas.spaces import SearchSpace
from tests.runs.test_job import SPACE

JOB = """
name: tiny
space: tiny.yaml
budget: latency@iphone_16_pro_max<=100%, latency@pixel<=95%, params<=100%
runtime: roofline
device: iphone_16_pro_max
tables: {pixel: pixel.csv}
search: {trials: 8, shortlist: 1, random: 2, constraints: {exclude: ["mid.0:Conv1D"], count: ["count(*)>=1"]}}
previews: {captions: [the digit one moves left], steps: {adversarial: [4]}}
"""


class Evaluator:
    """Stands for the supernet: the number of layers."""

    def __init__(self, inputs, clips):
        pass

    identity = "layers"

    def __call__(self, arch):
        return float(sum(choice != "none" for choice in arch.choices.values()))

    def score_many(self, archs, seed=0):
        return [self(arch) + seed for arch in archs]


@pytest.fixture
def files(tmp_path, monkeypatch):
    (tmp_path / "tiny.yaml").write_text(SPACE)
    (tmp_path / "job.yaml").write_text(JOB)
    command = f"profile --space {tmp_path}/tiny.yaml --runtime roofline --device snapdragon_8_elite --out {tmp_path}/pixel.csv"
    assert main(command.split()) == 0
    monkeypatch.setattr("nas.training.SupernetEvaluator", Evaluator)
    steps = {name: step for name, step in job_module.STEPS.items() if name in ("profile", "search")}
    monkeypatch.setattr(job_module, "STEPS", steps)
    return tmp_path


def test_a_job_searches_within_the_budgets_of_all_its_devices(files, capsys):
    run = job_module.run_job(files / "job.yaml", files / "run")
    record, space = RunRecord.load(run), SearchSpace.load(run / "space.yaml")
    own, pixel = (CostModel(space, LookupTable.load(run / name)) for name in ("table.csv", "tables/pixel.csv"))
    assert record.budget["latency_ms@pixel"] == pytest.approx(pixel.upper_bounds().latency_ms * 0.95)
    assert record.budget["latency_ms"] == pytest.approx(own.upper_bounds().latency_ms)
    front = pd.read_csv(run / "front.csv")
    arch = space.architecture(record.candidates[0].choices)
    assert pixel.predict(arch).latency_ms <= record.budget["latency_ms@pixel"]
    assert record.candidates[0].predicted.latency_ms == own.predict(arch).latency_ms
    assert front["latency_ms@pixel"].max() <= record.budget["latency_ms@pixel"]
    assert not (front[[s for s in space.slots if s.startswith("mid.0")]] == "Conv1D").any().any()
    assert (files / "run/tables/pixel.meta.json").exists()

    pixel.table.frame.assign(latency_ms=lambda f: f["latency_ms"] * 2).to_csv(files / "pixel.csv", index=False)
    capsys.readouterr()
    assert main(["run", str(files / "job.yaml"), "--out", str(run)]) == 2
    line = capsys.readouterr().err
    assert "pixel.csv: the table of pixel has changed since this run was started" in line and line.count("\n") == 1


def test_the_report_says_what_it_costs_on_each_device(files, capsys):
    run = job_module.run_job(files / "job.yaml", files / "run")
    record = RunRecord.load(run)
    bound = record.budget["latency_ms@pixel"]
    on = {"pixel": DenoiserCost(bound * 0.9, float("nan"), 10)}
    record = dataclasses.replace(record, choices=record.candidates[0].choices, predicted=record.candidates[0].predicted, predicted_on=on)  # fmt: skip
    record.save(run)
    assert "On pixel, predicted from its table: latency of a step" in " ".join(summary(run).split())
    over = dataclasses.replace(record, predicted_on={"pixel": DenoiserCost(bound * 2, 1.0, 10)})
    over.save(run)
    assert "Over budget on pixel" in " ".join(summary(run).split())
    nas.report.write(run)
    assert "On pixel, predicted" in (run / "report.html").read_text()

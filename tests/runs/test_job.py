"""The whole job on a tiny space: killed by SIGKILL during the supernet stage, resumed, and complete."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest

from nas.cli import main
from nas.costs import Budget, LookupTable
from nas.report import RunRecord
from nas.spaces import SearchSpace
from tests.support import quick_nas
from tests.support.forked import Running, start_python

SPACE = """
name: tiny
latent: {channels: 4, frames: 4, height: 8, width: 8}
text: {tokens: 16, dim: 384, encoder: minilm}
backbone: {channels: [16, 32], heads: 2, norm_groups: 8}
operators: {none: , Conv1D: , SelfAttention1D: {heads: 2}}
only_sites: [mid.0, up.0.1]
"""

JOB = """
name: tiny
space: SPACE
seed: 3
budget: latency<=100%, params<=99%
execution: {precision: bf16, device: cpu}
search: {trials: 5, clips: 8, shortlist: 2, random: 2}
stages:
  decoder: {steps: 10, batch: 4, channels: [8, 8, 8], norm_groups: 4, videos: 80, images: 40, held_out: 16, classifier_steps: 20}
  distill: {steps: 8, batch: 8, validation: 16}
  supernet: {steps: 25, save_every: 5, batch: 2, image_batch_size: 4, validation: 8, paths: 2}
  retrain: {steps: 3, batch: 2, image_batch_size: 4, validation: 8}
  finetune: {steps: 5, batch: 2, image_batch_size: 4, validation: 8, eval_steps: [1], eval_clips: 8, seed: 4}
  adversarial:
    steps: 4
    batch: 2
    image_batch_size: 4
    teacher_batches: 4
    eval_steps: [1]
    control: {batch: 2, image_batch_size: 4}
    control_eval_steps: [1]
    control_steps: 4
    eval_clips: 8
previews:
  captions: [the digit three moves left, "<b>the digit seven</b> moves right"]
  steps: {supernet: [1], adversarial: [1]}
formats: [recipe]
"""


def start(config: Path, run: Path) -> Running:
    return start_python(Path(quick_nas.__file__).read_text(), "run", config, "--out", run, new_session=True)


def steps_of(history: Path) -> list[int]:
    return [int(row["step"]) for row in csv.DictReader(history.open())]


@pytest.mark.slow
def test_the_whole_job_survives_a_kill(tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text(SPACE)
    config, run = tmp_path / "job.yaml", tmp_path / "run"
    config.write_text(JOB.replace("SPACE", str(tmp_path / "tiny.yaml")))
    supernet = run / "checkpoints" / "supernet"

    first = start(config, run)
    while not (supernet / "state.safetensors").exists():
        assert first.poll() is None, first.stderr.read_text()
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    table = (run / "table.csv").read_bytes()
    done_before = json.loads((run / "record.json").read_text())["step_seconds"]
    assert list(done_before) == ["profile", "decoder", "distill"]

    second = start(config, run).finish(timeout=3000)
    assert second.returncode == 0, second.stderr[-3000:]
    assert steps_of(supernet / "history.csv") == list(range(1, 26))  # none lost, none twice
    assert json.loads((supernet / "stage.json").read_text())["precision"] == "bf16"
    described = {path.parent.name: json.loads(path.read_text()) for path in run.glob("checkpoints/*/stage.json")}
    seeds = {"decoder": 3, "distill": 3, "supernet": 3, "finetune": 4, "adversarial": 3}
    assert {name: described[name]["config"]["seed"] for name in seeds} == seeds
    assert (run / "table.csv").read_bytes() == table  # nothing was measured again
    assert 8 <= len(second.stdout.strip().splitlines()) <= 20 and str(run) in second.stdout  # the final screen

    record = RunRecord.load(run)
    assert {n: s for n, s in record.step_seconds.items() if n in done_before} == done_before
    space, rows = SearchSpace.load(run / "space.yaml"), LookupTable.load(run / "table.csv").rows()
    assert set(map(str, space.workloads())) == set(rows) and all(r.source == "measured" for r in rows.values())
    assert Budget(**record.budget).holds(record.predicted)
    assert {c.retrained_loss is not None for c in record.candidates} == {True}
    assert {q.model for q in record.quality} >= {"real", "finetune", "adversarial", "control"}
    assert all((run / s.gif).stat().st_size and (run / s.mp4).stat().st_size for s in record.previews)
    assert all((run / e.path).exists() for e in record.exported) and record.exported
    page = (run / "report.html").read_text()
    assert "&lt;b&gt;the digit seven" in page and "<b>the digit seven" not in page

    finished = (run / "record.json").read_bytes()
    again = ["run", str(config), "--out", str(run)]
    capsys.readouterr()
    assert main(again) == 0 and "/10]" not in capsys.readouterr().err  # no step of a finished run is repeated
    assert (run / "record.json").read_bytes() == finished

    config.write_text(config.read_text().replace("trials: 5", "trials: 6"))
    assert main(again) == 2
    err = capsys.readouterr().err
    assert "started with another config" in err and len(err.strip().splitlines()) == 1

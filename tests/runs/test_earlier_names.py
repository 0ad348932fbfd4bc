"""Names of earlier versions in the files of a run folder."""

import json

import pytest

from nas.errors import ConfigError
from nas.runs.job_config import load_job_config
from nas.runs.record import RunRecord

JOB = """
name: tiny
space: demo
budget: latency<=100%
samples: {captions: [the digit three moves left], steps: {adversarial: [4]}}
"""


def test_a_job_config_with_the_earlier_key_samples_is_read(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    assert load_job_config(path).previews.steps == {"adversarial": (4,)}
    path.write_text(JOB.replace("[4]", "[0]"))
    with pytest.raises(ConfigError, match=r"job.yaml:5: samples\.steps\.adversarial\[0\]: must be at least 1"):
        load_job_config(path)


def test_a_job_config_with_both_names_is_an_error(tmp_path):
    (tmp_path / "job.yaml").write_text(JOB + JOB.splitlines()[-1].replace("samples", "previews"))
    with pytest.raises(ConfigError, match="'samples' is the old name of 'previews'; keep only 'previews'"):
        load_job_config(tmp_path / "job.yaml")


def test_a_record_of_an_earlier_version_is_read(tmp_path):
    preview = {"model": "finetune", "steps": 4, "captions": ["a"], "gif": "samples/a.gif", "mp4": ""}
    values = {"name": "n", "space": "s", "space_hash": "h", "step_seconds": {"profile": 1.0, "samples": 2.0}}
    (tmp_path / "record.json").write_text(json.dumps({**values, "samples": [preview]}))
    record = RunRecord.load(tmp_path)
    assert record.step_seconds == {"profile": 1.0, "previews": 2.0}
    assert [p.gif for p in record.previews] == ["samples/a.gif"]
    record.save(tmp_path)
    assert RunRecord.load(tmp_path) == record

"""The final screen: a dozen lines that say what the run found, what it costs, how good it is and where it lies."""

import dataclasses
import json
import re

import pytest

from nas.errors import ConfigError
from nas.report import RunRecord, write
from nas.report.summary import WIDTH, summary
from nas.runs.record import DenoiserCost
from tests.support import report_folders


def test_a_finished_run_fits_on_a_screen(finished_run):
    write(finished_run)
    text, record = summary(finished_run), RunRecord.load(finished_run)
    lines = text.splitlines()
    assert 9 <= len(lines) <= 17 and max(map(len, lines)) <= WIDTH
    for choice in set(record.choices.values()) - {"none"}:
        assert f"{choice} x{list(record.choices.values()).count(choice)}" in text
    assert f"{record.measured.latency_ms:.2f} ms measured whole" in text and "within (90%)" in text
    words = " ".join(text.split())
    assert "adversarial: Frechet 10.6" in words and "control 38.0" in words and "finetune 41.2" in words
    assert "direction 93% (85\N{EN DASH}97%)" in words  # of 80 clips: Wilson's interval
    assert str(finished_run) in text and "report.html" in text
    clip = " ".join(text[text.index("Clip ") : text.index("Real clips")].split())
    assert (
        "A 3.62 s clip (29 frames at 8 fps, 32x32) in" in clip
        and "text encoder 0.003 s (measured), 4 x denoiser" in clip
    )


@pytest.mark.parametrize(
    "share, said", [(1.2, "OVER (120%)"), (1.002, "OVER (100.2%)"), (0.9996, "within (99.96%)"), (1.0, "within (100%)")]
)
def test_it_says_how_much_of_the_budget_is_used(run, share, said):
    record = RunRecord.load(run)
    cost = DenoiserCost(record.budget["latency_ms"] * share, record.measured.memory_mb, record.measured.params)
    dataclasses.replace(record, measured=cost).save(run)
    assert said in summary(run)


def test_it_says_what_is_over_budget(run):
    record = RunRecord.load(run)
    over = DenoiserCost(record.budget["latency_ms"] * 1.2, record.measured.memory_mb, record.measured.params)
    dataclasses.replace(record, measured=over).save(run)
    text = summary(run)
    assert "OVER (120%)" in text and "Over budget: the latency of a step, measured whole" in text


def test_data_that_no_classifier_judges_is_said_with_what_was_measured(run):
    report_folders.without_classifier(run)
    words = " ".join(summary(run).split())
    assert "no classifier for this data" in words and "not evaluated yet" not in words
    assert "decoder: SSIM of reconstructed held-out clips 0.810" in words and "finetune: held-out loss 0.212" in words


def test_half_a_run_says_what_is_not_there(run, tmp_path):
    (run / "record.json").unlink()
    text = summary(run)
    assert "predicted" in text and "measured whole" not in text and "Quality     not evaluated yet" in text
    (tmp_path / "empty").mkdir()
    assert "nothing yet" in summary(tmp_path / "empty")
    with pytest.raises(ConfigError, match="no such run folder"):
        summary(tmp_path / "nowhere")


@pytest.mark.parametrize("kept", [True, False], ids=["source in the record", "record without one"])
def test_nothing_is_called_measured_that_was_estimated(kept, run):
    table = run / "table.csv"
    table.write_text(table.read_text().replace(",measured,", ",estimated,"))
    record = RunRecord.load(run)
    whole = dataclasses.replace(record.measured, latency_ms=1e6, source="estimated" if kept else "")
    dataclasses.replace(record, measured=whole).save(run)
    text = " ".join(summary(run).split())
    page = re.sub(r"<(style|script).*?</\1>|<details.*?</details>", " ", write(run).read_text(), flags=re.DOTALL)
    page = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "ms estimated whole" in text and "s (estimated), 4 x denoiser" in text
    assert "latency of a step, estimated for the whole model, is" in page and "Estimated whole" in page
    assert "latency of a step, estimated whole, is" in page and "below the one estimated for the whole model" in page
    for said in (text, page):
        assert "nothing in it was measured" in said
        assert "measured" not in said.replace("nothing in it was measured", "").lower()


def test_memory_that_a_device_does_not_tell_is_not_called_measured(run):
    meta = run / "table.meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "memory": "estimated from the shapes"}))
    text = summary(run)
    assert "ms measured whole" in text and "MB estimated whole" in text

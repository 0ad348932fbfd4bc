"""The live dashboard: what a browser gets, and that architectures and samples are attached, once."""

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import optuna
import pytest

from nas.costs import Budget
from nas.errors import ConfigError, MissingDependency
from nas.report import dashboard
from nas.runs.folder import RunFolder
from nas.runs.record import Preview, RunRecord
from nas.search import run as run_search
from tests.support import report_folders


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run folder with a study of a real search, whose third trial is the winner."""
    path = report_folders.finished(tmp_path_factory.mktemp("runs") / "demo")
    folder = RunFolder.read(path)
    budget = Budget(latency_ms=folder.cost_model.upper_bounds().latency_ms)
    result = run_search(
        folder.space, folder.cost_model, lambda arch: len(str(arch)), budget, trials=3, storage=path / "study.journal"
    )
    result.space.architecture(result.study.trials[2].params).save(path / "architecture.json")
    return path


def names(owner, storage) -> list[str]:
    return sorted(meta.filename for meta in optuna.artifacts.get_all_artifact_meta(owner, storage=storage))


def test_every_trial_has_its_picture_and_the_winner_the_samples(searched):
    before = (searched / "study.journal").read_bytes()
    storage = dashboard.IllustratedStorage(RunFolder.read(searched))
    study = optuna.load_study(study_name="nas", storage=storage)
    samples = sorted(f"{model}, {steps} steps.gif" for model, steps, _ in report_folders.DISTANCES)
    assert names(study, storage) == samples
    assert [names(trial, storage) for trial in study.trials[:2]] == [["architecture.png"]] * 2
    assert names(study.trials[2], storage) == sorted(["architecture.png", *samples])
    assert (searched / "study.journal").read_bytes() == before  # looking changes nothing


def ask(app, path: str, **headers: str) -> tuple[str, bytes]:
    """Status and body of a GET request."""
    status = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "wsgi.input": io.BytesIO()}
    environ |= {"SERVER_NAME": "localhost", "SERVER_PORT": "8080", "wsgi.url_scheme": "http", "wsgi.errors": sys.stderr}
    body = b"".join(app(environ | headers, lambda code, headers, *_: status.append(code)))
    return status[0], body


def test_the_browser_gets_the_study_and_its_pictures(searched):
    app = dashboard.application(searched)

    def get(path: str) -> bytes:
        status, body = ask(app, path)
        assert status.startswith("200"), (path, status)
        return body

    assert b"<html" in get("/dashboard").lower()
    study = json.loads(get("/api/studies"))["study_summaries"][0]
    assert study["study_name"] == "nas"
    detail = json.loads(get(f"/api/studies/{study['study_id']}"))
    assert detail["objective_names"] == ["score"]
    assert "minus the supernet's validation loss" in detail["note"]["body"]
    note = detail["trials"][0]["note"]["body"]
    for words in ("latency of a step:", "peak memory:", "parameters:", "budget: at most"):
        assert words in note
    where = f"/artifacts/{study['study_id']}"
    pictures = []
    for trial in detail["trials"]:
        artifact = trial["artifacts"][0]
        assert artifact["filename"] == "architecture.png"
        pictures.append(get(f"{where}/{trial['trial_id']}/{artifact['artifact_id']}"))
    assert len(set(pictures)) == 3 and all(picture.startswith(b"\x89PNG") for picture in pictures)
    clip = next(a for a in detail["artifacts"] if a["filename"] == "finetune, 25 steps.gif")
    assert get(f"{where}/{clip['artifact_id']}") == (searched / "samples" / "finetune" / "25.gif").read_bytes()


@pytest.mark.parametrize("kind", ["absolute", "parent", "link", "folder", "empty", "odd", "pipe"])
def test_no_file_outside_the_run_folder_is_served(searched, tmp_path, kind):
    run = shutil.copytree(searched, tmp_path / "run")
    secret = tmp_path / "secret.gif"
    secret.write_bytes(b"secret")
    (run / "link.gif").symlink_to(secret)
    os.mkfifo(run / "pipe.gif")
    named = {
        "absolute": str(secret),
        "parent": "../secret.gif",
        "link": "link.gif",
        "folder": "samples",
        "empty": "",
        "odd": "a\0b",
        "pipe": "pipe.gif",
    }
    record = RunRecord.load(run)
    dataclasses.replace(record, previews=(Preview("finetune", 4, ("a",), named[kind], named[kind]),)).save(run)
    app = dashboard.application(run)
    status, body = ask(app, "/artifacts/0/c-0")
    assert status.startswith("404") and b"secret" not in body
    assert ask(app, "/artifacts/0/c-7")[0].startswith("404")
    assert ask(app, "/artifacts/0/c-")[0].startswith("404")
    assert ask(app, "/artifacts/0/0/a-ffff")[0].startswith("404")


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_HOST": "attacker.example"},
        {"HTTP_HOST": "attacker.example:8080"},
        {"HTTP_HOST": "localhost.attacker.example:8080"},
        {"HTTP_HOST": "localhost:8080@attacker.example"},
        {"HTTP_HOST": "192.168.1.7:8080"},
        {"HTTP_HOST": ""},
        {"HTTP_HOST": "localhost:8080", "HTTP_ORIGIN": "http://attacker.example"},
        {"HTTP_HOST": "localhost:8080", "HTTP_ORIGIN": "null"},
    ],
)
def test_a_foreign_host_is_refused(searched, headers):
    status, body = ask(dashboard.application(searched), "/api/studies", **headers)
    assert status.startswith("403") and b"nas" not in body


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:9000", "[::1]:8080", "LOCALHOST"])
def test_this_machine_is_answered(searched, host):
    headers = {"HTTP_HOST": host, "HTTP_ORIGIN": f"http://{host}"}
    assert ask(dashboard.application(searched), "/api/studies", **headers)[0].startswith("200")


def test_the_command_serves_until_it_is_stopped(searched):
    command = [sys.executable, "-m", "nas.cli", "dashboard", str(searched), "--port", "0", "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        address = re.match(r"http://localhost:\d+/", line).group()
        assert str(Path(searched) / "study.journal") in line
        with urllib.request.urlopen(f"{address}api/studies") as answer:
            assert json.load(answer)["study_summaries"][0]["study_name"] == "nas"
    finally:
        server.terminate()
        server.wait(10)


def test_what_is_missing_is_said_in_a_line(run, monkeypatch):
    with pytest.raises(ConfigError, match="has not reached its search"):
        dashboard.IllustratedStorage(RunFolder.read(run))
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(MissingDependency, match=r"nas-video\[dashboard\]"):
        dashboard.application(run)

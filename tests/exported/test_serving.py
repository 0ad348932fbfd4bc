"""`nas serve`: what it serves, and what it says when it cannot."""

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from nas.cli import main
from nas.exported.serving import CONTENT_POLICY, ExportServer


@pytest.fixture
def folder(exported_litert, tmp_path):
    """A web export without the libraries, which need `nas web install`."""
    import json

    folder = shutil.copytree(exported_litert, tmp_path / "export")
    (folder / "index.html").write_text("<p>page")
    entries = json.loads((folder / "export.json").read_text())
    entries["web"] = entries["litert"]
    entries["web"]["files"].append({"path": "index.html", "size_mb": 7e-6, "sha256": ""})
    (folder / "export.json").write_text(json.dumps(entries))
    return folder


def test_headers_of_threads_and_of_the_content_policy(folder):
    server = ExportServer(folder, port=0)
    server.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"<p>page")
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert answer.headers["Content-Security-Policy"] == CONTENT_POLICY
        tag = answer.headers["ETag"]
        connection.request("GET", "/", headers={"If-None-Match": tag})  # a browser that has the file
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (304, b"")
        (folder / "index.html").write_text("<p>changed")
        connection.request("GET", "/", headers={"If-None-Match": tag})
        assert connection.getresponse().read() == b"<p>changed"
    finally:
        server.close()


def test_the_command_prints_addresses_and_a_qr_code_and_stops_at_ctrl_c(folder):
    command = [sys.executable, "-m", "nas.cli", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = iter(process.stdout.readline, "")
    text = ""
    for line in lines:
        text += line
        if "Ctrl-C" in line:
            break
    port = int(re.search(r"on this machine: +http://localhost:(\d+)/", text)[1])
    if "on a phone" in text:  # not without a network
        assert "█" in text or "▀" in text
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/export.json")
    assert connection.getresponse().status == 200
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert said == "nas serve: stopped\n" and process.returncode == 130


def test_https_keeps_its_certificate(folder, tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    certificates = []
    for _ in range(2):
        server = ExportServer(folder, port=0, https=True)
        assert server.url.startswith("https://")
        server.close()
        [path] = (tmp_path / "cache").rglob("certificate.pem")
        certificates.append(path.read_text())
        assert os.stat(path).st_mode & 0o077 == 0
    assert certificates[0] == certificates[1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder"),
        (lambda folder: (folder / "export.json").unlink(), "contains no export.json"),
        (lambda folder: (folder / "denoiser.tflite").unlink(), "denoiser.tflite: is missing; run 'nas export"),
        (lambda folder: (folder / "denoiser.tflite").write_bytes(b"x"), "denoiser.tflite: was changed"),
        (
            lambda folder: (folder / "export.json").write_text('{"schema_version": 1, "litert": {}}'),
            "has no entry for format web",
        ),
    ],
)
def test_what_is_not_a_web_export_is_one_line(spoil, message, folder, capsys):
    spoil(folder)
    assert main(["serve", str(folder), "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_port_in_use_is_one_line(folder, capsys):
    server = ExportServer(folder, port=0)
    try:
        assert main(["serve", str(folder), "--port", str(server.server_port)]) == 2
        assert f"port {server.server_port}: is in use; give another --port" in capsys.readouterr().err
    finally:
        server.close()

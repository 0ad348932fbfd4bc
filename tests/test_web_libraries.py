"""`nas web install`: what it installs, and what it says when it cannot."""

import json
from pathlib import Path

import pytest

from nas import web_libraries
from nas.cli import main

NPM = """#!/usr/bin/env python3
import json, pathlib, sys
assert "--ignore-scripts" in sys.argv and sys.argv[1] == "ci"
lock = json.loads(pathlib.Path("package-lock.json").read_text())
for path, package in lock["packages"].items():
    if path:
        pathlib.Path(path).mkdir(parents=True)
        about = {"version": package["version"], "license": package["license"]}
        pathlib.Path(path, "package.json").write_text(json.dumps(about))
for source in json.loads(sys.argv[0] and pathlib.Path(__file__).with_name("sources.json").read_text()):
    path = pathlib.Path("node_modules", source)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('import {x} from "@litertjs/wasm-utils";\\n//# sourceMappingURL=index.js.map')
"""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder, and a PATH on which there is no npm."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "cache/nas/web"


@pytest.fixture
def npm(cache, tmp_path, monkeypatch) -> Path:
    """A stand-in for npm that needs no network."""
    path = tmp_path / "bin/npm"
    path.write_text(NPM)
    path.chmod(0o755)
    (tmp_path / "bin/sources.json").write_text(json.dumps(list(web_libraries._FILES.values())))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return path


def test_the_lock_file_pins_every_package_by_its_hash_and_names_no_registry():
    folder = Path(web_libraries.__file__).parent
    lock = json.loads((folder / "package-lock.json").read_text())
    packages = {path: package for path, package in lock["packages"].items() if path}
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert "resolved" not in (folder / "package-lock.json").read_text()
    for name, version in web_libraries.versions().items():
        assert packages[f"node_modules/{name}"]["version"] == version


def test_installing_once_is_enough(npm, cache, capsys):
    assert main(["web", "install"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder.parent == cache and web_libraries.installed() == folder
    assert (folder / "litert.js").read_text() == 'import {x} from "./litert_loader.js";\n'
    assert "@litertjs/core 2.5.3, license Apache-2.0" in (folder / "licenses.txt").read_text()
    npm.unlink()
    assert main(["web", "install"]) == 0  # needs neither npm nor a network
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_a_damaged_folder_is_installed_again(npm, cache):
    folder = web_libraries.install()
    (cache / ".installing-killed").mkdir()
    (folder / "litert_wasm_internal.wasm").write_bytes(b"")
    assert web_libraries.installed() is None
    assert web_libraries.install() == folder == web_libraries.installed()
    assert [path.name for path in cache.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "npm is not on the PATH; install Node.js"),
        ("echo 'npm error code EAI_AGAIN\nnpm error request failed, getaddrinfo' >&2; exit 1", "request failed"),
        ("exit 1", "it printed no error"),
        ("exit 0", "npm did not install"),
    ],
)
def test_what_npm_cannot_do_is_one_line(script, reason, cache, npm, tmp_path, monkeypatch, capsys):
    npm.write_text(f"#!/bin/sh\n{script}")
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["web", "install"]) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
    assert not list(cache.iterdir())


def test_doctor_says_how_to_install_it(cache, npm, capsys):
    def line() -> dict:
        main(["doctor", "--json"])
        return next(check for check in json.loads(capsys.readouterr().out) if check["name"] == "LiteRT.js")

    assert not line()["works"] and line()["detail"].endswith("nas web install")
    web_libraries.install()
    assert line()["works"] and line()["detail"].startswith("2.5.3")

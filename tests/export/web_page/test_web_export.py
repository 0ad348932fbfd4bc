"""`nas export --format web`: what it writes, and when it refuses."""

import json
import re
import shutil

from nas.cli import main
from nas.export.web_page import STATIC, add_page
from nas.exported import manifest
from nas.exported.serving import CONTENT_POLICY


def test_the_manifest_names_every_file_with_its_hash(exported_web):
    entry = manifest.read(exported_web, "web")
    listed = {file.path: file for file in entry.files}
    present = {p.relative_to(exported_web).as_posix() for p in exported_web.rglob("*") if p.is_file()}
    assert set(listed) == present - {manifest.MANIFEST, ".nas.lock"}
    assert all(manifest.sha256(exported_web / path) == file.sha256 for path, file in listed.items())
    assert entry.app.prompt.examples == ("the digit three moves left", "a cat runs")
    assert manifest.read(exported_web, "litert").app.prompt.examples == ()
    assert {path.split("/")[0] for path in listed if "/" in path} == {"libraries", "page", "tokenizer"}


def test_exporting_again_replaces_the_page(exported_litert, tmp_path):
    folder = shutil.copytree(exported_litert, tmp_path / "export")
    (folder / "page").mkdir()
    (folder / "page/old.js").touch()
    add_page(folder)
    add_page(folder)
    assert not (folder / "page/old.js").exists() and not list(folder.glob(".writing*"))


def test_the_command_converts_and_adds_the_page(clip_checkpoint, exported_litert, tmp_path, monkeypatch, capsys):
    def converted(checkpoint, out, **options):
        assert checkpoint == clip_checkpoint and not options
        shutil.copytree(exported_litert, out, dirs_exist_ok=True)
        return [out / "denoiser.tflite"]

    monkeypatch.setattr("nas.export.web_page.litert", converted)
    words = ["export", "--checkpoint", str(clip_checkpoint), "--out", str(tmp_path / "out"), "--format"]
    assert main([*words, "web", "--example", "a cat runs", "five"]) == 0
    assert f"{tmp_path / 'out/index.html'}\n" in capsys.readouterr().out
    assert manifest.read(tmp_path / "out", "web").app.prompt.examples == ("a cat runs", "five")
    assert main([*words, "recipe", "--example", "five"]) == 2
    assert "--example belongs to --format web" in capsys.readouterr().err


def test_without_the_libraries_nothing_is_converted(clip_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    out = tmp_path / "out"
    assert main(["export", "--checkpoint", str(clip_checkpoint), "--format", "web", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said == "nas export: LiteRT.js and its tokenizer are not installed; run: nas web install\n"
    assert not out.exists()


def test_large_models_come_with_a_warning(exported_litert, tmp_path):
    folder = shutil.copytree(exported_litert, tmp_path / "export")
    entries = json.loads((folder / "export.json").read_text())
    entries["litert"]["app"]["models"]["denoiser"]["size_mb"] = 1300.0
    (folder / "export.json").write_text(json.dumps(entries))
    add_page(folder)
    assert "iPhones may close a page" in manifest.read(folder, "web").app.warnings[-1]


def test_the_page_may_only_ask_its_own_host():
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', (STATIC / "index.html").read_text())[
        1
    ]
    assert f"{policy}; frame-ancestors 'none'" == CONTENT_POLICY  # which only a header can say
    assert (
        "default-src 'none'" in policy
        and "connect-src 'self'" in policy
        and "unsafe-eval" not in policy.replace("wasm-unsafe-eval", "")
    )
    for path in STATIC.rglob("*"):
        if path.is_file():
            assert not re.search(r"https?://", path.read_text()), path


def test_modules_are_small():
    for path in STATIC.rglob("*.*"):
        assert len(path.read_text().splitlines()) < 300, path

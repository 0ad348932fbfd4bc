"""JavaScript libraries of the pages that `nas` writes: installed once with npm, then used without a network.

`package-lock.json` names the versions with the hashes of their content; npm refuses a package that differs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from nas.caches import usable, user_cache
from nas.errors import MissingDependency, NasError
from nas.files import short_hash, sync_folder
from nas.locks import output_lock

_PACKAGE = Path(__file__).parent
_LISTING = "files.json"
_TIMEOUT_S = 900

WASM_BUILDS = ("", "compat", "threaded", "jspi")
"""Builds of LiteRT.js: relaxed SIMD, SIMD without relaxed, threads, and WebGPU with JavaScript Promise Integration."""


def wasm_files(build: str) -> tuple[str, str]:
    """File names of a LiteRT.js build: the loader script and the WebAssembly module."""
    name = f"litert_wasm_{build}_internal" if build else "litert_wasm_internal"
    return f"{name}.js", f"{name}.wasm"


_FILES = {
    "litert.js": "@litertjs/core/dist/index.js",
    "litert_loader.js": "@litertjs/wasm-utils/dist/index.js",
    **{file: f"@litertjs/core/wasm/{file}" for build in WASM_BUILDS for file in wasm_files(build)},
    "tokenizers.js": "@huggingface/tokenizers/dist/tokenizers.min.mjs",
    "gifenc.js": "gifenc/dist/gifenc.esm.js",
    "mediabunny.js": "mediabunny/dist/bundles/mediabunny.min.mjs",
}
"""Files of the installed folder, and where npm puts them."""


def versions() -> dict[str, str]:
    """Version of each library, by npm package name."""
    return json.loads((_PACKAGE / "package.json").read_text())["dependencies"]


def installed() -> Path | None:
    """The folder of the libraries; None if they are not installed, or a file is missing or truncated.

    The files are ES modules that import each other by relative paths: `litert.js` (LiteRT.js), its WebAssembly builds
    (see `wasm_files`), `tokenizers.js`, `gifenc.js` and `mediabunny.js`; `licenses.txt` holds their licenses.
    """
    folder = _folder()
    try:
        sizes = json.loads((folder / _LISTING).read_text())
        complete = all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return None
    return folder if complete else None


def folder() -> Path:
    """The folder of the libraries, see `installed`.

    Raises:
        MissingDependency: they are not installed.
    """
    found = installed()
    if found is None:
        raise MissingDependency("LiteRT.js and its tokenizer are not installed; run: nas web install")
    return found


def install() -> Path:
    """Install the libraries with npm into the user's cache folder, unless they are there; return their folder.

    Raises:
        ConfigError: the cache folder cannot be written.
        LockedError: another process is installing them.
        MissingDependency: npm is not installed.
        NasError: npm failed, for example without a network.
    """
    target = _folder()
    with output_lock(usable(target.parent), folder=True):
        if installed() is None:
            for path in target.parent.glob(".installing-*"):  # left by a killed process
                shutil.rmtree(path, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".installing-") as temporary:
                _run_npm(Path(temporary))
                ready = _collect(Path(temporary) / "node_modules", Path(temporary) / "ready")
                shutil.rmtree(target, ignore_errors=True)  # an incomplete one
                os.replace(ready, target)
                sync_folder(target.parent)
    return target


def _folder() -> Path:
    return user_cache("web") / short_hash([(_PACKAGE / "package-lock.json").read_text(), _FILES])


def _run_npm(folder: Path) -> None:
    """Install the locked packages into `folder`, without running their scripts."""
    npm = shutil.which("npm")
    if npm is None:
        raise MissingDependency("npm is not on the PATH; install Node.js, which includes it, and run again")
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(_PACKAGE / name, folder / name)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--fetch-retries=1"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S)
    except OSError as error:
        raise MissingDependency(f"{npm}: cannot be run: {error.strerror}; install Node.js again") from None
    except subprocess.TimeoutExpired:
        raise NasError(f"npm did not finish in {_TIMEOUT_S} seconds; check the network, and run again") from None
    if done.returncode:
        raise NasError(f"npm could not install the libraries: {_reason(done.stderr)}; check the network, and run again")


def _reason(output: str) -> str:
    """The message of npm's error output: its first line that is neither a code nor a path of a log file."""
    lines = [re.sub(r"^npm (error|ERR!) ?", "", line).strip() for line in output.splitlines() if "npm " in line]
    lines = [
        line for line in lines if line and not re.match(r"(code|errno|syscall|type) |A complete log|npm warn", line)
    ]
    return lines[0][:300].rstrip(".") if lines else "it printed no error"


def _collect(modules: Path, out: Path) -> Path:
    """Copy the needed files of `node_modules` into one flat folder, with a list of their sizes and the licenses."""
    out.mkdir()
    try:
        for name, source in _FILES.items():
            shutil.copyfile(modules / source, out / name)
    except FileNotFoundError as error:
        raise NasError(f"npm did not install {error.filename}; run again") from None
    for path in out.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        # Import maps do not reach workers, so the one import by package name becomes a relative one. Source maps are
        # not copied, and browsers would look for them.
        text = text.replace('"@litertjs/wasm-utils"', '"./litert_loader.js"')
        path.write_text(re.sub(r"^//# sourceMappingURL=.*$", "", text, flags=re.MULTILINE), encoding="utf-8")
    (out / "licenses.txt").write_text(_licenses(modules), encoding="utf-8")
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    (out / _LISTING).write_text(json.dumps(sizes, indent=2) + "\n")
    return out


def _licenses(modules: Path) -> str:
    used = dict.fromkeys("/".join(source.split("/")[: 2 if source[0] == "@" else 1]) for source in _FILES.values())
    texts = []
    for name in used:
        about = json.loads((modules / name / "package.json").read_text(encoding="utf-8"))
        texts.append(f"{name} {about['version']}, license {about['license']}\n")
        for path in sorted((modules / name).glob("LICENSE*")):
            with contextlib.suppress(OSError):
                texts.append(path.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(texts)

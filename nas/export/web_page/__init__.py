"""Export a checkpoint as a web page: a static folder that turns a prompt into a clip in any browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nas import web_libraries
from nas.export.litert_models import litert
from nas.exported import manifest
from nas.exported.app import App, File
from nas.files import read_json, write_json

STATIC = Path(__file__).parent / "static"
"""The page: `index.html`, and `page/` with its style and modules."""
PHONE_MB = 400
"""Models above this are too much for iPhones, which end a page that uses about 1.5 GB; LiteRT.js needs a multiple."""


def web(
    checkpoint: str | Path, out: str | Path, *args: Any, examples: Sequence[str] = (), **options: Any
) -> list[Path]:
    """Write the LiteRT export of a checkpoint (see `litert`, which takes the other arguments), and a page that runs it.

    Any web server can serve the folder; `nas serve` also sends the headers that threads need.

    Args:
        examples: prompts that the page offers.

    Raises:
        MissingDependency: LiteRT.js is not installed (`nas web install`), or what `litert` needs.
    """
    web_libraries.folder()  # an error now rather than after the conversion
    return [*litert(checkpoint, out, *args, **options), *add_page(out, examples)]


def add_page(out: str | Path, examples: Sequence[str] = ()) -> list[Path]:
    """Write the page into a LiteRT export folder, and its entry `web` into `export.json`.

    Returns:
        `index.html` and the folders of its files.

    Raises:
        ConfigError: the folder has no LiteRT export.
        MissingDependency: LiteRT.js is not installed.
    """
    out, libraries = Path(out), web_libraries.folder()
    entry = manifest.read(out, "litert")
    assert entry.app is not None
    sources = {"page": STATIC / "page", "libraries": libraries}
    for name, source in sources.items():
        _replace_folder(source, out / name)
    shutil.copyfile(STATIC / "index.html", out / "index.html")
    paths = [out / "index.html", *(out / name for name in sources)]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.iterdir()))]
    added = (File(file.relative_to(out).as_posix(), file.stat().st_size / 1e6, manifest.sha256(file)) for file in files)
    app = replace(
        entry.app,
        prompt=replace(entry.app.prompt, examples=tuple(examples)),
        warnings=(*entry.app.warnings, *_warnings(entry.app)),
    )
    path = out / manifest.MANIFEST
    written = asdict(replace(entry, files=(*entry.files, *added), app=app))
    write_json(path, {**read_json(path, "export manifest", dict), "web": written})
    return paths


def _replace_folder(source: Path, target: Path) -> None:
    temporary = target.with_name(f".writing-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, copy_function=shutil.copyfile)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)


def _warnings(app: App) -> list[str]:
    size = sum(model.size_mb for model in app.models.values())
    if size <= PHONE_MB:
        return []
    return [f"The models have {size:.0f} MB; iPhones may close a page that loads more than {PHONE_MB} MB."]

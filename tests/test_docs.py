"""The documentation is tried: commands parse, those that can run here run in order, links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.support import command_line, docs_pages

PAGES = docs_pages.pages()
RUN_HERE = [
    page
    for page in PAGES
    if page.name != "CONTRIBUTING.md" and any(block.language in ("bash", "python") for block in docs_pages.blocks(page))
]


def name(page: Path) -> str:
    return str(page.relative_to(docs_pages.ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_nas_command_is_one(page):
    for block in docs_pages.blocks(page):
        assert not block.needs or block.needs in docs_pages.NEEDS, f"{block.page}:{block.line}: {block.needs}"
        for call in block.calls if block.language in ("bash", "sh") else ():
            try:
                command_line.parse(call)
            except click.exceptions.Exit:  # of --help
                pass
            except click.UsageError as error:
                pytest.fail(f"{block.page}:{block.line}: {error.message}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_is_run_as_the_pages_are():
    readme = docs_pages.ROOT / "README.md"
    assert readme in RUN_HERE
    for block in docs_pages.blocks(readme):
        assert block.needs or block.language in ("bash", "python"), f"README.md:{block.line}: would not be run"


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_HERE, ids=name)
def test_a_reader_can_follow_the_page(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for what, where in docs_pages.given(page):
        (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(request.getfixturevalue(f"given_{what}"), tmp_path / where)
    for block in docs_pages.blocks(page):
        if not block.needs:
            docs_pages.run(block, tmp_path)


def test_the_readmes_picture_is_drawn_from_a_run(given_run, tmp_path):
    from PIL import Image

    script = docs_pages.ROOT / "docs" / "demo_picture.py"
    subprocess.run([sys.executable, script, given_run, tmp_path / "demo.png"], check=True)
    assert Image.open(tmp_path / "demo.png").width == Image.open(docs_pages.ROOT / "docs/images/demo.png").width


@pytest.fixture(scope="module")
def given_checkpoint(clip_checkpoint):
    return clip_checkpoint


@pytest.fixture(scope="module")
def given_run(tmp_path_factory):
    from tests.support import report_folders

    return report_folders.finished(tmp_path_factory.mktemp("runs") / "demo")

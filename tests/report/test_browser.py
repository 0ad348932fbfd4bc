"""The page in a real browser: nothing overflows, no script fails, pictures answer, and light and dark look it."""

import base64
import hashlib
import html as html_module
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from nas.report import RunRecord, write
from nas.spaces import SearchSpace, colors, operator_kinds
from tests.support import report_folders

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on PATH: apt-get install chromium"),
]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=1500",
]
WIDTHS = {"phone": 390, "desktop": 1280}


def browse(page, *flags: str, tmp_path) -> subprocess.CompletedProcess:
    profile = tmp_path / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-1000:]
    consoled = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not consoled, consoled  # errors, failed loads and broken content policy all speak there
    return done


def ask(page, script: str, width: int, tmp_path):
    """What the JavaScript expression `script` is on the page, shown `width` pixels wide.

    The page stands in a frame, since a window of the browser cannot be as narrow as a phone.
    """
    ready = "document.documentElement.dataset.ready"
    probe = f'parent.postMessage(JSON.stringify({ready} ? {script} : "page.js stopped before its end"), "*");'
    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    text = page.read_text(encoding="utf-8").replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    (tmp_path / "inside.html").write_text(text.replace("</body>", f"<script>{probe}</script></body>"), encoding="utf-8")
    outside = tmp_path / "outside.html"
    listen = "onmessage = (event) => (document.documentElement.dataset.answer = event.data)"
    frame = f'<iframe src="inside.html" style="border: 0; width: {width}px; height: 900px"></iframe>'
    outside.write_text(f"<!doctype html><script>{listen}</script>{frame}")
    dom = browse(outside, "--dump-dom", "--window-size=1400,1000", tmp_path=tmp_path).stdout
    return json.loads(html_module.unescape(re.search(r'data-answer="([^"]*)"', dom)[1]))


OVERFLOW = """(() => {
    const page = document.documentElement;
    const scrolls = (e) => e && (getComputedStyle(e).overflowX === "auto" || scrolls(e.parentElement));
    const wide = [...document.body.querySelectorAll("*")].filter((e) => e.getClientRects().length && !scrolls(e)
        && e.getBoundingClientRect().right > innerWidth + 0.5);
    return {width: innerWidth, scroll: page.scrollWidth,
        wide: wide.slice(0, 5).map((e) => `${e.tagName}.${e.className.baseVal ?? e.className}: ${e.textContent.slice(0, 40)}`)};
})()"""


@pytest.fixture(scope="module")
def pages(finished_run, tmp_path_factory):
    """Pages of very different runs, by name."""
    root = tmp_path_factory.mktemp("pages")
    word = "unbreakable" * 20
    nasty = SearchSpace(word, {f"{word}{i}": ["none", f"<b>{word}</b>", "b"] for i in range(4)})
    half = shutil.copytree(finished_run, root / "half")
    for part in ("record.json", "front.csv", "checkpoints/adversarial/history.csv"):
        (half / part).unlink()
    folders = {
        "demo": finished_run,
        "snapgen_v": report_folders.finished(root / "snapgen_v", "snapgen_v"),
        "long words": report_folders.finished(root / "nasty", nasty, name=word),
        "half": half,
    }
    return {name: write(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", ["demo", "snapgen_v", "long words", "half"])
def test_nothing_overflows_and_no_script_fails(pages, name, width, tmp_path):
    found = ask(pages[name], OVERFLOW, width, tmp_path)
    assert found == {"width": width, "scroll": width, "wide": []}


def test_choosing_a_point_draws_it_and_back_returns(pages, finished_run, tmp_path):
    script = """(() => {
        const data = JSON.parse(document.getElementById("data").textContent);
        const look = () => ({
            layers: Object.fromEntries([...document.querySelectorAll(".unet.wide .bar")].map((g) =>
                [g.dataset.slot, g.querySelector("title").textContent])),
            texts: [...document.querySelectorAll(".unet text, [data-total], #drawn")].map((e) => e.textContent),
            bars: [...document.querySelectorAll(".unet .bar")].map((e) => [e.style.fill, e.style.transform]),
        });
        const before = look();
        const other = data.architectures.findIndex((a) => !a.chosen);
        const point = document.querySelector(`[data-point="${other}"]`);
        point.dispatchEvent(new PointerEvent("pointerenter"));
        const tooltip = document.getElementById("tooltip").textContent;
        point.dispatchEvent(new MouseEvent("click", {bubbles: true}));
        const after = look();
        document.getElementById("back").click();
        return {before, after, back: look(), other: data.architectures[other], slots: data.slots, tooltip};
    })()"""
    told = ask(pages["demo"], script, 1280, tmp_path)
    for slot, choice in zip(told["slots"], told["other"]["choices"]):
        assert told["after"]["layers"][slot].startswith(f"{slot}: {choice}")
        if choice != "none":
            assert f"{slot}  {colors.short_label(choice)}" in told["tooltip"]
    for slot, choice in RunRecord.load(finished_run).choices.items():
        assert told["before"]["layers"][slot].startswith(f"{slot}: {choice}")
    assert told["back"] == told["before"] != told["after"]  # the script writes numbers exactly as the page was written


def test_the_table_sorts_by_number(pages, tmp_path):
    script = """(() => {
        const heads = document.querySelectorAll(".sortable thead th"), read = () =>
            [...document.querySelectorAll(".sortable tbody tr")].map((row) => Number(row.cells[1].dataset.value));
        heads[1].querySelector("button").click();
        const up = read();
        heads[1].querySelector("button").click();
        return [up, read(), heads[1].getAttribute("aria-sort")];
    })()"""
    up, down, sort = ask(pages["demo"], script, 1280, tmp_path)
    assert up == sorted(up) and down == up[::-1] and sort == "descending" and len(up) > 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_screenshots(pages, finished_run, width, scheme, tmp_path):
    picture = tmp_path / f"{scheme}.png"
    flags = [
        f"--screenshot={picture}",
        f"--window-size={width},3200",
        *["--blink-settings=preferredColorScheme=0"] * (scheme == "dark"),
    ]
    browse(pages["demo"], *flags, tmp_path=tmp_path)
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert pixels.shape[1] == width
    paper = np.median(pixels.reshape(-1, 3), axis=0)
    assert paper.min() > 240 if scheme == "light" else paper.max() < 40
    for choice in set(RunRecord.load(finished_run).choices.values()) - {"none"}:
        color = [int(operator_kinds()[choice].color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (abs(pixels - color).max(axis=2) <= 3).sum() > 100, f"{choice} is nowhere to be seen"

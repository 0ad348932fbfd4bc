"""The page in a real browser: nothing overflows, no script fails, pictures answer, and light and dark look it."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from nas.report import RunRecord, write
from nas.spaces import SearchSpace, colors, operator_kinds
from tests.support import browser as browsers
from tests.support import report_folders

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browsers.CHROMIUM is None, reason="needs Chromium on PATH: apt-get install chromium"),
]
WIDTHS = {"phone": 390, "desktop": 1280}


@pytest.fixture(scope="module")
def browser():
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture
def show(browser):
    """Open a page, `width` pixels wide; whatever it logs, or fails at, fails the test."""
    shown, problems = [], []

    def show(path, width, height=900, **options):
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        shown.append(page)
        page.on("console", lambda message: problems.append(message.text))  # failed loads and the content policy's, too
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.dataset.ready"), "page.js stopped before its end"
        return page

    yield show
    for page in shown:
        page.close()
    assert not problems


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
    for name, folder in folders.items():
        if name != "demo":  # whose page has all charts
            report_folders.with_few_charts(folder)
    return {name: write(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", ["demo", "snapgen_v", "long words", "half"])
def test_nothing_overflows_and_no_script_fails(pages, name, width, show):
    found = show(pages[name], width).evaluate(OVERFLOW)
    assert found == {"width": width, "scroll": width, "wide": []}


def test_choosing_a_point_draws_it_and_back_returns(pages, finished_run, show):
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
    told = show(pages["demo"], 1280).evaluate(script)
    for slot, choice in zip(told["slots"], told["other"]["choices"]):
        assert told["after"]["layers"][slot].startswith(f"{slot}: {choice}")
        if choice != "none":
            assert f"{slot}  {colors.short_label(choice)}" in told["tooltip"]
    for slot, choice in RunRecord.load(finished_run).choices.items():
        assert told["before"]["layers"][slot].startswith(f"{slot}: {choice}")
    assert told["back"] == told["before"] != told["after"]  # the script writes numbers exactly as the page was written


def test_the_table_sorts_by_number(pages, show):
    script = """(() => {
        const heads = document.querySelectorAll(".sortable thead th"), read = () =>
            [...document.querySelectorAll(".sortable tbody tr")].map((row) => Number(row.cells[1].dataset.value));
        heads[1].querySelector("button").click();
        const up = read();
        heads[1].querySelector("button").click();
        return [up, read(), heads[1].getAttribute("aria-sort")];
    })()"""
    up, down, sort = show(pages["demo"], 1280).evaluate(script)
    assert up == sorted(up) and down == up[::-1] and sort == "descending" and len(up) > 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_screenshots(pages, finished_run, width, scheme, show):
    page = show(pages["demo"], width, 3200, color_scheme=scheme)
    pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(np.int16)
    assert pixels.shape[1] == width
    paper = np.median(pixels[::4, ::4].reshape(-1, 3), axis=0)
    assert paper.min() > 240 if scheme == "light" else paper.max() < 40
    for choice in set(RunRecord.load(finished_run).choices.values()) - {"none"}:
        color = [int(operator_kinds()[choice].color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (abs(pixels - color).max(axis=2) <= 3).sum() > 100, f"{choice} is nowhere to be seen"

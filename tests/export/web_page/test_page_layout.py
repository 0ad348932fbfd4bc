"""The exported page at a phone's and a desktop's width, light and dark."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from tests.support import browser as browsers

pytestmark = pytest.mark.slow
SIZES = ((390, 844), (320, 568), (1280, 900))
"""A phone, a small phone, and a desktop."""

WIDER = """() => [...document.querySelectorAll("body *")].filter((element) => element.getClientRects().length
    && element.getBoundingClientRect().right > innerWidth + 0.5).map((element) => element.outerHTML.slice(0, 80))"""


def test_everything_fits_in_every_state(exported_web, open_page, serve, generate):
    page = open_page(serve(exported_web))
    generate(page, "unbreakable" * 9 + " the digit three moves left" * 20, 10**17)
    page.click("summary")
    page.evaluate("document.getElementById('problem').hidden = false")
    page.evaluate("document.getElementById('problem').textContent = 'unbreakable'.repeat(20)")
    assert page.is_visible("#note") and page.is_visible("#times") and page.is_visible("#save-gif")
    for (width, height), scheme in itertools.product(SIZES, ("light", "dark")):
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(WIDER) == []
        pixels = np.asarray(Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB"))
        paper = np.median(pixels.reshape(-1, 3), axis=0)
        assert pixels.shape[1] == width and (paper.min() > 240 if scheme == "light" else paper.max() < 40)


def test_the_clip_can_be_stopped_and_looked_at_frame_by_frame(exported_web, open_page, serve, generate):
    page = open_page(serve(exported_web))
    generate(page, "five")
    assert page.get_attribute("#play", "aria-label") == "Play"  # moving the slider pauses
    assert page.inner_text("#frame-number") == "4 / 4"
    page.locator("#strip canvas").nth(1).click()
    assert page.inner_text("#frame-number") == "2 / 4"
    page.click("#play")
    assert page.get_attribute("#play", "aria-label") == "Pause"
    browsers.wait_for(page, "#frame-number", "^[341] / 4")


def test_no_motion_where_the_reader_wants_none(exported_web, open_page, serve):
    page = open_page(serve(exported_web), reduced_motion="reduce")
    page.fill("#prompt", "five")
    page.click("#generate")
    browsers.wait_for(page, "#status", "^Done")
    assert page.get_attribute("#play", "aria-label") == "Play" and page.inner_text("#frame-number") == "1 / 4"

"""Draw docs/images/web_page.png: the exported page on a desktop and on a phone, each with a clip that it has just made.

    nas export --checkpoint runs/demo/checkpoints/adversarial --format web --out web --example "a red circle moves left fast"
    python docs/web_page_picture.py web docs/images/web_page.png

Needs Playwright (`pip install -e '.[test]'`) and Chromium.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from nas.exported.serving import ExportServer

HEIGHT, GAP, RULE = 900, 28, "#c9ced4"
SCREENS = ((1180, "light", 0), (390, "dark", 1))
"""Width, color scheme, and which of the page's examples is generated."""


def picture(browser: Browser, url: str, width: int, scheme: str, example: int) -> Image.Image:
    """A screenshot of the page after it made a clip, with a border."""
    page = browser.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)
    page.goto(url)
    expect(page.locator("#status")).to_have_text(re.compile("^Ready"), timeout=120_000)
    examples = page.locator("#examples button")
    if examples.count():
        examples.nth(example % examples.count()).click()
    page.click("#generate")
    expect(page.locator("#status")).to_have_text(re.compile("^Done"), timeout=600_000)
    page.click("#play")  # stops
    page.locator("#strip canvas").nth(5).click()
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    if width < 800:
        page.evaluate("document.querySelector('label[for=prompt]').scrollIntoView(true)")
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    page.close()
    framed = Image.new("RGB", (shot.width + 2, shot.height + 2), RULE)
    framed.paste(shot, (1, 1))
    return framed


def main(folder: str, out: str) -> None:
    server = ExportServer(folder, port=0)
    server.start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shots = [picture(browser, server.url, *screen) for screen in SCREENS]
        browser.close()
    server.close()
    whole = Image.new("RGB", (sum(shot.width for shot in shots) + GAP * (len(shots) - 1), HEIGHT + 2), "white")
    left = 0
    for shot in shots:
        whole.paste(shot, (left, 0))
        left += shot.width + GAP
    whole.save(Path(out), optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

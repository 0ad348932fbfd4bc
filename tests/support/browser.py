"""A headless Chromium, driven through Playwright."""

import contextlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP phone.test 127.0.0.1",  # a name that browsers do not trust as they trust localhost
]
TIMEOUT_MS = 60_000


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A Playwright browser; `new_page()` gives a page with cookies and caches of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def patch(page: Any, file: str, old: str, new: str) -> None:
    """Let a page get a script with `new` in place of `old`."""

    def fulfill(route: Any) -> None:
        response = route.fetch()
        text = response.text()
        assert old in text, f"{file} has no {old!r}"
        route.fulfill(response=response, body=text.replace(old, new))

    page.context.route(f"**/{file}", fulfill)


def wait_for(page: Any, selector: str, pattern: str) -> str:
    """Wait until the text of an element matches; returns the text."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(re.compile(pattern), timeout=TIMEOUT_MS)
    return page.inner_text(selector)

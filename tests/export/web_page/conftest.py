import shutil

import numpy as np
import pytest

from nas import web_libraries
from nas.exported.serving import ExportServer
from tests.support import browser as browsers


@pytest.fixture(scope="session")
def exported_web(exported_litert, tmp_path_factory):
    """A web export folder of `clip_checkpoint`. Tests must not change it."""
    from nas.export.web_page import add_page

    assert web_libraries.installed(), "run: nas web install"
    folder = shutil.copytree(exported_litert, tmp_path_factory.mktemp("web") / "export")
    add_page(folder, examples=["the digit three moves left", "a cat runs"])
    return folder


@pytest.fixture(scope="module")
def browser():
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture
def serve():
    """Serve a folder; returns its address."""
    servers = []

    def serve(folder) -> str:
        servers.append(ExportServer(folder, port=0))
        servers[-1].start()
        return servers[-1].url

    yield serve
    for server in servers:
        server.close()


@pytest.fixture
def open_page(browser):
    """Open an address in a page of its own; script errors fail the test.

    The browser claims one core, unless `cores` says otherwise: a worker with threads costs twice as much to start.
    """
    pages, errors = [], []

    def open_page(url, cores=1, **options):
        page = browser.new_page(**options)
        page.set_default_timeout(browsers.TIMEOUT_MS)
        page.add_init_script(f"Object.defineProperty(navigator, 'hardwareConcurrency', {{value: {cores}}})")
        page.on("pageerror", lambda error: errors.append(error))
        pages.append(page)
        if url:
            page.goto(url)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not errors


CLIP = """async () => {
    const canvas = document.getElementById("clip"), slider = document.getElementById("frame"), frames = [];
    for (let i = 0; i <= Number(slider.max); i++) {
        slider.value = i;
        slider.dispatchEvent(new Event("input"));
        frames.push([...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]);
    }
    return {frames, width: canvas.width, height: canvas.height};
}"""


@pytest.fixture
def generate():
    """Generate a clip on a page; returns its pixels `(T, H, W, 3)`."""

    def generate(page, prompt, seed=0):
        page.fill("#prompt", prompt)
        page.fill("#seed", str(seed))
        page.click("#generate")
        browsers.wait_for(page, "#status", "^(Done|Not finished)")
        assert page.inner_text("#status") == "Done.", page.inner_text("#problem")
        clip = page.evaluate(CLIP)
        pixels = np.array(clip["frames"], np.uint8).reshape(-1, clip["height"], clip["width"], 4)
        assert (pixels[..., 3] == 255).all()
        return pixels[..., :3]

    return generate

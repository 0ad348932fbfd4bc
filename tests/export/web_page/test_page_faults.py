"""The exported page when something is wrong: the browser, the folder, the memory, what is typed, when it is pressed."""

import functools
import http.server
import shutil
import threading

import pytest

from nas.local_server import LocalServer
from tests.support import browser as browsers

pytestmark = pytest.mark.slow
RUN = "async run({name, inputs}) {"
SLOW = f"{RUN} await new Promise((done) => setTimeout(done, 250));"


@pytest.fixture
def folder(exported_web, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(exported_web, tmp_path / "export")


def failure(page) -> str:
    browsers.wait_for(page, "#status", "^Not finished")
    return page.inner_text("#problem")


def test_no_request_leaves_the_page_for_another_host(exported_web, open_page, serve, generate):
    url, page = serve(exported_web), open_page(None)
    asked = []
    page.context.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    generate(page, "a cat runs")
    with page.expect_download():
        page.click("#save-gif")
    assert len(asked) > 10 and {u.split("/")[2] for u in asked if not u.startswith(("data:", "blob:"))} == {
        url.split("/")[2]
    }
    # What is not asked for is also refused: in the page, and in workers, by the header.
    ask = "fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => String(error))"
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    assert "Failed to fetch" in page.evaluate(ask)
    assert any("violates" in text and "Content Security Policy" in text for text in refused)


def test_workers_are_bound_by_the_policy_too(folder, open_page, serve, tmp_path):
    """By the header of `nas serve`: a policy inside the page does not cover its workers."""
    asked = []

    class Other(LocalServer):
        def get(self, path):
            asked.append(path)

    other, url = Other([tmp_path], "127.0.0.1"), serve(folder)
    other.start()
    worker = folder / "page/worker.js"
    fetch = f"await fetch('{other.url}from-worker', {{mode: 'no-cors'}}).catch(() => null);"
    worker.write_text(worker.read_text().replace("litert = await import", f"{fetch} litert = await import"))
    browsers.wait_for(open_page(url), "#status", "^Ready")
    other.close()
    assert asked == []


def test_a_browser_without_simd_is_told_so(exported_web, open_page, serve):
    page = open_page(None)
    page.add_init_script("WebAssembly.validate = () => false")
    page.goto(serve(exported_web))
    assert "no WebAssembly SIMD" in failure(page)
    assert page.is_disabled("#generate")


@pytest.mark.parametrize("part", ["load", "run"])
def test_out_of_memory_is_said_in_words_and_can_be_tried_again(part, exported_web, open_page, serve, generate):
    page = open_page(None)
    url = serve(exported_web)
    if part == "load":  # LiteRT.js ignores an allocation that fails
        browsers.patch(page, "worker.js", "options = {accel", "runtime.liteRtWasm._malloc = () => 0; options = {accel")
    else:
        browsers.patch(
            page, "worker.js", RUN, f"{RUN} throw new WebAssembly.RuntimeError('table index is out of bounds');"
        )
    page.goto(url)
    if part == "run":
        browsers.wait_for(page, "#status", "^Ready")
        page.click("#generate")
    assert "ran out of memory" in failure(page) and "MB" in page.inner_text("#problem")
    page.context.unroute("**/worker.js")
    assert len(generate(page, "five")) == 4  # a new worker has memory again
    assert not page.is_visible("#problem")


DAMAGE = [
    ("export.json", None, "'export.json' cannot be loaded"),
    ("export.json", b"{", "'export.json' is damaged"),
    ("export.json", b'{"schema_version": 1, "litert": {}}', "does not belong to this page"),
    ("tokenizer/tokenizer.json", None, "'tokenizer/tokenizer.json' cannot be loaded"),
    ("denoiser.tflite", None, "'denoiser.tflite' cannot be loaded"),
    ("denoiser.tflite", b"<html>not found</html>", "'denoiser.tflite' is not the file that was exported"),
    ("libraries/litert_wasm_internal.wasm", None, "litert_wasm_internal.wasm' cannot be loaded"),
    ("libraries/litert_wasm_internal.wasm", b"no", "litert_wasm_internal.wasm cannot be used"),
]


def test_a_missing_or_damaged_file_is_named(folder, open_page, serve):
    url, page = serve(folder), open_page(None)
    for file, content, message in DAMAGE:
        whole = (folder / file).read_bytes()
        (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
        page.goto(url)
        assert message in failure(page)
        (folder / file).write_bytes(whole)


def test_what_cannot_start_falls_back_to_one_thread(exported_web, open_page, serve, generate):
    page = open_page(None, cores=2)
    browsers.patch(
        page,
        "worker.js",
        "async start({",
        "async start({...rest}) { if (rest.threads > 1) throw new Error('no shared memory'); return commands.real(rest); }, async real({",
    )
    page.goto(serve(exported_web))
    browsers.wait_for(page, "#status", "^Ready")
    assert page.input_value("#accelerator") == "wasm" and "no shared memory" in page.inner_text("#note")
    assert len(generate(page, "five")) == 4


TYPED = [
    ("", "0", "Describe the clip first", "prompt"),
    (" \n\t ", "0", "Describe the clip first", "prompt"),
    ("five", "", "must be a whole number", "seed"),
    ("five", "1.5", "must be a whole number", "seed"),
    ("five", "1e3", "must be a whole number", "seed"),
    ("five", "9" * 19, "at most 18 digits", "seed"),
]


def test_what_cannot_be_used_is_said_where_it_is_typed(exported_web, open_page, serve, generate):
    page = open_page(serve(exported_web))
    browsers.wait_for(page, "#status", "^Ready")
    for prompt, seed, message, focus in TYPED:
        page.fill("#prompt", prompt)
        page.fill("#seed", seed)
        page.click("#generate")
        assert message in page.inner_text("#problem")
        assert page.evaluate("document.activeElement.id") == focus
    generate(page, "\U0001f388 \U0001f469\u200d\U0001f680", -3)
    assert not page.is_visible("#problem")


def test_pressing_twice_stops_and_pressing_again_starts_anew(exported_web, open_page, serve, generate):
    page = open_page(None)
    browsers.patch(page, "worker.js", RUN, SLOW)
    page.goto(serve(exported_web))
    browsers.wait_for(page, "#status", "^Ready")
    page.fill("#prompt", "five")
    page.click("#generate")
    browsers.wait_for(page, "#status", "^Denoising")
    assert page.inner_text("#generate") == "Stop"
    page.click("#generate")
    browsers.wait_for(page, "#status", "^Stopped")
    assert page.inner_text("#generate") == "Generate" and not page.is_visible("#problem")
    page.dblclick("#generate")
    browsers.wait_for(page, "#status", "^Stopped")
    assert len(generate(page, "five")) == 4


def test_generate_pressed_before_the_models_are_loaded_waits_for_them(exported_web, open_page, serve):
    page = open_page(serve(exported_web))
    page.fill("#prompt", "five")
    page.click("#generate")
    browsers.wait_for(page, "#status", "^Done")


def test_another_accelerator_during_a_run(exported_web, open_page, serve, generate):
    page = open_page(None, cores=2)
    browsers.patch(page, "worker.js", RUN, SLOW)
    page.goto(serve(exported_web))
    browsers.wait_for(page, "#status", "^Ready")
    page.fill("#prompt", "five")
    page.click("#generate")
    browsers.wait_for(page, "#status", "^Denoising")
    page.select_option("#accelerator", "wasm")
    browsers.wait_for(page, "#status", "^Ready")
    assert page.inner_text("#generate") == "Generate" and not page.is_visible("#problem")
    assert len(generate(page, "five")) == 4


def test_a_reload_during_a_run_is_no_crash_but_a_killed_page_is(exported_web, open_page, serve):
    page = open_page(None)
    browsers.patch(page, "worker.js", RUN, SLOW)
    page.goto(serve(exported_web))
    browsers.wait_for(page, "#status", "^Ready")
    page.fill("#prompt", "five")
    page.click("#generate")
    browsers.wait_for(page, "#status", "^Denoising")
    page.reload()
    browsers.wait_for(page, "#status", "^Ready")
    assert not page.is_visible("#problem")
    page.add_init_script("sessionStorage.setItem('nas-running', '1')")  # what a killed page leaves behind
    page.reload()
    browsers.wait_for(page, "#status", "^Ready")
    assert "the browser ended the page, most likely for lack of memory" in page.inner_text("#problem")


def test_times_taken_in_the_background_are_marked(exported_web, open_page, serve, generate):
    page = open_page(None)
    browsers.patch(page, "worker.js", RUN, SLOW)
    page.goto(serve(exported_web))
    browsers.wait_for(page, "#status", "^Ready")
    page.fill("#prompt", "five")
    page.click("#generate")
    browsers.wait_for(page, "#status", "^Denoising")
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))"
    )
    browsers.wait_for(page, "#status", "^Done")
    assert "in the background" in page.inner_text("#note")
    page.evaluate("delete document.hidden")
    generate(page, "five")
    assert not page.is_visible("#note")


def test_a_plain_web_server_is_enough(exported_web, open_page, generate):
    """Without the headers for threads, which are then not offered."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=exported_web)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = open_page(f"http://127.0.0.1:{server.server_port}/")
        assert len(generate(page, "five")) == 4
        assert "needs the headers" in page.locator("#accelerator option[value=threads]").inner_text()
        server.shutdown()


def test_over_plain_http_one_thread_is_left(exported_web, open_page, serve, generate):
    """As a phone opens what `nas serve` shows: no secure page, so no threads, no GPU and no video encoder."""
    page = open_page(serve(exported_web).replace("localhost", "phone.test"))
    assert len(generate(page, "five")) == 4
    assert page.input_value("#accelerator") == "wasm" and not page.is_visible("#save-video")
    for name in ("threads", "webgpu"):
        assert page.locator(f"#accelerator option[value={name}]").inner_text().endswith("needs https or localhost")


def test_opened_as_a_file_it_says_how_to_serve_it(exported_web, open_page):
    page = open_page((exported_web / "index.html").as_uri())
    assert "nas serve" in page.inner_text("#status")

"""The page of the `web` runtime in a real browser: what it measures, what it cannot run, and the page of a bundle."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import flatbuffers
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from nas import web_libraries
from nas.cli import main
from nas.conversion.convert import to_litert
from nas.failures import Infeasible, ToolError
from nas.local_server import LocalServer, Reply
from nas.profiling.bundles import creation
from nas.profiling.bundles.bundle import RESULTS, Bundle
from nas.profiling.bundles.collection import collect
from nas.profiling.bundles.creation import create
from nas.profiling.compile import CompiledWorkload
from nas.profiling.runtimes import make
from nas.profiling.runtimes.base import ConvertedModel
from nas.profiling.web.browser import LocalBrowser
from nas.profiling.web.exchange import Exchange
from nas.profiling.web.messages import Visit
from nas.profiling.web.models import memory_mb
from nas.profiling.web.server import PageServer
from nas.profiling.workers.litert_convert import convert_cached
from nas.spaces import Operator, SearchSpace, Workload
from tests.support import tiny, web

pytestmark = pytest.mark.slow

WORKLOAD = Workload(Operator("Conv1D", {"kernel": 3}), (1, 8, 4, 16, 16))
TENSOR_MB = 8 * 4 * 16 * 16 * 4 / 1e6


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        web.short_timings(tmp_path_factory.mktemp("page"), patch)
        yield


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[ConvertedModel]:
    """An operator once, and three times in sequence."""
    pytest.importorskip("litert_torch")
    folder = tmp_path_factory.mktemp("models")
    return [convert_cached(WORKLOAD, "", copies, folder) for copies in (1, 3)]


class Opened:
    """A page in a browser, with the exchange that it is connected to."""

    def __init__(self, threads: int = 1) -> None:
        self.exchange = Exchange(threads=threads)
        self.server = PageServer(self.exchange, web_libraries.folder(), host="127.0.0.1", token="token")
        self.server.start()
        self.browser = LocalBrowser(web.chromium(), self.server.url)

    def visit(self, *paths: Path, samples: int = 3, build: str = "", keep: str = ""):
        visit = Visit(tuple(map(self.server.address, paths)), samples, build, self.exchange.threads, 10.0, keep)
        return self.exchange.ask(visit, tuple(path.stat().st_size for path in paths), "", self.browser.check).models

    def close(self) -> None:
        self.browser.close()
        self.server.close()


@pytest.fixture(scope="module")
def opened():
    opened = Opened()
    yield opened
    opened.close()


def test_every_build_times_models(opened, pair):
    paths = [model.path for model in pair]
    for build in ("", "compat"):
        one, several = opened.visit(*paths, build=build)
        for result in (one, several):
            assert len(result.samples_ms) == 3 and min(result.samples_ms) > 0
        assert one.input_bytes == one.output_bytes == int(TENSOR_MB * 1e6)
    about = opened.exchange.page.about
    assert about.isolated and about.clock_ms < 0.1, "the headers give the page a fine clock"


def test_memory_is_that_of_a_few_tensors(opened, pair):
    (result,) = opened.visit(pair[0].path, samples=0)
    assert result.samples_ms == () and TENSOR_MB < memory_mb(pair[0], result) < 8 * TENSOR_MB + 0.5


def test_a_kept_worker_is_used_again(opened, pair):
    first, again = (opened.visit(pair[0].path, keep="reference")[0] for _ in range(2))
    assert first.load_ms == again.load_ms and first.samples_ms != again.samples_ms


def test_several_threads(pair):
    opened = Opened(threads=2)
    try:
        (result,) = opened.visit(pair[0].path, build="threaded")
        assert len(result.samples_ms) == 3 and opened.exchange.settings.build == "threaded"
    finally:
        opened.close()


def test_a_killed_tab_is_opened_again(pair, monkeypatch):
    """Chromium leaves an empty tab where the page was."""
    monkeypatch.setattr("nas.profiling.web.exchange.SILENT_S", 3.0)
    monkeypatch.setattr("nas.profiling.web.runtime.LOST_S", 15.0)
    with make("web", browser=web.chromium()) as runtime:
        assert runtime.visit(WORKLOAD, pair[:1], 0, "Loading")
        killed = tabs(runtime.browser)
        assert killed
        for tab in killed:
            os.kill(tab, signal.SIGKILL)
        assert runtime.visit(WORKLOAD, pair[:1], 0, "Loading")


def tabs(browser: LocalBrowser) -> list[int]:
    """The processes of a browser's tabs; all its processes are in a session of their own."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"--type=renderer" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return [process for process in found if session_of(process) == browser.process.pid]


def session_of(process: int) -> int:
    try:
        return os.getsid(process)
    except ProcessLookupError:
        return 0


def test_a_killed_measurement_leaves_no_browser():
    """It would use a core while the next table is measured."""
    code = f"""
import sys
from nas.profiling.web.browser import LocalBrowser
browser = LocalBrowser({web.chromium()!r}, "about:blank")
print(browser.folder.path, flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    profile = process.stdout.readline().strip()

    def running() -> bool:
        return profile in subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True).stdout

    try:
        assert profile and wait_until(running)
        process.kill()
        process.wait()
        assert wait_until(lambda: not running())
    finally:
        process.kill()
        subprocess.run(["pkill", "-9", "-f", profile])


def wait_until(condition, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def test_what_cannot_run_is_infeasible_and_the_page_goes_on(opened, pair, tmp_path):
    (tmp_path / "broken.tflite").write_bytes(pair[0].path.read_bytes()[:2000])
    with pytest.raises(Infeasible, match="cannot run it: "):
        opened.visit(tmp_path / "broken.tflite")
    with pytest.raises(Infeasible, match="out of memory: "):
        opened.visit(too_large(tmp_path))
    (tmp_path / "gone.tflite").write_bytes(b"gone")
    opened.server.address(tmp_path / "gone.tflite")
    opened.server.models.clear()
    with pytest.raises(ToolError, match="cannot be loaded"):
        opened.visit(tmp_path / "gone.tflite")
    opened.server.addresses.clear()
    assert opened.visit(pair[0].path)


class Double(torch.nn.Module):
    def forward(self, x):
        return x + x


def too_large(folder: Path) -> Path:
    """A model whose input takes 4 GB."""
    path = folder / "small.tflite"
    to_litert(Double(), {"x": torch.ones(1, 16)}, path)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    for tensor in model.subgraphs[0].tensors:
        tensor.shape = [1, 1 << 30]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


# -- the page of a bundle ----------------------------------------------------------------------------------------------

SCRIPT = """
const send = (path, body) => fetch(path, {method: "POST", body});
URL.createObjectURL = (blob) => { blob.text().then((text) => send("results", text)); return "data:,"; };
addEventListener("error", (event) => send("failed", event.message));
const buttons = () => [...document.querySelectorAll("button")];
const timer = setInterval(() => {
  buttons().find((button) => button.textContent === "Start")?.click();
  const problem = document.getElementById("problem");
  if (!problem.hidden) send("failed", problem.textContent);
  if (document.title !== "Done") return;
  clearInterval(timer);
  buttons().find((button) => button.textContent.startsWith("Download")).click();
}, 200);
"""


class StaticHost(LocalServer):
    """Serves a bundle, and has its buttons pressed."""

    def __init__(self, folder: Path) -> None:
        super().__init__([folder], "127.0.0.1")
        self.folder, self.posted, self.arrived = folder, {}, threading.Event()

    def get(self, path):
        if path == "pressed.js":
            return Reply(SCRIPT.encode(), kind="text/javascript")
        if path in ("", "index.html"):
            page = (self.folder / "index.html").read_text()
            return Reply(
                page.replace("</body>", '<script src="pressed.js"></script></body>').encode(), kind="text/html"
            )
        return super().get(path)

    def post(self, path, body):
        self.posted[path] = body
        self.arrived.set()
        return Reply(status=204)


@pytest.fixture(scope="module")
def bundle(pair, tmp_path_factory) -> Path:
    """A bundle of a tiny space, whose every workload is the same small model; Conv3D's is broken."""
    folder = tmp_path_factory.mktemp("bundles")
    (folder / "tiny.yaml").write_text(
        tiny.SPACE.replace("Conv1D: {kernel: 3}", "Conv1D: {kernel: 3}, Conv3D: {kernel: 3}")
    )
    broken = folder / "broken.tflite"
    broken.write_bytes(pair[0].path.read_bytes()[:2000])

    class Compiler:
        def __init__(self, *_):
            pass

        def package(self, workload, alone=False):
            if workload.kind == "Conv3D":
                return CompiledWorkload(str(workload), broken, None, 0, 7, 0.5, 0.1, 0.1, "reference")
            one, several = pair
            numbers = (one.params, one.weights_mb, TENSOR_MB, TENSOR_MB)
            if alone or workload.kind == "Backbone":
                return CompiledWorkload(str(workload), one.path, None, 0, *numbers, "reference")
            return CompiledWorkload(str(workload), one.path, several.path, 2, *numbers, "reference")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(creation, "Compiler", Compiler)
        create(SearchSpace.load(str(folder / "tiny.yaml")), "web", folder / "bundle", progress=False)
    return folder / "bundle"


@pytest.fixture(scope="module")
def downloaded(bundle) -> bytes:
    """What the page of the bundle lets one download; its browser is killed once."""
    host = StaticHost(bundle)
    host.start()
    browser = LocalBrowser(web.chromium(), f"{host.url}?rounds=2")
    try:
        time.sleep(3)
        os.kill(browser.process.pid, signal.SIGKILL)
        for _ in range(600):
            if host.arrived.wait(0.2):
                break
            browser.check()
        assert set(host.posted) == {"results"}, host.posted
    finally:
        browser.close()
        host.close()
    return host.posted["results"]


@pytest.fixture
def collected(bundle, downloaded, tmp_path) -> Path:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    (folder / RESULTS).write_bytes(downloaded)
    return folder


def test_the_page_of_a_bundle_makes_a_table(collected, tmp_path):
    table = collect(collected, tmp_path / "t.csv")
    rows = table.rows()
    assert set(rows) == set(Bundle.load(collected).workloads)
    for workload, row in rows.items():
        if workload.startswith("Conv3D"):
            assert row.status == "infeasible" and "LiteRT.js cannot run it" in row.reason
        else:
            assert row.status == "ok" and row.count == 10 and 0 < row.memory_mb < 8 * TENSOR_MB + 0.5
    meta = table.meta
    assert (meta["runtime"], meta["wasm"], meta["operators"]) == ("web", "relaxed SIMD", "alone")
    assert re.fullmatch(r"Chromium \d+", meta["engine"]) and meta["version"].startswith("LiteRT.js 2")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (r"samples_ms\":[", r"samples_ms\":[0.001,", "edited"),
        (r"relaxed_simd\":true", r"relaxed_simd\":false", "edited"),
        ('"record":', '"records":', "unknown key|missing key|edited"),
    ],
)
def test_edited_results_of_a_page_are_refused(collected, tmp_path, capsys, old, new, problem):
    text = (collected / RESULTS).read_text()
    assert old in text
    (collected / RESULTS).write_text(text.replace(old, new, 1))
    assert main(["bundle", "collect", str(collected), "--out", str(tmp_path / "t.csv")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(problem, said), said


def test_a_bundle_holds_all_that_its_page_needs(bundle):
    text = (bundle / "index.html").read_text()
    assert "bundle.js" in text and "live.js" not in text
    for script in ("bundle.js", "measure.js", "view.js", "worker.js"):
        for name in re.findall(r'from "\./([\w.]+)"|URL\("([\w.]+\.js)"', (bundle / script).read_text()):
            assert (bundle / "".join(name)).is_file(), name
    assert not any("://" in line for path in bundle.glob("*.js") for line in path.read_text().splitlines())

"""What the profiler accepts from a page: a page without a browser answers late, wrongly, twice, or not at all."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nas.errors import NasError
from nas.failures import Infeasible, ToolError
from nas.profiling.web import exchange as module
from nas.profiling.web.exchange import Exchange
from nas.profiling.web.messages import About, Visit
from nas.profiling.web.server import PageServer
from nas.profiling.web.settings import device_name, engine, operating_system, settings_of
from tests.support.fake_page import ABOUT, FakePage

VISIT = Visit(("models/one.tflite", "models/several.tflite"), 3, "", 1, 300.0)
SIZES = (1000, 1000)


@pytest.fixture
def exchange(monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 0.3)
    return Exchange()


@pytest.fixture
def server(exchange, tmp_path):
    (tmp_path / "litert.js").write_text("export {}")
    server = PageServer(exchange, tmp_path, host="127.0.0.1", token="token")
    server.start()
    yield server
    server.close()


@pytest.fixture
def ask(exchange, server):
    """A function that asks for a visit, whose result comes later."""
    over = threading.Event()

    def watch():
        assert not over.is_set()

    with ThreadPoolExecutor() as pool:
        yield lambda: pool.submit(exchange.ask, VISIT, SIZES, "a workload", watch)
        over.set()


@pytest.fixture
def page(server):
    page = FakePage(server.url)
    assert page.hello()[0] == 200
    return page


def test_a_job_says_all_and_its_result_comes_back(ask, page):
    asked = ask()
    job = page.job()
    assert (job["title"], job["visit"]["models"], job["visit"]["samples"]) == ("a workload", list(VISIT.models), 3)
    assert page.post("alive", job=job["job"])[1]["wanted"] is True
    assert page.answer(job, samples_ms=[1.0, 2.0])[0] == 400, "two samples of one model, three of the other"
    assert page.answer(page.job(), samples_ms=[1.0, 2.0, 3.0])[0] == 200
    assert [model.samples_ms for model in asked.result(5).models] == [(1.0, 2.0, 3.0), (0.5, 0.5, 0.5)]
    assert page.post("alive", job=job["job"])[1]["wanted"] is False


def test_without_the_token_there_is_nothing(server, ask, page):
    asked = ask()
    job = page.job()
    for url in (server.url.replace("token", "guess"), server.url.replace("token/", ""), server.url + "x/"):
        stranger = FakePage(url)
        assert stranger.hello()[0] == stranger.answer(job)[0] == stranger.post("next")[0] == 404
    assert not asked.done()
    assert page.answer(job)[0] == 200 and asked.result(5)


def test_an_answer_that_is_not_waited_for_changes_nothing(ask, page):
    assert page.answer({"job": 1, "visit": VISIT.to_dict()})[0] == 409
    asked = ask()
    old = page.job()
    page.answer(old)
    asked.result(5)
    asked = ask()
    assert page.answer(old)[0] == 409 and page.answer({**old, "job": 99})[0] == 409
    assert page.answer({**old, "job": old["job"] + 1})[0] == 409, "a job that it was not given yet"
    assert not asked.done()
    page.answer(page.job(), samples_ms=[7.0] * 3)
    assert asked.result(5).models[0].samples_ms[0] == 7.0


@pytest.mark.parametrize(
    "changes",
    [
        {"samples_ms": [0.5, float("nan"), 0.5]},
        {"samples_ms": [0.5, float("inf"), 0.5]},
        {"samples_ms": [0.5, -0.5, 0.5]},
        {"samples_ms": [0.5, 0, 0.5]},
        {"samples_ms": [0.5, None, 0.5]},
        {"samples_ms": [1e7] * 3},  # more time than has passed
        {"samples_ms": [0.5] * 4},
        {"samples_ms": []},
        {"file_bytes": 999},
        {"heap_bytes": 10**12},
        {"grown_bytes": -1},
        {"grown_bytes": 1 << 25},  # more than the heap
        {"load_ms": float("nan")},
        {"load_ms": True},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_result_that_cannot_be_right_is_refused(ask, page, changes):
    asked = ask()
    assert page.answer(page.job(), **changes)[0] == 400
    assert not asked.done()
    assert page.answer(page.job())[0] == 200 and asked.result(5)


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[]", b'{"page": "page"}', b"{" * 10_000, b'{"page": "%s"}' % (b"x" * 600)]
)
def test_three_wrong_answers_end_the_measurement(ask, page, body):
    asked = ask()
    for _ in range(3):
        page.job()
        assert page.answer({"job": 1, "visit": VISIT.to_dict()}, body)[0] == 400
    with pytest.raises(ToolError, match=r"cannot be right.*reload the page"):
        asked.result(5)


def test_a_reloaded_page_gets_the_job_again(ask, page, server):
    asked = ask()
    job = page.job()
    reloaded = FakePage(server.url, page="reloaded")
    assert reloaded.hello()[0] == 200
    assert page.answer(job)[0] == page.post("next")[0] == 409, "the old page is not the one that measures"
    assert reloaded.answer(reloaded.job(), samples_ms=[4.0] * 3)[0] == 200
    assert asked.result(5).models[0].samples_ms[0] == 4.0


def test_a_workload_that_kills_the_page_again_and_again_is_infeasible(ask, page, server):
    asked = ask()
    for number in range(3):
        assert not asked.done()
        page.job()
        page = FakePage(server.url, page=f"page {number}")
        assert page.hello()[0] == 200
    with pytest.raises(Infeasible, match=r"ended the page 3 times.*memory"):
        asked.result(5)


def test_a_workload_that_needs_little_memory_is_hardly_what_kills_a_page(exchange, page, server):
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(exchange.ask, VISIT, SIZES, small=True)
        for number in range(6):
            page.job()
            page = FakePage(server.url, page=f"page {number}")
            page.hello()
        page.answer(page.job())
        assert asked.result(5)


def test_a_page_that_its_user_closes_was_not_killed(ask, page, server):
    asked = ask()
    for number in range(4):
        page.job()
        assert page.post("bye")[0] == 200
        page = FakePage(server.url, page=f"page {number}")
        assert page.hello()[0] == 200
    assert page.answer(page.job())[0] == 200 and asked.result(5)


def test_a_second_phone_waits_in_plain_words(ask, page, server, exchange, monkeypatch):
    other = FakePage(server.url, "other page", "other phone")
    status, content = other.hello()
    assert status == 409 and "Another phone (Pixel 8)" in content["problem"]
    assert other.post("next")[0] == other.post("alive")[0] == 409
    page.post("bye")
    assert other.hello()[0] == 200, "the first one has left"
    monkeypatch.setattr(module, "SILENT_S", 0.05)
    time.sleep(0.1)
    assert page.hello()[0] == 200, "the other one is silent"


@pytest.mark.parametrize(
    "about",
    [
        {"model": "Pixel 7"},
        {"user_agent": ABOUT["user_agent"].replace("156", "157")},
        {"relaxed_simd": False},
        {"cores": 4},
    ],
    ids=str,
)
def test_a_page_with_other_settings_never_continues_a_table(ask, page, server, about):
    page.post("bye")
    other = FakePage(server.url, "other page", "other phone", **about)
    status, content = other.hello()
    assert status == 409 and "One table holds one device, browser and build" in content["problem"]


def test_a_visit_during_which_the_page_was_hidden_is_repeated(ask, page, exchange):
    asked = ask()
    assert page.answer(page.job(), undisturbed=False, samples_ms=[9.0] * 3)[0] == 200
    assert page.answer(page.job())[0] == 200
    assert asked.result(5).models[0].samples_ms[0] == 0.5 and exchange.disturbed == 1


def test_a_phone_may_sleep_but_a_page_in_front_must_answer(ask, page, monkeypatch):
    monkeypatch.setattr(module, "SILENT_S", 0.3)
    monkeypatch.setattr(module, "TIMEOUT_S", 1.0)
    asked = ask()
    job = page.job()
    time.sleep(2.5)
    assert page.answer(job)[0] == 200 and asked.result(5), "it slept"
    asked = ask()
    job = page.job()
    for _ in range(10):
        time.sleep(0.2)
        page.post("alive", job=job["job"], hidden=True)
    assert not asked.done(), "it is in the background"
    while not asked.done():
        time.sleep(0.1)
        page.post("alive", job=job["job"])
    with pytest.raises(Infeasible, match="no answer within 1 s"):
        asked.result(5)
    assert page.post("alive", job=job["job"])[1]["wanted"] is False, "so that the page ends what it runs"


def test_failures_of_a_visit(ask, page):
    for kind, match in (("memory", "out of memory.*some text"), ("model", "LiteRT.js cannot run it: some text")):
        asked = ask()
        assert page.fail(page.job(), kind)[0] == 200
        with pytest.raises(Infeasible, match=match):
            asked.result(5)
    asked = ask()
    for _ in range(2):
        page.fail(page.job(), "page", "the connection was lost")
    assert page.answer(page.job())[0] == 200 and asked.result(5), "a failure of the page is tried again"
    asked = ask()
    for _ in range(3):
        page.fail(page.job(), "page", "no such file")
    with pytest.raises(ToolError, match="the page cannot measure: no such file"):
        asked.result(5)


def test_pages_learn_that_all_is_measured(page, exchange):
    exchange.end("25 of 25 workloads are measured.")
    assert page.post("next") == (410, {"message": "25 of 25 workloads are measured."})
    assert page.hello()[0] == 410


def test_files(server, page, tmp_path, exchange):
    model = tmp_path / "model.tflite"
    model.write_bytes(b"model")
    address = server.address(model)
    assert server.get(address).content == model and "immutable" in server.get(address).cache
    assert server.get("library/litert.js").content.read_text() == "export {}"
    for path in ("models/other.tflite", "library/", "library/..", "library/../x", "library/none.js", "../exchange.py"):
        assert server.get(path) is None, path
    assert b"live.js" in server.get("").content.read_bytes()


def about(**changes) -> About:
    return About(**{**ABOUT, **changes})


IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) {} Mobile/15E148 Safari/604.1"
UNKNOWN = {"model": "", "platform": "", "platform_version": "", "architecture": "", "browser": ""}


@pytest.mark.parametrize(
    ("agent", "names"),
    [
        (ABOUT["user_agent"], ("Chromium 156", "Android device", "Android")),
        (IPHONE.format("Version/18.3"), ("WebKit 18.3", "iPhone", "iOS 18.3")),
        (IPHONE.format("CriOS/156.0.0.0"), ("WebKit of iOS 18.3", "iPhone", "iOS 18.3")),
        (IPHONE.format("FxiOS/140.0"), ("WebKit of iOS 18.3", "iPhone", "iOS 18.3")),
        (
            "Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0",
            ("Gecko 140", "Android device", "Android"),
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.3 Safari/605.1.15",
            ("WebKit 18.3", "iPad", "macOS"),
        ),
        ("something else", ("unknown engine", "unknown computer", "unknown")),
    ],
)
def test_names_from_a_browser_that_tells_little(agent, names):
    page = about(user_agent=agent, **UNKNOWN)
    assert (engine(page), device_name(page), operating_system(page)) == names


def test_the_build_follows_from_browser_and_threads():
    assert settings_of(about(), "my phone", 1).device == "my phone"
    assert settings_of(about(), "", 1).build == "" and settings_of(about(relaxed_simd=False), "", 1).build == "compat"
    assert settings_of(about(), "", 4).build == "threaded"
    with pytest.raises(NasError, match=r"4 threads need https or localhost.*--https"):
        settings_of(about(isolated=False), "", 4)
    with pytest.raises(NasError, match=r"relaxed SIMD, which this browser does not have.*--threads 1"):
        settings_of(about(relaxed_simd=False), "", 4)


def test_threads_that_a_page_cannot_have_are_refused_on_the_page(server, exchange):
    exchange.threads = 4
    status, content = FakePage(server.url, isolated=False).hello()
    assert status == 409 and "--https" in content["problem"] and exchange.page is None

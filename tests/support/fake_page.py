"""A page of the `web` runtime without a browser: it speaks the page's protocol, rightly or wrongly."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

ABOUT = {
    "user_agent": "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Mobile Safari/537.36",
    "model": "Pixel 8",
    "platform": "Android",
    "platform_version": "15.0.0",
    "architecture": "arm 64",
    "browser": "Chromium 156.0.8078.108",
    "cores": 9,
    "touch": True,
    "relaxed_simd": True,
    "isolated": True,
    "secure": True,
    "clock_ms": 0.005,
    "wake_lock": True,
}


class FakePage:
    """A page.

    Args:
        url: of the server, with the token.
        page, phone: identifiers.
        about: what differs from `ABOUT`.
    """

    def __init__(self, url: str, page: str = "page", phone: str = "phone", **about: Any) -> None:
        self.url, self.page, self.phone, self.about = url, page, phone, {**ABOUT, **about}

    def post(self, path: str, body: bytes | None = None, **message: Any) -> tuple[int, dict[str, Any]]:
        """Status and content of the response; `body` replaces the message."""
        data = body if body is not None else json.dumps({"page": self.page, **message}).encode()
        request = urllib.request.Request(self.url + path, data)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            text = error.read()
            return error.code, json.loads(text) if text.startswith(b"{") else {"problem": text.decode()}

    def hello(self) -> tuple[int, dict[str, Any]]:
        return self.post("hello", phone=self.phone, about=self.about)

    def job(self) -> dict[str, Any]:
        """The next job."""
        for _ in range(50):
            status, content = self.post("next")
            assert status == 200, content
            if "visit" in content:
                return content
        raise AssertionError("there is no job")

    def work(self, jobs: int = 10**6, **changes: Any) -> str:
        """Answer jobs, until there are no more or `jobs` are answered; the last message."""
        for _ in range(jobs):
            status, content = self.post("next")
            if status != 200:
                return content.get("message", content.get("problem"))
            if "visit" in content:
                self.answer(content, **changes)
        return ""

    def answer(self, job: dict[str, Any], body: bytes | None = None, undisturbed: bool = True, **changes: Any):
        """Send a possible result, with what differs for its first model."""
        ok = {"models": results(job["visit"], **changes), "undisturbed": undisturbed}
        return self.post("answer", body, job=job["job"], ok=ok)

    def fail(self, job: dict[str, Any], kind: str, message: str = "some text"):
        return self.post("answer", job=job["job"], error={"kind": kind, "message": message})


def results(visit: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    """Possible results of a visit to files of 1000 bytes."""
    one = {
        "load_ms": 3.5,
        "file_bytes": 1000,
        "input_bytes": 200,
        "output_bytes": 100,
        "grown_bytes": 5000,
        "heap_bytes": 1 << 24,
        "samples_ms": [0.5] * visit["samples"],
    }
    return [{**one, **(changes if i == 0 else {})} for i in range(len(visit["models"]))]

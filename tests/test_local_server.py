"""The server of local pages: what it serves, what it refuses, and the headers that threads in a browser need."""

import contextlib
import http.client
import socket
import ssl
import threading
import urllib.error
import urllib.request

import pytest

from nas import local_server
from nas.errors import ConfigError, MissingDependency
from nas.local_server import ISOLATION_HEADERS, MAX_BODY, LocalServer, Reply


class Echo(LocalServer):
    def post(self, path, body):
        return Reply(body, kind="text/plain") if path == "echo" else None


@pytest.fixture
def served(tmp_path):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("<p>hello")
    (tmp_path / "page" / "a b.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "page" / "link").symlink_to(tmp_path / "secret.txt")
    server = Echo([tmp_path / "page"], "127.0.0.1", token="word")
    server.start()
    yield server
    server.close()
    server.close()


def ask(server, path, body=None, method=None, headers=None):
    """Status, headers and body of a request; `path` is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    with contextlib.suppress(ConnectionError):  # the server may answer and close before it has read all
        connection.request(method or ("POST" if body is not None else "GET"), path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def test_files_are_served_with_the_headers_that_threads_need(served):
    status, headers, body = ask(served, "/word/")
    assert (status, body, headers["Content-Type"]) == (200, b"<p>hello", "text/html; charset=utf-8")
    assert ISOLATION_HEADERS.items() <= dict(headers).items()
    status, headers, body = ask(served, "/word/a%20b.wasm?version=1")
    assert (status, body, headers["Content-Type"]) == (200, b"\0asm", "application/wasm")
    assert ask(served, "/word/", method="HEAD")[::2] == (200, b"")
    assert ask(served, "/word/echo", b"x")[::2] == (200, b"x")


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/index.html", "/wrong/index.html", "/wor", "/word", "/word/none", "/word/../secret.txt", "/word/."),
        *("/word/%2e%2e/secret.txt", "/word//etc/passwd", "/word/link", "/word/a%00b", "/word/..%5csecret.txt"),
    ],
)
def test_nothing_else_is_served(served, path):
    for body in (None, b"x"):
        assert ask(served, path, body)[0] == 404


def test_a_post_needs_a_length_below_the_limit(served):
    assert ask(served, "/word/echo", b"x" * MAX_BODY)[0] == 200
    for headers, status in (({"Content-Length": str(MAX_BODY + 1)}, 413), ({"Content-Length": "-1"}, 411)):
        assert ask(served, "/word/echo", b"", headers=headers)[0] == status
    assert ask(served, "/word/echo", iter([b"x"]))[0] == 411  # chunked


def test_a_browser_that_goes_away_or_sends_rubbish_disturbs_no_other(served, capfd):
    with socket.create_connection(("127.0.0.1", served.server_port)) as connection:
        connection.sendall(b"POST /word/echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nx")
    with socket.create_connection(("127.0.0.1", served.server_port)) as connection:
        connection.sendall(b"\x16\x03\x01rubbish\r\n\r\n")
        connection.recv(1000)
    assert ask(served, "/word/")[0] == 200
    assert capfd.readouterr().err == ""


def test_a_port_in_use_is_an_error_that_names_it(served):
    with pytest.raises(ConfigError, match=f"port {served.server_port}: is in use; give another --port"):
        LocalServer([], "127.0.0.1", served.server_port)
    with pytest.raises(ConfigError, match="give another --port"):
        LocalServer([], "127.0.0.1", 70000)


def test_addresses(served, monkeypatch):
    assert served.url == f"http://localhost:{served.server_port}/word/" and served.network_url is None
    monkeypatch.setattr(local_server, "network_address", lambda: "192.168.1.7")
    everywhere = LocalServer([])
    assert everywhere.network_url == f"http://192.168.1.7:{everywhere.server_port}/"
    everywhere.close()


def test_https_with_a_certificate_of_its_own(tmp_path):
    (tmp_path / "index.html").write_text("hello")
    certificate = local_server.self_signed_certificate(tmp_path)
    assert certificate.stat().st_mode & 0o077 == 0 and not (tmp_path / "key.pem").exists()
    server = LocalServer([tmp_path], "127.0.0.1", certificate=certificate)
    server.start()
    with socket.create_connection(("127.0.0.1", server.server_port)):  # sends nothing, and blocks nobody
        trusting = ssl.create_default_context(cafile=certificate)
        with urllib.request.urlopen(server.url, context=trusting, timeout=10) as answer:
            assert server.url.startswith("https://localhost:") and answer.read() == b"hello"
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(server.url, timeout=10)
    server.close()


def test_https_without_openssl_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="openssl"):
        local_server.self_signed_certificate(tmp_path)


def test_a_qr_code_is_square():
    pytest.importorskip("segno")
    lines = local_server.qr_code("http://192.168.1.7:45123/word/").splitlines()
    assert len(lines) > 12 and {len(line) for line in lines} == {len(lines[0])}
    assert abs(2 * len(lines) - len(lines[0])) <= 1  # a character is two points high


def test_closing_ends_the_thread(tmp_path):
    before = threading.active_count()
    server = LocalServer([tmp_path], "127.0.0.1")
    server.start()
    server.close()
    assert threading.active_count() == before

"""An HTTP server that shows a page of this library in a browser: on this machine, or on a phone in the same network."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from nas.errors import ConfigError, MissingDependency, NasError

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}
ISOLATION_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""With these, and https or localhost, a page may use threads and a clock of a few microseconds."""
FOREVER = "max-age=31536000, immutable"
"""The `Cache-Control` of a file whose address contains the hash of its content."""
MAX_BODY = 1 << 20
"""Bytes of a posted body."""
IDLE_S = 60.0
"""After so long without a request, a connection is closed."""


@dataclass(frozen=True)
class Reply:
    """The answer to a request.

    Attributes:
        content: bytes, or a file to send.
        kind: content type; by default that of the file's suffix.
        cache: value of `Cache-Control`.
    """

    content: bytes | Path = b""
    status: int = 200
    kind: str = ""
    cache: str = "no-cache"


class LocalServer(ThreadingHTTPServer):
    """Serves the files of folders; a subclass may answer other requests.

    Args:
        folders: where a requested file is looked for, in this order. The address `/` is `index.html`.
        host: address to listen on; empty for all networks of this machine.
        port: 0 for a free one.
        token: all addresses begin with it, so that only who knows it sees anything; empty for none.
        certificate: a PEM file with key and certificate, to serve over https; see `self_signed_certificate`.

    Raises:
        ConfigError: the port is in use, or the address is not this machine's.
    """

    headers: ClassVar[Mapping[str, str]] = ISOLATION_HEADERS
    """Headers of every answer, beside those that describe its content."""
    daemon_threads = True
    allow_reuse_address = sys.platform != "win32"

    def __init__(
        self,
        folders: Sequence[Path],
        host: str = "",
        port: int = 0,
        token: str = "",
        certificate: Path | None = None,
    ) -> None:
        self.folders = [folder.resolve() for folder in folders]
        self.host, self.token, self.scheme = host, token, "https" if certificate else "http"
        self.thread: threading.Thread | None = None
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            in_use = getattr(error, "errno", None) == errno.EADDRINUSE
            problem = "is in use" if in_use else f"cannot be used: {getattr(error, 'strerror', None) or error}"
            raise ConfigError(f"port {port}: {problem}; give another --port") from None
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # the handshake happens in the connection's own thread, so that a slow browser does not block others
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def get(self, path: str) -> Reply | None:
        """The answer to GET; None if there is no such file.

        Args:
            path: without the token and the first slash, decoded.
        """
        if "\0" in path or "\\" in path:
            return None
        for folder in self.folders:
            file = (folder / (path or "index.html")).resolve()
            if file.is_relative_to(folder) and file.is_file():
                return Reply(file)
        return None

    def post(self, path: str, body: bytes) -> Reply | None:
        """The answer to POST; None if nothing can be posted there."""
        return None

    def start(self) -> None:
        """Serve in a thread until `close`."""
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Stop serving. Closing twice is allowed."""
        if self.thread is not None:
            self.shutdown()
            self.thread.join()
            self.thread = None
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing if a browser closes its connection."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """The address for a browser on this machine."""
        return self._url("localhost" if self.host in ("", "0.0.0.0", "127.0.0.1") else self.host)

    @property
    def network_url(self) -> str | None:
        """The address for another device in the same network; None without a network."""
        if self.host not in ("", "0.0.0.0"):
            return None if self.host in ("127.0.0.1", "localhost") else self.url
        address = network_address()
        return address and self._url(address)

    def _url(self, host: str) -> str:
        return f"{self.scheme}://{host}:{self.server_port}/{self.token + '/' if self.token else ''}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server: LocalServer

    def log_message(self, *arguments: object) -> None:
        """Print nothing: the terminal shows progress."""

    def do_GET(self) -> None:
        path = self._path()
        self._send(None if path is None else self.server.get(path))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path, length = self._path(), self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or len(length) > 10:
            self.close_connection = True
            return self._send(Reply(b"the request has no length", 411, "text/plain"))
        if int(length) > MAX_BODY:
            self.close_connection = True
            return self._send(Reply(b"the request is too large", 413, "text/plain"))
        body = self.rfile.read(int(length))
        self._send(None if path is None else self.server.post(path, body))

    def _path(self) -> str | None:
        """The requested path after the token; None without the right token."""
        path = unquote(urlsplit(self.path).path)
        prefix = f"/{self.server.token}/" if self.server.token else "/"
        return path.removeprefix(prefix) if path.startswith(prefix) else None

    def _send(self, reply: Reply | None) -> None:
        reply = reply or Reply(b"not found", 404, "text/plain")
        with contextlib.ExitStack() as stack:
            try:
                file = (
                    io.BytesIO(reply.content)
                    if isinstance(reply.content, bytes)
                    else stack.enter_context(open(reply.content, "rb"))
                )
            except OSError:
                return self._send(None)
            size = file.seek(0, 2)
            file.seek(0)
            tag = ""
            if isinstance(reply.content, Path):  # a browser keeps a file as long as its tag stays the same
                status = os.stat(file.fileno())
                tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            unchanged = tag != "" and self.headers.get("If-None-Match") == tag
            suffix = reply.content.suffix if isinstance(reply.content, Path) else ""
            self.send_response(304 if unchanged else reply.status)
            self.send_header("Content-Type", reply.kind or CONTENT_TYPES.get(suffix, "application/octet-stream"))
            if not unchanged:
                self.send_header("Content-Length", str(size))
            if tag:
                self.send_header("ETag", tag)
            self.send_header("Cache-Control", reply.cache)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            for name, value in self.server.headers.items():
                self.send_header(name, value)
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD" and not unchanged:
                shutil.copyfileobj(file, self.wfile, 1 << 20)


def network_address() -> str | None:
    """The address of this machine in its network; None without one. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # an address that is reserved for documents: only the route is looked up
        address = probe.getsockname()[0]
        return None if address.startswith("127.") or address == "0.0.0.0" else address
    return None


def self_signed_certificate(folder: Path) -> Path:
    """A PEM file with a key and a certificate that no authority signed, for https in the local network.

    A browser warns of it once. It is written with the `openssl` program, is valid for a year, and only the user may
    read it.

    Args:
        folder: an existing folder, from which an earlier certificate is deleted.

    Raises:
        MissingDependency: `openssl` is not installed.
        NasError: it failed.
    """
    path = folder / "certificate.pem"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    key = folder / "key.pem"
    key.unlink(missing_ok=True)
    key.touch(mode=0o600)
    names = ",".join(["DNS:localhost", *(f"IP:{address}" for address in [network_address()] if address)])
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "365", "-subj", "/CN=nas", "-addext", f"subjectAltName={names}", "-keyout", str(key)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise MissingDependency("https needs the 'openssl' program; install it, or serve without https") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise NasError(f"openssl cannot make a certificate: {lines[-1][:200]}; serve without https")
    path.write_text(key.read_text() + done.stdout)
    key.unlink()
    return path


def qr_code(text: str) -> str:
    """A QR code as lines of block characters, for a terminal; empty if the `segno` package is not installed."""
    try:
        import segno
    except ImportError:
        return ""
    out = io.StringIO()
    segno.make(text, error="l", boost_error=False).terminal(out, border=2, compact=True)
    return out.getvalue().rstrip("\n")

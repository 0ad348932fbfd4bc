"""Serve an exported web page to the browsers of the local network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

from nas.caches import usable, user_cache
from nas.errors import ConfigError
from nas.exported import manifest
from nas.local_server import ISOLATION_HEADERS, LocalServer, network_address, self_signed_certificate

PORT = 8000
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of the page, and of its workers, which a policy inside the page does not cover: no request to any other host."""
CERTIFICATE_DAYS = 300


class ExportServer(LocalServer):
    """Serves the folder of `nas export --format web`.

    Args:
        folder: the export folder.
        port: 0 for a free one.
        https: serve over https with a self-signed certificate, which the browser warns of once.

    Raises:
        ConfigError: the folder is not a web export, a file is missing, or the port is in use.
        MissingDependency: `https` is set, and `openssl` is not installed.
    """

    headers: ClassVar = {**ISOLATION_HEADERS, "Content-Security-Policy": CONTENT_POLICY}

    def __init__(self, folder: str | Path, port: int = PORT, https: bool = False) -> None:
        folder = Path(folder)
        check(folder)
        super().__init__([folder], port=port, certificate=_certificate() if https else None)


def check(folder: Path) -> None:
    """Check that each file of a web export is there.

    Raises:
        ConfigError: it is not a web export, or a file is missing or has another size.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give one that 'nas export --format web' wrote")
    for file in manifest.read(folder, "web").files:
        path = folder / file.path
        if not path.is_file() or path.stat().st_size != round(file.size_mb * 1e6):
            problem = "was changed" if path.is_file() else "is missing"
            raise ConfigError(f"{path}: {problem}; run 'nas export --format web' again with this folder as --out")


def _certificate() -> Path:
    """The certificate for this machine's address: kept in the cache, so that a phone has to accept it only once."""
    folder = usable(user_cache("certificates") / (network_address() or "localhost"))
    path = folder / "certificate.pem"
    if path.exists() and path.stat().st_size and time.time() - path.stat().st_mtime < CERTIFICATE_DAYS * 86400:
        return path
    return self_signed_certificate(folder)

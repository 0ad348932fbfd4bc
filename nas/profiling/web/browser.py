"""A browser on this machine, started without a window, to measure in."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from nas.errors import ConfigError
from nas.failures import ToolError
from nas.profiling.temporary import TemporaryFolder

FLAGS = (
    "--headless=new",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--mute-audio",
    "--enable-logging=stderr",
    "--remote-debugging-pipe",
)
WITH_PIPE = ("/bin/sh", "-c", 'exec "$@" 3<&0 4>/dev/null', "sh")
"""Gives a browser with `--remote-debugging-pipe` its standard input as that pipe: the browser ends when it is closed, and so
with this process, even one that is killed."""
STARTS = 3
"""How often a browser that ends is started again before it has measured anything."""


class LocalBrowser:
    """A browser of the Chromium family with a page open; started again when it ends.

    Args:
        program: name or path.
        url: of the page.

    Raises:
        ConfigError: there is no such program.
    """

    def __init__(self, program: str, url: str) -> None:
        path = shutil.which(program)
        if path is None:
            raise ConfigError(f"--browser {program}: no such program; give a Chromium, or open the page by hand")
        self.folder = TemporaryFolder("nas-browser-")
        self.url, self.starts = url, 0
        # Chromium's sandbox does not work for root
        sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        self.command = [path, *FLAGS, *sandbox, f"--user-data-dir={self.folder.path / 'profile'}", f"{url}#browser"]
        self.log: Path = self.folder.path / "log.txt"
        self.process = self._start()

    def check(self) -> None:
        """Start the browser again if it has ended.

        Raises:
            ToolError: it ends again and again.
        """
        code = self.process.poll()
        if code is not None:
            self.restart(f"ends with status {code}")

    def restart(self, reason: str) -> None:
        """End the browser if it still runs, and start it again.

        Raises:
            ToolError: it has been started often enough without a measurement.
        """
        if self.starts >= STARTS:
            raise ToolError(f"the browser {self.command[0]} {reason}: {self.last_message()}")
        self._kill()
        self.process = self._start()

    def works(self) -> None:
        """Note that it has measured something."""
        self.starts = 0

    def last_message(self) -> str:
        """The last line of its log, preferably of the page."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        of_page = [line for line in lines if "CONSOLE" in line]
        return (of_page or lines or ["it printed nothing"])[-1][:300]

    def close(self) -> None:
        """End it. Closing twice is allowed."""
        self._kill()
        self.folder.close()

    def _start(self) -> subprocess.Popen:
        self.starts += 1
        with open(self.log, "ab") as log:
            command = [*WITH_PIPE, *self.command]
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)

    def _kill(self) -> None:
        """End all processes of the browser."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()

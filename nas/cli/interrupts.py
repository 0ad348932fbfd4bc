"""Ctrl-C, wherever it arrives."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

LOOK_EVERY_S = 0.05


class Interrupts:
    """Turns Ctrl-C into KeyboardInterrupt where that is heard.

    Python raises it at whatever the main thread is doing. In the middle of an import it becomes an ImportError of the
    package or leaves half a module behind, and in a finalizer it is printed and forgotten: there it waits until they
    are over. A second Ctrl-C does not wait.

    Attributes:
        seen: whether it was pressed. What is raised afterwards, whatever it is, comes of that.
    """

    def __init__(self) -> None:
        self.seen = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        # A handler that somebody else chose stays, such as the one that ignores Ctrl-C in a shell's background jobs.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            try:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._pressed)
                self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._look)
            except ValueError:  # not the main thread, which alone hears signals
                pass
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        again, self.seen = self.seen, True
        if again or not _deaf(frame):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, LOOK_EVERY_S, LOOK_EVERY_S)

    def _look(self, number: int, frame: FrameType | None) -> None:
        if not _deaf(frame):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt


def _deaf(frame: FrameType | None) -> bool:
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib") or code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False

"""Handling Ctrl-C at any point of a command, also during imports."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

CHECK_INTERVAL_S = 0.05


class Interrupts:
    """Turns Ctrl-C into KeyboardInterrupt, but not inside imports and finalizers.

    Inside an import, KeyboardInterrupt may become an ImportError or leave a partial module; inside a finalizer Python
    prints and ignores it. There it is delayed until they are done, unless Ctrl-C is pressed again.

    Attributes:
        seen: whether Ctrl-C was pressed. Any exception raised afterwards is treated as its consequence.
    """

    def __init__(self) -> None:
        self.seen = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        # Keep a handler set by someone else, such as the one that ignores Ctrl-C in a shell's background jobs.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            try:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._pressed)
                self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._check)
            except ValueError:  # not the main thread, which alone receives signals
                pass
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        again, self.seen = self.seen, True
        if again or not _must_wait(frame):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, CHECK_INTERVAL_S, CHECK_INTERVAL_S)

    def _check(self, number: int, frame: FrameType | None) -> None:
        if not _must_wait(frame):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt


def _must_wait(frame: FrameType | None) -> bool:
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib") or code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False

"""The exchange between the profiler and a page: one page at a time, one job at a time, safe against lost pages.

A job is a visit (`nas.profiling.web.messages.Visit`), which says all that a page must know. So a page that is closed,
killed or reloaded loses one visit only, and the job is given to the next page that connects.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nas.errors import ConfigError, NasError
from nas.failures import Infeasible, ToolError
from nas.profiling.web.messages import About, Alive, Answer, Hello, Visit, VisitFailure, VisitResult, check_result
from nas.profiling.web.settings import BUILDS, Settings, settings_of

POLL_S = 15.0
"""How long a request for work is held when there is none."""
SILENT_S = 12.0
"""A page that sent nothing for so long is not there; another phone may take its place."""
KILLED, KILLED_SMALL = 3, 10
"""A workload during which the page died so often is infeasible; one that needs little memory is hardly the reason."""
REFUSED = 3
"""Results that cannot be right, or failures of the page, after which a job is given up."""
TIMEOUT_S = 900.0
"""How long a page in front may take for a visit."""

Response = tuple[int, dict[str, Any]]


@dataclass
class Page:
    """The page that measures.

    Attributes:
        page, phone: its identifiers.
        about: its browser.
        seen_s: when it sent something last, by `time.monotonic`.
        hidden: whether it is in the background.
        left: whether it said that it is closed.
    """

    page: str
    phone: str
    about: About
    seen_s: float
    hidden: bool = False
    left: bool = False

    @property
    def there(self) -> bool:
        """Whether it can be expected to answer."""
        return not self.left and time.monotonic() - self.seen_s < SILENT_S


@dataclass
class Job:
    """A visit to be done.

    Attributes:
        sizes: bytes of its files.
        title: for the page.
        small: whether it needs little memory.
        given_to: identifier of the page that does it; empty if none.
        given_s: since when.
        killed: how many pages died meanwhile.
        refused: how many answers could not be used.
        outcome: the result, or the error to raise.
    """

    number: int
    visit: Visit
    sizes: tuple[int, ...]
    title: str
    small: bool = False
    given_to: str = ""
    given_s: float = 0.0
    killed: int = 0
    refused: int = 0
    outcome: VisitResult | Exception | None = None


@dataclass(frozen=True)
class Progress:
    """For the page: workloads measured, of how many, the share of the work that is done, and the seconds left."""

    done: int = 0
    total: int = 0
    share: float = 0.0
    left_s: float | None = None


class Exchange:
    """Gives jobs to the page, and takes its answers.

    The methods named after messages are called by the threads of the server and return status and content of the
    response; the others are called by the profiler.

    Args:
        device: name of the device; empty to name it after the browser's description.
        threads: of the interpreter.

    Attributes:
        settings: of the first page; a page with others is refused.
        progress: shown by the page.
        disturbed: number of visits that were repeated because the page was in the background.
        screens: what pages said about the screen.
        ended: the message for pages once there is no more work.
    """

    def __init__(self, device: str = "", threads: int = 1) -> None:
        self.device, self.threads = device, threads
        self.changed = threading.Condition()
        self.settings: Settings | None = None
        self.progress = Progress()
        self.disturbed = 0
        self.screens: set[str] = set()
        self.page: Page | None = None
        self.job: Job | None = None
        self.ended: str | None = None
        self._numbers = itertools.count(1)

    def hello(self, message: Hello) -> Response:
        """A page connects."""
        try:
            settings = settings_of(message.about, self.device, self.threads)
        except NasError as error:
            return 409, {"problem": str(error)}
        with self.changed:
            if self.ended is not None:
                return 410, {"message": self.ended}
            if self.settings not in (None, settings):
                return 409, {
                    "problem": f"This table is measured on: {self.settings.text}. This page is on: {settings.text}. "
                    "One table holds one device, browser and build; measure another table here."
                }
            old = self.page
            if old is not None and old.phone != message.phone and old.there:
                return 409, {
                    "problem": f"Another phone ({self.settings.device}) or browser is measuring. Close its page, and this "
                    "one continues by itself."
                }
            self._lose(old)
            self.settings = settings
            self.page = Page(message.page, message.phone, message.about, time.monotonic())
            self.screens.add(message.screen)
            self.changed.notify_all()
            content = {"device": settings.device, "engine": settings.engine, "wasm": BUILDS[settings.build]}
            return 200, {**content, "threads": settings.threads}

    def next(self, message: Alive) -> Response:
        """A page asks for work. Answers with a job, or without one after a while."""
        until = time.monotonic() + POLL_S
        with self.changed:
            while True:
                if self.ended is not None:
                    return 410, {"message": self.ended}
                if not self._heard(message):
                    return _displaced()
                job = self.job
                if job is not None and job.outcome is None:
                    job.given_to, job.given_s = message.page, time.monotonic()
                    visit = job.visit.to_dict()
                    return 200, {"job": job.number, "title": job.title, "visit": visit, "progress": vars(self.progress)}
                left = until - time.monotonic()
                if left <= 0:
                    return 200, {"progress": vars(self.progress)}
                self.changed.wait(min(left, 1.0))

    def answer(self, message: Answer) -> Response:
        """A page sends the result of a job. One that cannot be right is refused, and the job given out again."""
        with self.changed:
            job = self.job
            if not self._heard(Alive(message.page, screen=message.screen)):
                return _displaced()
            if job is None or job.number != message.job or job.given_to != message.page or job.outcome is not None:
                return 409, {"problem": f"job {message.job} is not waited for"}
            status, content = 200, {}
            try:
                self._take(job, message)
            except ConfigError as error:
                self._refuse(job, f"the page sent a result that cannot be right: {error}")
                status, content = 400, {"problem": str(error)}
            job.given_to = ""
            self.changed.notify_all()
            return status, content

    def malformed(self, error: str) -> Response:
        """A page sent an answer that is no message."""
        with self.changed:
            if self.job is not None and self.job.given_to:
                self._refuse(self.job, f"the page sent a result that cannot be right: {error}")
                self.changed.notify_all()
        return 400, {"problem": error}

    def alive(self, message: Alive) -> Response:
        """A page tells that it works, and learns whether its job is still wanted."""
        with self.changed:
            if not self._heard(message):
                return _displaced()
            wanted = self.job is not None and self.job.number == message.job and self.job.outcome is None
            return 200, {"wanted": wanted, "progress": vars(self.progress)}

    def bye(self, message: Alive) -> Response:
        """A page is closed by its user: the workload did not kill it."""
        with self.changed:
            if self.page is not None and self.page.page == message.page:
                self.page.left = True
                if self.job is not None and self.job.given_to == message.page:
                    self.job.given_to = ""
        return 200, {}

    def end(self, message: str) -> None:
        """Tell pages that ask that there is no more work."""
        with self.changed:
            self.ended = message
            self.changed.notify_all()

    def ask(
        self,
        visit: Visit,
        sizes: tuple[int, ...] = (),
        title: str = "",
        watch: Callable[[], None] = lambda: None,
        small: bool = False,
    ) -> VisitResult:
        """Have a visit done, however long it takes until a page is there.

        Args:
            sizes: bytes of the visit's files.
            title: what the page shows.
            watch: called about twice a second while waiting; may raise.
            small: whether it needs so little memory that it does not kill a page.

        Raises:
            Infeasible: the workload failed, killed the page, or took too long.
            ToolError: the page cannot do it for another reason.
        """
        job = Job(next(self._numbers), visit, sizes, title, small)
        with self.changed:
            self.job = job
            self.changed.notify_all()
            try:
                running_s = 0.0
                while job.outcome is None:
                    before = time.monotonic()
                    self.changed.wait(0.5)
                    if job.given_to and self.page is not None and self.page.there and not self.page.hidden:
                        running_s += min(1.0, time.monotonic() - before)
                    if running_s > TIMEOUT_S:
                        raise Infeasible(f"no answer within {TIMEOUT_S:.0f} s")
                    watch()
            finally:
                self.job = None
        if isinstance(job.outcome, Exception):
            raise job.outcome
        return job.outcome

    def wait_for_page(self, watch: Callable[[], None] = lambda: None) -> Page:
        """The first page that connects."""
        with self.changed:
            while self.page is None:
                self.changed.wait(0.5)
                watch()
            return self.page

    @property
    def page_is_there(self) -> bool:
        """Whether a page is connected and can be expected to answer."""
        with self.changed:
            return self.page is not None and self.page.there

    def _heard(self, message: Alive) -> bool:
        """Note that a page sent something; False if it is not the one that measures."""
        if self.page is None or self.page.page != message.page:
            return False
        self.page.seen_s, self.page.hidden, self.page.left = time.monotonic(), message.hidden, False
        self.screens.add(message.screen)
        return True

    def _lose(self, old: Page | None) -> None:
        """Take the job back from a page that another one replaces."""
        job = self.job
        if old is None or job is None or job.given_to != old.page or job.outcome is not None:
            return
        job.given_to = ""
        job.killed += 1
        if job.killed >= (KILLED_SMALL if job.small else KILLED):
            job.outcome = Infeasible(
                f"the browser ended the page {job.killed} times while it ran, probably for lack of memory"
            )
        self.changed.notify_all()

    def _take(self, job: Job, message: Answer) -> None:
        if message.error is not None:
            return self._failed(job, message.error)
        elapsed_ms = (time.monotonic() - job.given_s) * 1e3
        check_result(message.ok, job.visit, job.sizes, elapsed_ms)
        if message.ok.undisturbed:
            job.outcome = message.ok
        else:
            self.disturbed += 1

    def _failed(self, job: Job, error: VisitFailure) -> None:
        if error.kind == "page":
            self._refuse(job, reason(error))
        else:
            job.outcome = Infeasible(reason(error))

    def _refuse(self, job: Job, problem: str) -> None:
        job.refused += 1
        if job.refused >= REFUSED:
            job.outcome = ToolError(
                f"{problem}; reload the page and run the same command again: finished rows are kept"
            )


def reason(error: VisitFailure) -> str:
    """Why a visit failed, for a person."""
    text = " ".join(error.message.split())[:250]
    if error.kind == "page":
        return f"the page cannot measure: {text}"
    return f"out of memory: {text}" if error.kind == "memory" else f"LiteRT.js cannot run it: {text}"


def _displaced() -> Response:
    return 409, {"problem": "Another page measures now. To measure here, close that one and reload this one."}

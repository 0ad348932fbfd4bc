"""The `web` runtime: LiteRT models in the browser of a phone, or of this machine, by LiteRT.js.

This machine converts the models and serves a page. The page, opened on the phone, loads and times what it is told to, and
the measurement protocol stays here. Each block of runs is a visit of its own: a fresh worker, with memory of its own, loads
the models, warms up, and times them. So a phone holds one workload at a time, and a page that is closed or killed loses
one block.
"""

from __future__ import annotations

import secrets
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from nas import web_libraries
from nas.caches import usable, user_cache
from nas.errors import ConfigError
from nas.local_server import qr_code, self_signed_certificate
from nas.profiling.compile import COPIES, CompiledWorkload
from nas.profiling.litert_models import LitertConverter, fastest_variant
from nas.profiling.runtimes.base import ConvertedModel, InModelWorkload, Runnable, Runtime, Session, WorkloadStats
from nas.profiling.temporary import TemporaryFolder
from nas.profiling.web.browser import LocalBrowser
from nas.profiling.web.exchange import Exchange, Progress
from nas.profiling.web.messages import ModelResult, Visit
from nas.profiling.web.models import differences, is_small, models_of, stats_of
from nas.profiling.web.server import PageServer
from nas.profiling.web.settings import provenance
from nas.spaces import Operator, Workload

SAMPLES = 5
"""Samples of a block, from the fastest tenth of its timings; each is a mean over as many runs as the page's clock needs."""
WARM_MS = 300.0
"""Shortest warm-up: browsers compile code again while it runs."""
TRIALS, TRIALS_S = 3, 30.0
"""Blocks that try each variant of an operator; no more are timed after the time is used up."""
EXPECTED_BLOCKS = 8
"""Blocks of a workload, to estimate the time left."""
END_S = 1.0
"""How long the page may take to learn that all is measured."""
LOST_S = 40.0
"""A browser on this machine that does not show the page for so long is started again: a killed tab stays empty."""
REMIND_S = 30.0
"""After so long without the page, the terminal shows its address again."""


class WebRuntime(Runtime):
    """LiteRT models in float32 in a browser, on WebAssembly.

    As with `litert`, an operator's latency is the time that it adds to a graph, its variants are tried, and the fastest is
    measured.

    Args:
        device: a name for the phone; `local` to name it after what the browser tells.
        threads: of the interpreter; more than one needs https or localhost.
        cache: folder of converted models; by default in the user's cache folder.
        browser: a Chromium to start on this machine without a window, instead of waiting for a phone.
        port: of the page's address; 0 for a free one.
        https: serve over https, with a certificate that the phone's user must accept once.

    Raises:
        ConfigError: the port is in use, the browser does not exist, or the cache cannot be written.
        MissingDependency: LiteRT.js, or for https openssl, is not installed.
    """

    name = "web"
    in_model = True
    cap_factor = 10.0  # a block takes three seconds, in noise up to nine

    def __init__(
        self,
        device: str = "local",
        threads: int = 1,
        cache: str | Path | None = None,
        browser: str | None = None,
        port: int = 0,
        https: bool = False,
    ) -> None:
        if not device.strip() or len(device) > 100:
            raise ConfigError("--device: give the phone a name of 1 to 100 characters")
        library = web_libraries.folder()
        self.converted = LitertConverter(usable(Path(cache) if cache else user_cache("litert")))
        self.exchange = Exchange("" if device == "local" else device, threads)
        self.folder = TemporaryFolder("nas-web-") if https else None
        self.server = PageServer(
            self.exchange,
            library,
            host="127.0.0.1" if browser else "",
            port=port,
            token=secrets.token_urlsafe(9),
            certificate=self_signed_certificate(self.folder.path) if https else None,
        )
        self.server.start()
        self.browser: LocalBrowser | None = None
        try:
            if browser:
                self.browser = LocalBrowser(browser, self.server.url)
            else:
                self._show_address()
        except BaseException:
            self.close()
            raise
        self.shares: dict[str, float] = {}
        self.started_s = self.reminded_s = time.monotonic()
        self.done = self.total = self.done_before = 0

    def describe(self) -> dict[str, Any]:
        page = self.exchange.wait_for_page(self._watch)
        return {**provenance(self.exchange.settings, page.about), "screen": self._screen()}

    def progressed(self, done: int, total: int) -> None:
        if not self.total:
            self.started_s, self.done_before = time.monotonic(), done
        self.done, self.total = done, total
        self._update_progress()

    def open(self, workload: Runnable | CompiledWorkload) -> Session:
        if isinstance(workload, CompiledWorkload):
            return self._compiled(workload)
        inner = workload.workload if isinstance(workload, InModelWorkload) else workload
        if not (isinstance(inner, Workload) and isinstance(inner.part, Operator)) or inner is self.reference:
            model = self.converted(inner)
            keep = "reference" if inner is self.reference else ""
            return WebSession(self, inner, [model], self._stats(inner, [model]), keep)
        from nas.conversion.variants import variants_of

        variant = self._fastest(inner, variants_of(inner.kind))
        pair = self._pair(inner, variant)
        alone = WebSession(self, inner, pair, self._stats(inner, pair))
        return self.reopen(workload, alone.stats) if isinstance(workload, InModelWorkload) else alone

    def reopen(self, workload: Runnable | CompiledWorkload, stats: WorkloadStats) -> Session:
        if isinstance(workload, InModelWorkload):
            bare = self.converted(workload.space.backbone_workload())
            whole = replace(self.converted(workload.whole_with(stats.variant)), copies=1 + workload.copies)
            return WebSession(self, workload, [bare, whole], stats)
        if isinstance(workload, Workload) and isinstance(workload.part, Operator) and workload is not self.reference:
            return WebSession(self, workload, self._pair(workload, stats.variant), stats)
        return self.open(workload)

    def open_graph(self, workload: Runnable) -> Session:
        """A session on the workload's own graph in its reference variant, including the overhead of calling a graph; to
        compare the profiler with a table of separate measurements."""
        model = self.converted(workload)
        return WebSession(self, workload, [model], self._stats(workload, [model]))

    def close(self) -> None:
        self.converted.close()
        waiting = self.exchange.ended is None and self.exchange.page_is_there
        self.exchange.end(f"{self.done} of {self.total} workloads are measured." if self.total else "")
        if waiting and not self.browser:
            time.sleep(END_S)
        self.server.close()
        for part in (self.browser, self.folder):
            if part is not None:
                part.close()

    def visit(
        self,
        workload: Runnable | CompiledWorkload,
        models: list[ConvertedModel],
        samples: int,
        title: str,
        keep: str = "",
    ) -> tuple[ModelResult, ...]:
        """Load models in a worker of the page, and time them.

        Args:
            workload: whose models these are.
            samples: of each model; 0 to load them only.
            title: what the page shows.
            keep: see `Visit.keep`.

        Raises:
            Infeasible: the page cannot run them.
            ToolError: the page or the browser fails for another reason.
        """
        self.reminded_s = time.monotonic()  # nobody looked for the page while a model was converted
        self.exchange.wait_for_page(self._watch)
        settings = self.exchange.settings
        addresses = tuple(self.server.address(model.path) for model in models)
        visit = Visit(addresses, samples, settings.build, settings.threads, WARM_MS, keep)
        sizes = tuple(model.path.stat().st_size for model in models)
        result = self.exchange.ask(visit, sizes, title, self._watch, is_small(workload, models))
        if self.browser is not None:
            self.browser.works()
        return result.models

    def visited(self, workload: str, step: float) -> None:
        """Note for the page that a share of a workload's work is done."""
        self.shares[workload] = min(0.95, self.shares.get(workload, 0.0) + step)
        self._update_progress()

    def _pair(self, workload: Workload, variant: str) -> list[ConvertedModel]:
        return [self.converted(workload, variant), self.converted(workload, variant, COPIES)]

    def _fastest(self, workload: Workload, variants: tuple[str, ...]) -> str:
        pairs = {variant: self._pair(workload, variant) for variant in variants}

        def trial_ms(variant: str) -> float:
            results = self.visit(workload, pairs[variant], SAMPLES, f"Comparing variants of {title(workload)}")
            return median(differences(pairs[variant], results))

        return fastest_variant(variants, trial_ms, TRIALS, TRIALS_S)

    def _stats(self, workload: Runnable | CompiledWorkload, models: list[ConvertedModel]) -> WorkloadStats:
        """Memory and load time, each model in a fresh worker."""
        loaded = [self.visit(workload, [model], 0, "Loading")[0] for model in models]
        return stats_of(models, loaded)

    def _compiled(self, package: CompiledWorkload) -> Session:
        """A session on files that are compiled already, such as a bundle's."""
        models = models_of(package)
        keep = "reference" if package is self.reference else ""
        return WebSession(self, package, models, self._stats(package, models), keep)

    def _update_progress(self) -> None:
        if not self.total:
            return
        share = min(1.0, (self.done + sum(self.shares.values())) / self.total)
        begun = self.done_before / self.total
        spent_s = time.monotonic() - self.started_s
        left_s = spent_s * (1 - share) / (share - begun) if share - begun > 0.02 else None
        self.exchange.progress = Progress(self.done, self.total, share, left_s)

    def _screen(self) -> str:
        states = self.exchange.screens - {"unknown"}
        return "partly kept on" if len(states) > 1 else next(iter(states), "unknown")

    def _watch(self) -> None:
        """While waiting for the page: look after the browser, or show the address again."""
        now = time.monotonic()
        if self.exchange.page_is_there:
            self.reminded_s = now
        if self.browser is not None:
            self.browser.check()
            if now - self.reminded_s > LOST_S:
                self.browser.restart("does not work on the page")
                self.reminded_s = now
        elif now - self.reminded_s > REMIND_S:
            self.reminded_s = float("inf")
            url = self.server.network_url or self.server.url
            _say(f"waiting for the page; open {url} on the phone again, and measuring continues (Ctrl-C stops it)")

    def _show_address(self) -> None:
        url = self.server.network_url
        lines = [f"on this machine: {self.server.url}"]
        if url:
            code = qr_code(url) if sys.stderr.isatty() else ""
            lines = ["open this address on the phone, in the same network:", url, *([code] if code else []), *lines]
        _say("\n".join(lines))


class WebSession(Session):
    """One workload; each block is a visit.

    Args:
        workload: for the progress that the page shows.
        models: one model; or one with fewer and one with more copies of an operator, whose difference is timed.
        keep: see `Visit.keep`.
    """

    def __init__(
        self,
        runtime: WebRuntime,
        workload: Runnable | CompiledWorkload,
        models: list[ConvertedModel],
        stats: WorkloadStats,
        keep: str = "",
    ) -> None:
        self.runtime, self.workload, self.models, self.stats, self.keep = runtime, workload, models, stats, keep
        self.runs_per_block = None if keep else SAMPLES
        if not keep:
            runtime.visited(str(workload), 2 / EXPECTED_BLOCKS)

    def block(self, runs: int) -> list[float]:
        """Samples: at most `runs`, and at most `SAMPLES`."""
        samples = min(runs, SAMPLES)
        text = "Checking the speed of the phone" if self.keep else title(self.workload)
        results = self.runtime.visit(self.workload, self.models, samples, text, self.keep)
        if self.keep:
            return list(results[0].samples_ms)
        self.runtime.visited(str(self.workload), 1 / EXPECTED_BLOCKS)
        if len(self.models) == 1:
            return list(results[0].samples_ms)
        self.stats = replace(self.stats, tolerance_ms=median(results[0].samples_ms) / 1e3)
        return differences(self.models, results)

    def close(self) -> None:
        """Count the workload as done, for the page's progress."""
        self.runtime.shares.pop(str(self.workload), None)


def title(workload: object) -> str:
    """A workload for a person: its kind and shape."""
    inner = workload.workload if isinstance(workload, InModelWorkload) else workload
    if isinstance(inner, Workload):
        return f"{inner.kind} at {'x'.join(map(str, inner.shape[1:]))}"
    return "A whole model" if str(inner).startswith("Model[") else str(inner)


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()

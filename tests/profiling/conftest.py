"""Fixtures of these tests."""

import os
import sys
from pathlib import Path

import pytest

from nas.profiling.runtimes import eager
from nas.profiling.workers.pool import CONVERSION_TIMEOUT_S, OnDemandWorker, WorkerPool


@pytest.fixture(scope="session")
def converted_models(tmp_path_factory) -> Path:
    """A cache folder for XDG_CACHE_HOME, shared by all processes of a run: a LiteRT model takes seconds to convert."""
    root = tmp_path_factory.getbasetemp()
    return (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "converted"


@pytest.fixture(scope="session", autouse=True)
def kept_converter(converted_models):
    """Whatever converts to the shared cache folder does so in one process: importing the converters takes ten seconds.

    What has a cache folder of its own has a process of its own, as everywhere else, and so have commands.
    """
    modules = ("nas.profiling.workers.compile", "nas.profiling.workers.litert_convert")
    call, kept = OnDemandWorker.call, OnDemandWorker(modules[0])

    def shared(self, function, *arguments):
        here = os.environ.get("XDG_CACHE_HOME") == str(converted_models)
        here |= any(isinstance(a, Path) and a.is_relative_to(converted_models) for a in arguments)
        if self.module not in modules or not here:
            return call(self, function, *arguments)
        if kept.pool is None:
            environment = {"XDG_CACHE_HOME": str(converted_models)}
            kept.pool = WorkerPool(self.module, environment, CONVERSION_TIMEOUT_S, fork=False)
        kept.module = self.module
        return call(kept, function, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnDemandWorker, "call", shared)
        yield
    kept.close()


@pytest.fixture(scope="module")
def kept_processes():
    """The eager runtimes of a module share the process that has imported torch, which takes seconds. Closing a runtime
    leaves it, so tests of how processes end do not use this."""
    pools: dict[str, WorkerPool] = {}

    def kept(module: str, environment: dict[str, str]) -> WorkerPool:
        key = repr((module, environment, os.environ.get("XDG_CACHE_HOME"), sys.path))
        if key not in pools:
            pools[key] = WorkerPool(module, environment)
            pools[key].close = lambda: None
        return pools[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eager, "WorkerPool", kept)
        yield
    for pool in pools.values():
        WorkerPool.close(pool)

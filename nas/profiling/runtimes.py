"""The runtimes by name. A new one is one file and one line here."""

from __future__ import annotations

import importlib
from typing import Any

from nas.errors import ConfigError, suggestion
from nas.profiling.runtime import Runtime

RUNTIMES = {
    "eager": "nas.profiling.eager:EagerRuntime",
    "coreml": "nas.profiling.coreml:CoreMLRuntime",
    "litert": "nas.profiling.litert:LitertRuntime",
    "roofline": "nas.profiling.roofline:RooflineRuntime",
}
"""Name -> `module:class`, loaded when it is asked for: each needs libraries of its own."""


def make(runtime: str | Runtime, device: str = "local", **options: Any) -> Runtime:
    """The runtime of that name on that device; a runtime that is given already is used as it is.

    Raises:
        ConfigError: no such runtime, device or option.
    """
    if isinstance(runtime, Runtime):
        return runtime
    if runtime not in RUNTIMES:
        raise ConfigError(f"unknown runtime '{runtime}'{suggestion(runtime, RUNTIMES)}")
    module, _, name = RUNTIMES[runtime].partition(":")
    try:
        return getattr(importlib.import_module(module), name)(device=device, **options)
    except TypeError as error:
        raise ConfigError(f"runtime '{runtime}': {error}") from None

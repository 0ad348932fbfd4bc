"""The runtimes by name. A new one is one file and one line here."""

from __future__ import annotations

import importlib
from typing import Any

from nas.errors import ConfigError, suggestion
from nas.profiling.runtimes.base import Runtime

RUNTIMES = {
    "coreml": "nas.profiling.runtimes.coreml:CoreMLRuntime",
    "eager": "nas.profiling.runtimes.eager:EagerRuntime",
    "litert": "nas.profiling.runtimes.litert:LitertRuntime",
    "roofline": "nas.profiling.runtimes.roofline:RooflineRuntime",
}
"""Name -> `module:class`, loaded when it is asked for: each needs libraries of its own."""

PHONES = {("litert", "adb"): "nas.profiling.runtimes.android:AndroidRuntime"}
"""The same for devices of a runtime that are reached in another way; `adb:SERIAL` is an `adb`."""


def make(runtime: str | Runtime, device: str = "local", **options: Any) -> Runtime:
    """The runtime of that name on that device; a runtime that is given already is used as it is.

    Raises:
        ConfigError: no such runtime, device or option.
    """
    if isinstance(runtime, Runtime):
        return runtime
    if runtime not in RUNTIMES:
        raise ConfigError(f"unknown runtime '{runtime}'{suggestion(runtime, RUNTIMES)}")
    place = PHONES.get((runtime, device.partition(":")[0]), RUNTIMES[runtime])
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)(device=device, **options)
    except TypeError as error:
        raise ConfigError(f"runtime '{runtime}': {error}") from None

"""The registry of runtimes."""

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
"""Name -> `module:class`; imported when used, because each needs other libraries."""

PHONES = {("litert", "adb"): "nas.profiling.runtimes.android:AndroidRuntime"}
"""(runtime, kind of device) -> `module:class`, for devices that another class serves; `adb:SERIAL` is of kind `adb`."""


def make(runtime: str | Runtime, device: str = "local", **options: Any) -> Runtime:
    """Create a runtime by name; an object that is a runtime already is returned unchanged.

    Raises:
        ConfigError: unknown runtime, device or option.
    """
    if isinstance(runtime, Runtime):
        return runtime
    if runtime not in RUNTIMES:
        raise ConfigError(f"unknown runtime '{runtime}'{suggestion(runtime, RUNTIMES)}")
    target = PHONES.get((runtime, device.partition(":")[0]), RUNTIMES[runtime])
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)(device=device, **options)
    except TypeError as error:
        raise ConfigError(f"runtime '{runtime}': {error}") from None

"""The registry of runtimes."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from nas.errors import ConfigError, suggestion
from nas.profiling.runtimes.base import Runtime

RUNTIMES = {
    "coreml": "nas.profiling.runtimes.coreml:CoreMLRuntime",
    "eager": "nas.profiling.runtimes.eager:EagerRuntime",
    "litert": "nas.profiling.runtimes.litert:LitertRuntime",
    "roofline": "nas.profiling.runtimes.roofline:RooflineRuntime",
    "web": "nas.profiling.web.runtime:WebRuntime",
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
    made = getattr(importlib.import_module(module), name)
    known = set(inspect.signature(made).parameters) - {"device"}
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ConfigError(f"runtime '{runtime}' has no option '{unknown[0]}'{suggestion(unknown[0], sorted(known))}")
    return made(device=device, **options)

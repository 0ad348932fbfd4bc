"""Hardware-aware neural architecture search for mobile video diffusion (SnapGen-V, arXiv 2412.10494).

Names below are loaded when they are first used, so that `import nas` stays fast and imports no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Architecture": "nas.spaces",
    "SearchSpace": "nas.spaces",
    "Budget": "nas.costs",
    "Cost": "nas.costs",
    "CostModel": "nas.costs",
    "LookupTable": "nas.costs",
    "Pipeline": "nas.pipeline",
    "profile": "nas.profiling",
}
_PACKAGES = ("costs", "errors", "export", "models", "profiling", "report", "search", "spaces", "training")

__all__ = sorted([*_WHERE, *_PACKAGES])


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"nas.{name}")
    raise AttributeError(f"module 'nas' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

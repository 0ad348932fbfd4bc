"""Hardware-aware neural architecture search for mobile video diffusion (SnapGen-V, arXiv 2412.10494).

The names below are imported at first use, so that `import nas` is fast and does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas import costs, errors, export, models, profiling, report, search, spaces, training
    from nas.costs import Budget, Cost, CostModel, LookupTable
    from nas.pipeline import Pipeline
    from nas.profiling import profile
    from nas.spaces import Architecture, SearchSpace

__version__ = "0.1.0"

_MODULES = {
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

__all__ = [
    "Architecture",
    "Budget",
    "Cost",
    "CostModel",
    "LookupTable",
    "Pipeline",
    "SearchSpace",
    "costs",
    "errors",
    "export",
    "models",
    "profile",
    "profiling",
    "report",
    "search",
    "spaces",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"nas.{name}")
    raise AttributeError(f"module 'nas' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

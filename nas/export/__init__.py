"""Floor 3: a trained checkpoint as files for a phone or for a training cluster.

Each format is a function `(checkpoint folder, out folder, ...) -> paths it wrote`, which also records them in the out
folder's `export.json`. A new format is one file here and one line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nas.export.litert_models import litert
from nas.export.packages import check_package, coreml
from nas.export.training_recipe import recipe

FORMATS: dict[str, Callable[..., list[Path]]] = {"coreml": coreml, "recipe": recipe, "litert": litert}

__all__ = ["FORMATS", "check_package", "coreml", "litert", "recipe"]

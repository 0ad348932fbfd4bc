"""An evaluator that is named as `module:function`, and imported by every process that evaluates."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from nas.errors import ConfigError, suggestion
from nas.files import content_hash, short_hash
from nas.search.identity import evaluator_identity
from nas.spaces import Architecture

REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
"""`package.module:function`, or `module:object.method`."""


@dataclass(frozen=True)
class ImportedEvaluator:
    """A Python callable, by its module and its name in it: `scores:evaluate`.

    The callable takes an `Architecture` and returns a score, as `nas.search.run` describes. Modules in the working folder
    are found. Pickled, it is its name: worker processes import the module themselves.

    Raises:
        ConfigError: the module cannot be imported, or what is named cannot be called with an architecture.
    """

    reference: str

    def __post_init__(self) -> None:
        _check_callable(self.function, f"evaluator '{self.reference}'")

    def __call__(self, arch: Architecture) -> Any:
        return self.function(arch)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reference,)

    @cached_property
    def function(self) -> Callable[[Architecture], Any]:
        """The callable."""
        where = f"evaluator '{self.reference}'"
        name, _, path = self.reference.partition(":")
        if name.endswith(".py"):
            raise ConfigError(f"{where}: name the module, '{name[:-3]}:{path}', not its file")
        found: Any = _import(name, where)
        for part in path.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                known = [n for n in dir(found) if not n.startswith("_") and callable(getattr(found, n, None))]
                raise ConfigError(f"{where}: '{name}' has no '{part}'{suggestion(part, known)}") from None
        return cast(Callable[[Architecture], Any], found)

    @cached_property
    def identity(self) -> str:
        """That of the callable if it has one; otherwise it changes with the name and the content of the module's file."""
        own = getattr(self.function, "identity", None)
        if isinstance(own, str):
            return own
        file = getattr(sys.modules[self.reference.partition(":")[0]], "__file__", None)
        content = content_hash(Path(file)) if file and Path(file).is_file() else evaluator_identity(self.function)
        return f"{self.reference} {short_hash(content)}"


def _import(name: str, where: str) -> Any:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"{where}: no module '{error.name}' in the working folder or on the Python path; "
                "run where it is, or install it"
            ) from None
        reason = str(error)
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    raise ConfigError(f"{where}: importing '{name}' failed: {reason}")


def _check_callable(found: Any, where: str) -> None:
    """
    Raises:
        ConfigError: it is a class, or cannot be called with one argument.
    """
    if not callable(found) or isinstance(found, type):
        kind = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise ConfigError(f"{where}: is {kind}; name a function of an architecture that returns its score")
    try:
        inspect.signature(found).bind(None)
    except TypeError:
        raise ConfigError(
            f"{where}: takes {inspect.signature(found)}; an evaluator is called with one argument, the architecture"
        ) from None
    except ValueError:  # a builtin without a signature
        pass

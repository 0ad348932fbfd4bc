"""An architecture: one choice for every slot of a search space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas.config import build
from nas.errors import ConfigError
from nas.files import read_json, write_json


@dataclass(frozen=True)
class Architecture:
    """One choice for every slot, in canonical form. Created by a `SearchSpace`, which validates it.

    Attributes:
        space: the name of its search space.
        space_hash: the content hash of its search space.
        items: `(slot, choice)` in the space's order of slots; `choices` is the same as a dict.
    """

    space: str
    space_hash: str
    items: tuple[tuple[str, str], ...]

    @property
    def choices(self) -> dict[str, str]:
        """The choice of every slot."""
        return dict(self.items)

    def __str__(self) -> str:
        chosen = [f"{slot}={choice}" for slot, choice in self.items if choice != "none"]
        return f"{self.space}({', '.join(chosen) or 'nothing chosen'})"

    def save(self, path: str | Path) -> Path:
        """Write as JSON: `{"space", "space_hash", "choices"}`."""
        return write_json(path, {"space": self.space, "space_hash": self.space_hash, "choices": self.choices})

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read a file that `save` wrote. `SearchSpace.check` checks whether it belongs to a space.

        Raises:
            ConfigError: not an architecture file.
        """
        value = read_json(path, "architecture")
        if not isinstance(value, dict) or "choices" not in value:
            raise ConfigError(f"{path}: choices: missing; an architecture file is what 'nas search --out' writes")
        file = build(_File, value, str(path), ignore_unknown=True)
        return cls(file.space, file.space_hash, tuple(file.choices.items()))


@dataclass(frozen=True)
class _File:
    """The content of an architecture file."""

    choices: dict[str, str]
    space: str = ""
    space_hash: str = ""

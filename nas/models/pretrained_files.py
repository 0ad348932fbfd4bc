"""Which files of a diffusers or transformers folder hold its weights: as the Hub has them, whole or in shards.

`NAME.safetensors`, `NAME.VARIANT.safetensors` (half precision, mostly), and either in shards, which an index names:
`NAME.safetensors.index.json`, `NAME.safetensors.index.VARIANT.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nas.errors import ConfigError
from nas.files import read_json
from nas.models import safetensors_io

PREFERRED = (None, "fp16", "bf16")
"""Variants, best first; others come after them, such as `non_ema`."""


@dataclass(frozen=True)
class WeightFiles:
    """The files that together hold a model's weights.

    Attributes:
        variant: such as `fp16`; None for the plain ones.
        named: the file that stands for all of them: the only one, or the index.
        files: of the tensors.
    """

    variant: str | None
    named: Path
    files: tuple[Path, ...]

    def read(self) -> dict[str, Tensor]:
        """Every tensor.

        Raises:
            ConfigError: a file is missing or damaged.
        """
        found: dict[str, Tensor] = {}
        for file in self.files:
            found |= safetensors_io.load(file)
        return found


def find_weights(folder: str | Path, stem: str) -> WeightFiles | None:
    """The weights called `stem` in a folder; None if there are none as safetensors.

    Raises:
        ConfigError: the index is no index.
    """
    found: dict[str | None, Path] = {}
    for path in sorted(Path(folder).glob(f"{stem}.*"), reverse=True):  # a whole file comes before an index
        for start, end in ((f"{stem}.safetensors.index", ".json"), (stem, ".safetensors")):
            if path.name.startswith(start) and path.name.endswith(end):
                variant = path.name[len(start) : -len(end)].removeprefix(".") or None
                if "-of-" not in path.name and path.exists():
                    found[variant] = path
    if not found:
        return None
    order = [variant for variant in PREFERRED if variant in found] or sorted(found, key=str)
    path = found[order[0]]
    return WeightFiles(order[0], path, _shards(path) if path.suffix == ".json" else (path,))


def missing_weights(folder: str | Path, stem: str, pickled: str | None = None) -> str:
    """Why a folder has no weights that are read, and what to do: one line.

    Args:
        pickled: what pickled weights are called, where not `stem`.
    """
    folder, name = Path(folder), f"{stem}.safetensors"
    bins = sorted(folder.glob(f"{pickled or stem}*.bin*"))
    if not bins:
        return f"{folder / name}: no such file; download the checkpoint's safetensors"
    middle = bins[0].name.removeprefix(pickled or stem).split(".bin")[0].split("-")[0].removeprefix(".")
    variant, option = (f"of variant '{middle}' ", f", variant='{middle}'") if middle else ("", "")
    return (
        f"{folder}: holds only pickled weights {variant}({bins[0].name}), which are not read, since a pickle can run "
        f"code; download {f'{stem}.{middle}.safetensors' if middle else name} if the repository has it, or convert "
        f"them: from_pretrained(...{option}).save_pretrained(..., safe_serialization=True)"
    )


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index names.

    Raises:
        ConfigError: it is no index, a file is missing, or is named outside the folder.
    """
    value = read_json(index, "weights index", dict)
    names = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ConfigError(f"{index}: weight_map: expected a mapping of tensors to files; download the index again")
    files = sorted(set(names.values()))
    for name in files:
        if Path(name).name != name:
            raise ConfigError(f"{index}: weight_map: '{name}' is no file beside the index")
        if not (index.parent / name).exists():
            raise ConfigError(f"{index.parent / name}: no such weights file, which {index.name} names; download it")
    return tuple(index.parent / name for name in files)

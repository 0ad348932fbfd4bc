"""Finds the weight files of a diffusers or transformers folder: variants, single files and shards.

`NAME.safetensors`, `NAME.VARIANT.safetensors` (usually half precision), and either in shards listed by an index:
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
"""Variants in order of preference; others, such as `non_ema`, come after them."""


@dataclass(frozen=True)
class WeightFiles:
    """The files with the weights of a model.

    Attributes:
        variant: such as `fp16`; None for the default one.
        named: the file to name in messages: the only one, or the index.
        files: the safetensors files.
    """

    variant: str | None
    named: Path
    files: tuple[Path, ...]

    def read(self) -> dict[str, Tensor]:
        """All tensors.

        Raises:
            ConfigError: a file is missing or damaged.
        """
        state: dict[str, Tensor] = {}
        for file in self.files:
            state |= safetensors_io.load(file)
        return state


def find_weights(folder: str | Path, stem: str) -> WeightFiles | None:
    """The weights called `stem` in a folder; None if there are no safetensors files.

    Raises:
        ConfigError: the index is invalid, or a file that it lists is missing.
    """
    by_variant: dict[str | None, Path] = {}
    for path in sorted(Path(folder).glob(f"{stem}.*"), reverse=True):  # a single file takes precedence over an index
        for start, end in ((f"{stem}.safetensors.index", ".json"), (stem, ".safetensors")):
            if path.name.startswith(start) and path.name.endswith(end):
                variant = path.name[len(start) : -len(end)].removeprefix(".") or None
                if "-of-" not in path.name and path.exists():
                    by_variant[variant] = path
    if not by_variant:
        return None
    order = [variant for variant in PREFERRED if variant in by_variant] or sorted(by_variant, key=str)
    path = by_variant[order[0]]
    return WeightFiles(order[0], path, _shards(path) if path.suffix == ".json" else (path,))


def missing_weights(folder: str | Path, stem: str, pickled: str | None = None) -> str:
    """Message, in one line, for a folder without safetensors weights: the reason and the fix.

    Args:
        pickled: stem of pickled weights, if not `stem`.
    """
    folder, name = Path(folder), f"{stem}.safetensors"
    bins = sorted(folder.glob(f"{pickled or stem}*.bin*"))
    if not bins:
        return f"{folder / name}: no such file; download the checkpoint's safetensors"
    middle = bins[0].name.removeprefix(pickled or stem).split(".bin")[0].split("-")[0].removeprefix(".")
    variant, option = (f"of variant '{middle}' ", f", variant='{middle}'") if middle else ("", "")
    return (
        f"{folder}: contains only pickled weights {variant}({bins[0].name}), which are not read, since unpickling can run "
        f"code; download {f'{stem}.{middle}.safetensors' if middle else name} if the repository has it, or convert "
        f"them: from_pretrained(...{option}).save_pretrained(..., safe_serialization=True)"
    )


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index lists.

    Raises:
        ConfigError: the index is invalid, or a file is missing or outside the folder.
    """
    value = read_json(index, "weights index", dict)
    names = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ConfigError(f"{index}: weight_map: expected a mapping of tensors to files; download the index again")
    files = sorted(set(names.values()))
    for name in files:
        if Path(name).name != name:
            raise ConfigError(f"{index}: weight_map: '{name}' is not a file name in the folder of the index")
        if not (index.parent / name).exists():
            raise ConfigError(f"{index.parent / name}: no such weights file, but {index.name} lists it; download it")
    return tuple(index.parent / name for name in files)

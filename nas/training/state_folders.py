"""Training states that several workers save together, as folders, by torch's distributed checkpoint (DCP).

Imported only where there is one, since DCP takes long to import.
"""

from __future__ import annotations

import contextlib
import datetime
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch import distributed as torch_distributed
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from nas import distributed
from nas.config import build
from nas.errors import ConfigError
from nas.files import read_json, write_json
from nas.models import safetensors_io

INDEX = "index.json"
"""The file of a state folder with the fields of `Index`."""


@dataclass(frozen=True)
class Index:
    """What a state folder holds.

    Attributes:
        seconds: training time up to this state.
        files: the names of the files with its tensors.
    """

    step: int
    seconds: float
    files: list[str]


class FolderSaver:
    """Saves states in the background. A collective call, as are all of its methods.

    Its messages must not mix with those of training, so it has a process group of its own.
    """

    def __init__(self) -> None:
        timeout = datetime.timedelta(seconds=distributed.TIMEOUT_S)
        self._group, token = torch_distributed.new_group(timeout=timeout, backend="gloo"), [uuid.uuid4().hex]
        torch_distributed.broadcast_object_list(token, 0, self._group)
        self._token = token[0]

    def save(
        self, folder: Path, state: Mapping[str, Tensor], step: int, seconds: float, publish: Callable[[Path], None]
    ) -> Callable[[], object]:
        """Copy a state to the host, and start to write it.

        Args:
            publish: gives the folder that is written its name; called by the first worker when all have written their files.

        Returns:
            A function that waits for the end.
        """
        partial = folder / f".state-{step:08d}.{self._token}"  # no other run's, whose last worker may still write
        writer = _FolderWriter(partial, Index(step, seconds, []), publish)
        pending = dcp.async_save(share(state), storage_writer=writer, process_group=self._group)

        def wait() -> None:
            with _first_failure():
                pending.result()

        return wait

    def close(self) -> None:
        """After the last state."""
        torch_distributed.destroy_process_group(self._group)


def share(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This worker's part of a state: a tensor that several workers hold alike is in the part of one of them."""
    parts: dict[int, list[int]] = {}
    mine = {}
    for name, value in state.items():
        copies, own = distributed.copies(value)
        sizes = parts.setdefault(copies, [0] * copies)
        smallest = sizes.index(min(sizes))
        sizes[smallest] += value.numel() * value.element_size()
        if own == smallest:
            mine[name] = value
    return mine


class _FolderWriter(dcp.HuggingFaceStorageWriter):
    def __init__(self, partial: Path, index: Index, publish: Callable[[Path], None]) -> None:
        super().__init__(str(partial), save_distributed=True)
        self.partial, self.index, self.publish = partial, index, publish

    def finish(self, metadata: Any, results: list[list[Any]]) -> None:
        """Called on the first worker with what all workers have written."""
        files = sorted({result.storage_data.relative_path for of_worker in results for result in of_worker})
        write_json(self.partial / INDEX, asdict(Index(self.index.step, self.index.seconds, files)))
        self.publish(self.partial)


class StateFolder:
    """A state that several workers have saved.

    Raises:
        ConfigError: a file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index = build(Index, read_json(path / INDEX, "training state"), str(path / INDEX))
        missing = next((name for name in self._index.files if not (path / name).is_file()), None)
        if missing is not None:
            raise ConfigError(f"{path / missing}: no such file of the training state; restore it, or remove the folder")
        self._reader = dcp.HuggingFaceStorageReader(str(path))
        try:
            self.names = list(self._reader.read_metadata().state_dict_metadata)
        except Exception as error:  # of safetensors, of its JSON, and of torch
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(f"{path}: this training state cannot be read ({reason}); remove the folder") from None

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the saved values into tensors, which may be sharded; a collective call."""
        with warnings.catch_warnings(), _first_failure():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(dict(tensors), storage_reader=self._reader, no_dist=distributed.world_size() == 1)
        broken = safetensors_io.not_finite({name: distributed.local_tensor(value) for name, value in tensors.items()})
        if broken:
            raise ConfigError(f"{self._path}: '{broken}' holds NaN or infinity; this training state is damaged")

    def progress(self) -> tuple[int, float]:
        """The steps taken, and the seconds."""
        return max(0, self._index.step), self._index.seconds


@contextlib.contextmanager
def _first_failure() -> Iterator[None]:
    """Raise the first worker's exception instead of torch's, which is no `Exception`."""
    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None

"""A bundle on disk: read and checked against its manifest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas import config
from nas.errors import ConfigError
from nas.files import read_json
from nas.profiling.bundles.manifest import BundleManifest
from nas.profiling.compile import CompiledWorkload
from nas.profiling.digests import changed_files

MANIFEST, RESULTS, VISITS = "manifest.json", "results.jsonl", "results"


@dataclass(frozen=True)
class Bundle:
    """A bundle folder.

    Attributes:
        folder: its path.
        manifest: the content of `manifest.json`.
        packages: the compiled workloads, in the manifest's order.
        reference: the workload that is timed between the others.
    """

    folder: Path
    manifest: BundleManifest
    packages: tuple[CompiledWorkload, ...]
    reference: CompiledWorkload

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Read a bundle and check all its files.

        Raises:
            ConfigError: the folder is not a bundle, or a file was changed after it was packed.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.exists():
            raise ConfigError(f"{folder}: not a bundle ('{MANIFEST}' is missing); make one with 'nas bundle create'")
        raw = read_json(path, "bundle manifest", dict)
        try:
            manifest = config.build(BundleManifest, raw, str(path))
        except ConfigError as error:
            raise ConfigError(f"{error}; pack the bundle again") from None
        if manifest.bundle != identity(raw):
            raise ConfigError(f"{path}: was edited after it was packed; pack the bundle again")
        changed = changed_files(folder, manifest.files)
        if changed:
            what = "was changed after it was packed" if (folder / changed[0]).exists() else "is missing"
            raise ConfigError(f"{folder / changed[0]}: {what}; pack the bundle again")
        packages = tuple(entry.package(folder) for entry in manifest.packages)
        return cls(folder, manifest, packages, manifest.reference.package(folder))

    @property
    def id(self) -> str:
        """Identifier: the hash of the manifest."""
        return self.manifest.bundle

    @property
    def workloads(self) -> list[str]:
        """Keys of all workloads of the space, including those that could not be compiled."""
        return [*(package.workload for package in self.packages), *self.manifest.infeasible]


def identity(manifest: dict[str, Any]) -> str:
    """A hash of the manifest in 16 hexadecimal digits."""
    text = json.dumps({k: v for k, v in manifest.items() if k != "bundle"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

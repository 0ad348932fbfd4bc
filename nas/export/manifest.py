"""`export.json`: what an export folder holds, with hashes and sizes, and what to expect of it on a device."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nas
from nas.checkpoint import Checkpoint
from nas.config import build
from nas.costs import CostModel, LookupTable
from nas.costs.clip_summary import clip_summary
from nas.costs.sources import join_sources
from nas.errors import ConfigError
from nas.export.app import SCHEMA_VERSION, App, File, Manifest
from nas.files import read_json, write_json

MANIFEST = "export.json"


def cost_model(checkpoint: Checkpoint, table: LookupTable) -> CostModel:
    """Of the checkpoint's space and its way of generating; estimated rows are accepted, and named.

    Raises:
        TableError: the table lacks rows of the space.
    """
    info = checkpoint.info
    return CostModel(checkpoint.space, table, estimates=True, steps=info.steps, guidance=info.guidance != 1)


def predict(checkpoint: Checkpoint, table: LookupTable) -> dict[str, Any]:
    """What a clip costs on the table's device: `sources`, `denoiser_calls` of the denoiser, `denoiser_ms` of one, and
    `generation_s` with its `parts` where the table knows the text encoder and the decoder."""
    cost = cost_model(checkpoint, table)
    found = cost.predict(checkpoint.architecture)
    told = {
        "device": table.provenance.chip or table.provenance.device,
        "runtime": table.provenance.runtime,
        "sources": list(cost.sources),
        "denoiser_calls": cost.steps * (2 if cost.guidance else 1),
        "denoiser_ms": found.latency_ms,
        "generation_s": found.generation_s,
    }
    if found.generation_s is not None:
        parts = cost.generation().parts(found.latency_ms, join_sources(cost.sources))
        told["parts"] = parts.to_dict("records")
    return told


def sentence(checkpoint: Checkpoint, table: LookupTable | None) -> str:
    """What a manager wants to know, in one line."""
    if table is not None:
        return clip_summary(cost_model(checkpoint, table), checkpoint.architecture)
    frames = checkpoint.space.latent.frames
    return f"A clip of {frames} frames: latency unknown; give a lookup table of the device to have it predicted."


def record(
    out: Path,
    name: str,
    made: list[Path],
    checkpoint: Checkpoint,
    table: LookupTable | None,
    checks: dict[str, dict[str, Any]] | None = None,
    app: App | None = None,
) -> Path:
    """Write what format `name` made into the folder's manifest, beside what other formats made there.

    Args:
        checks: by part, how far its numbers are from torch's, where they were compared.
        app: what an app needs to run the files, for formats that apps run.
    """
    path = out / MANIFEST
    there = read_json(path, "export manifest", dict) if path.exists() else {}
    files = [file for top in made for file in ([top] if top.is_file() else sorted(top.rglob("*"))) if file.is_file()]
    if app is not None:
        files.append(out / app.prompt.empty_context)
    entry = Manifest(
        nas.__version__,
        identity(checkpoint),
        sentence(checkpoint, table),
        tuple(File(file.relative_to(out).as_posix(), file.stat().st_size / 1e6, sha256(file)) for file in files),
        predict(checkpoint, table) if table is not None else None,
        checks or {},
        app,
    )
    return write_json(path, {**there, "schema_version": SCHEMA_VERSION, name: asdict(entry)})


def read(folder: str | Path, name: str) -> Manifest:
    """What format `name` wrote into an export folder.

    Raises:
        ConfigError: there is no `export.json`, it is of another version, or has no such entry.
    """
    path = Path(folder) / MANIFEST
    there = read_json(path, "export manifest", dict)
    version = there.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{path}: schema_version: is {version}, this version reads {SCHEMA_VERSION}; export it again")
    if name not in there:
        raise ConfigError(f"{path}: holds nothing of the format {name}; run 'nas export --format {name}' into it")
    return build(Manifest, there[name], str(path), name, ignore_unknown=True)


def identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """Which model this is, and how it is to be run."""
    info = checkpoint.info
    return {
        "stage": info.stage,
        "steps": info.steps,
        "guidance": info.guidance,
        "sampler": info.sampler,
        "objective": info.objective,
        "text_encoder": info.text_encoder,
        "space": checkpoint.space.name,
        "space_hash": checkpoint.space.hash,
        "architecture": checkpoint.architecture.choices,
        "weights_sha256": sha256(checkpoint.folder / "denoiser.safetensors"),
    }


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Write `export.json`: files of an export folder with sizes and hashes, and the predicted cost of a clip."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import nas
from nas.checkpoint import RANDOM, Checkpoint
from nas.costs import CostModel, LookupTable
from nas.costs.clip_summary import clip_summary
from nas.costs.sources import join_sources
from nas.exported.app import SCHEMA_VERSION, App, File, Manifest
from nas.exported.manifest import MANIFEST, sha256
from nas.files import read_json, write_json


def cost_model(checkpoint: Checkpoint, table: LookupTable) -> CostModel:
    """A cost model for the checkpoint's search space, sampling steps and guidance. It accepts estimated rows.

    Raises:
        TableError: the table lacks rows of the space.
    """
    info = checkpoint.info
    return CostModel(checkpoint.space, table, estimates=True, steps=info.steps, guidance=info.guidance != 1)


def predict(checkpoint: Checkpoint, table: LookupTable) -> dict[str, Any]:
    """Predict the cost of a clip on the table's device.

    Returns:
        `device`, `runtime`, `sources` of the rows, `denoiser_calls` per clip, `denoiser_ms` per call, and
        `generation_s` with its `parts` if the table has rows of the text encoder and the decoder.

    Raises:
        TableError: the table lacks rows of the space.
    """
    cost = cost_model(checkpoint, table)
    predicted = cost.predict(checkpoint.architecture)
    values = {
        "device": table.provenance.chip or table.provenance.device,
        "runtime": table.provenance.runtime,
        "sources": list(cost.sources),
        "denoiser_calls": cost.steps * (2 if cost.guidance else 1),
        "denoiser_ms": predicted.latency_ms,
        "generation_s": predicted.generation_s,
    }
    if predicted.generation_s is not None:
        parts = cost.generation().parts(predicted.latency_ms, join_sources(cost.sources))
        values["parts"] = parts.to_dict("records")
    return values


def summary(checkpoint: Checkpoint, table: LookupTable | None) -> str:
    """One sentence with the predicted time to generate a clip, see `nas.costs.clip_summary`."""
    untrained = "The weights are random, nothing was trained: clips are noise. " * is_random(checkpoint)
    if table is not None:
        return untrained + clip_summary(cost_model(checkpoint, table), checkpoint.architecture, checkpoint.clip)
    return f"{untrained}A {checkpoint.clip}: latency unknown; pass a lookup table of the device to predict it."


def record(
    out: Path,
    name: str,
    paths: list[Path],
    checkpoint: Checkpoint,
    table: LookupTable | None,
    checks: dict[str, dict[str, Any]] | None = None,
    app: App | None = None,
) -> Path:
    """Write the entry of format `name` into the folder's manifest; the entries of other formats stay.

    Args:
        paths: files and folders that the format wrote into `out`.
        checks: by part, the errors relative to torch, if they were compared.
        app: what an app needs to run the files, for formats that run in an app.

    Returns:
        The manifest's path.

    Raises:
        TableError: the table lacks rows of the space.
    """
    path = out / MANIFEST
    entries = read_json(path, "export manifest", dict) if path.exists() else {}
    files = [file for top in paths for file in ([top] if top.is_file() else sorted(top.rglob("*"))) if file.is_file()]
    if app is not None:
        files.append(out / app.prompt.empty_context)
    entry = Manifest(
        nas.__version__,
        identity(checkpoint),
        summary(checkpoint, table),
        tuple(File(file.relative_to(out).as_posix(), file.stat().st_size / 1e6, sha256(file)) for file in files),
        predict(checkpoint, table) if table is not None else None,
        checks or {},
        app,
        is_random(checkpoint),
    )
    return write_json(path, {**entries, "schema_version": SCHEMA_VERSION, name: asdict(entry)})


def is_random(checkpoint: Checkpoint) -> bool:
    """Whether the weights are random, see `nas.export.random_weights`."""
    return checkpoint.info.stage == RANDOM


def identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """Identify the exported model: its search space, architecture, weights and sampling settings."""
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

"""`export.json`: what an export folder holds, with hashes and sizes, and what to expect of it on a device."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nas
from nas.costs import CostModel, LookupTable
from nas.files import read_json, write_json
from nas.training.checkpoint import Checkpoint

MANIFEST = "export.json"


@dataclass(frozen=True)
class Generation:
    """What a clip costs on a device, as a lookup table has it.

    Attributes:
        device, runtime: of the table.
        source: `measured`, `estimated`, or both.
        passes: runs of the denoiser for one clip: its steps, twice that with guidance.
        denoiser_ms: latency of one run.
    """

    device: str
    runtime: str
    source: str
    passes: int
    denoiser_ms: float


def predict(checkpoint: Checkpoint, table: LookupTable) -> Generation:
    """What the checkpoint's denoiser costs by the table.

    Raises:
        TableError: the table lacks rows of the space.
    """
    cost = CostModel(checkpoint.space, table, estimates=True)
    steps, guided = checkpoint.info.steps, checkpoint.info.guidance != 1
    device = table.meta.get("chip") or table.meta.get("device") or "an unnamed device"
    return Generation(
        str(device),
        str(table.meta.get("runtime", "unknown runtime")),
        " and ".join(cost.sources),
        steps * (2 if guided else 1),
        cost.predict(checkpoint.architecture).latency_ms,
    )


def sentence(checkpoint: Checkpoint, generation: Generation | None) -> str:
    """What a manager wants to know, in one line."""
    latent, factor = checkpoint.space.latent, checkpoint.autoencoder.config.downsampling
    clip = f"A clip of {latent.frames} frames, {latent.width * factor}x{latent.height * factor} pixels"
    if generation is None:
        return f"{clip}: latency unknown; give a lookup table of the device to have it predicted."
    seconds = generation.passes * generation.denoiser_ms / 1e3
    return (
        f"{clip}, takes {seconds:.3g} s of denoising on {generation.device} ({generation.runtime}): "
        f"{generation.passes} x denoiser at {generation.denoiser_ms:.3g} ms ({generation.source}); "
        "text encoder and decoder come on top, the table has no rows of them."
    )


def record(out: Path, name: str, made: list[Path], checkpoint: Checkpoint, table: LookupTable | None) -> Path:
    """Write what format `name` made into the folder's manifest, beside what other formats made there."""
    path = out / MANIFEST
    there = read_json(path, "export manifest") if path.exists() else {}
    generation = predict(checkpoint, table) if table is not None else None
    files = [file for top in made for file in ([top] if top.is_file() else sorted(top.rglob("*"))) if file.is_file()]
    there[name] = {
        "library": nas.__version__,
        "checkpoint": identity(checkpoint),
        "predicted": asdict(generation) if generation else None,
        "summary": sentence(checkpoint, generation),
        "files": [
            {"path": file.relative_to(out).as_posix(), "size_mb": file.stat().st_size / 1e6, "sha256": sha256(file)}
            for file in files
        ],
    }
    return write_json(path, there)


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

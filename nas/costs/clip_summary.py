"""One sentence on the generation time of a clip: on which device, in which parts, measured or estimated."""

from __future__ import annotations

from nas.costs.model import CostModel
from nas.costs.sources import join_sources
from nas.errors import TableError
from nas.spaces import Architecture, Clip


def clip_summary(cost: CostModel, arch: Architecture, clip: Clip | None = None) -> str:
    """`A 3.62 s clip (29 frames at 8 fps, 32x32) in 0.05 s on CHIP (runtime): text encoder ..., 4 x denoiser ..., decoder ...`.

    Each part says whether its table rows are measured or estimated. Without rows of the text encoder and the decoder,
    the sentence is about the denoiser only and says so.

    Args:
        clip: that of the model, if its autoencoder is one that the space does not declare; default: the space's.
    """
    clip = clip or cost.space.clip
    made = f"A {clip}" if clip else "A clip"
    provenance, latency_ms = cost.table.provenance, cost.predict(arch).latency_ms
    chip = provenance.chip or provenance.device or "an unnamed device"
    runtime = provenance.runtime or "unknown runtime"
    source, where = join_sources(cost.sources), f"on {chip} ({runtime})"
    try:
        generation = cost.generation()
    except TableError as error:
        denoiser_calls = cost.steps * (2 if cost.guidance else 1)
        return (
            f"{made} takes {denoiser_calls * latency_ms / 1e3:.3g} s of denoising {where}: {denoiser_calls} x denoiser at "
            f"{latency_ms:.3g} ms ({source}). The text encoder and the decoder are not included: {error}"
        )
    parts = [
        f"{f'{part.runs} x ' if part.runs > 1 else ''}{part.part} {part.seconds:.3g} s ({part.source})"
        for part in generation.parts(latency_ms, source).itertuples()
    ]
    return f"{made} in {generation.seconds(latency_ms):.3g} s {where}: {', '.join(parts)}."

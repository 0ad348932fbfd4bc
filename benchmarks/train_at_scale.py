"""Memory and compute of training a space's largest stages, counted from the modules; writes the tables of a page.

    python benchmarks/train_at_scale.py --out docs/jobs/train_at_scale.json

Every module runs forward and backward on torch's meta device, which has shapes and no values: operations are counted by
`torch.utils.flop_counter`, and bytes by what autograd saves for the backward pass, in bfloat16. Nothing is timed, and no
accelerator is needed. Attention is counted as the fused kernels compute it, which store no scores and compute them again
in the backward pass.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import torch
from five_seconds import Search
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nas.files import write_json
from nas.models import Autoencoder, Denoiser, Discriminator, Supernet, UNet
from nas.spaces import Architecture, SearchSpace
from nas.training.execution import blocks
from nas.training.stages.adversarial import AdversarialConfig

GB, TERA = 1e9, 1e12
BYTES_PER_PARAMETER = 20
"""Of a trained parameter: weight, gradient, two moments of AdamW and the EMA, in float32."""
STEPS, BATCH = 100_000, 64
PEAK_TFLOPS, MFU = 989.0, 0.4
"""Dense bfloat16 of an H100 or H200 by NVIDIA's data sheet, and the assumed share of it."""
GPUS_GB = (8, 24, 80, 141)
USABLE = 0.9
"""The share of a GPU's memory that tensors get; the rest is for the context, workspaces and fragmentation."""
SHARDED = ("distill", "supernet", "finetune")
"""The stages that `execution.shard` applies to."""
PATHS = 8
"""Random paths of a supernet, whose mean is counted."""


@dataclass(frozen=True)
class Count:
    """One forward pass and its backward pass, of one clip or image.

    Attributes:
        forward_tflop, backward_tflop: operations, 2 for a multiplication and an addition.
        saved_gb: what autograd saves.
        checkpointed_gb: the peak if the activations of each block are computed again.
    """

    forward_tflop: float
    backward_tflop: float
    saved_gb: float
    checkpointed_gb: float


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        params: that are trained.
        frozen: parameters of other models that are needed beside them, in bfloat16.
        tflop: of a step, for each clip (`distill`: image).
        saved_gb, checkpointed_gb: see `Count`.
    """

    name: str
    params: int
    frozen: int
    tflop: float
    saved_gb: float
    checkpointed_gb: float

    @property
    def state_gb(self) -> float:
        """What each GPU holds without sharding, whatever the batch."""
        return (BYTES_PER_PARAMETER * self.params + 2 * (self.params + self.frozen)) / GB

    @property
    def gpu_hours(self) -> float:
        """Of `STEPS` steps of `BATCH`."""
        return self.tflop * BATCH * STEPS / (PEAK_TFLOPS * MFU) / 3600

    def fits(self, gpu_gb: float) -> str:
        """What a GPU of this size takes: clips at a time, with the fewest knobs turned."""
        for shards in (1, 8) if self.name in SHARDED else (1,):
            for checkpointing, each in ((False, self.saved_gb), (True, self.checkpointed_gb)):
                clips = int((USABLE * gpu_gb - self.state_gb / shards) / each)
                if clips >= 1:
                    knobs = ["`checkpointing`"] * checkpointing + ["`shard` over 8"] * (shards > 1)
                    return f"{clips}" + (f" with {' and '.join(knobs)}" if knobs else "")
        return "no"


class _Fused(torch.autograd.Function):
    """Attention as FlashAttention saves it: queries, keys, values, output and a number for each query."""

    flops = 0

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        _Fused.flops += 4 * q.numel() * k.shape[-2]
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *_ = ctx.saved_tensors
        _Fused.flops += 10 * q.numel() * k.shape[-2]  # five products: the scores once more, and four gradients
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


@contextlib.contextmanager
def _saved(modules: list[nn.Module], weights: set[int]) -> Iterator[dict[object, dict[int, int]]]:
    """Bytes of the storages that autograd saves, by the block that saves them (None: outside of all), and of its inputs."""
    saved: dict[object, dict[int, int]] = {None: {}, "inputs": {}}
    kept, current = [], [None]

    def note(tensor: Tensor, where: object) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept.append(storage)  # alive, so that no address returns
            saved.setdefault(where, {})[storage._cdata] = storage.nbytes()

    def pack(tensor: Tensor) -> Tensor:
        note(tensor, current[0])
        return tensor

    def enter(module: nn.Module, inputs: tuple) -> None:
        current[0] = module
        for value in inputs:
            if isinstance(value, Tensor):
                note(value, "inputs")

    def leave(*_: object) -> None:
        current[0] = None

    hooks = [module.register_forward_pre_hook(enter) for module in modules]
    hooks += [module.register_forward_hook(leave) for module in modules]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield saved
    finally:
        for hook in hooks:
            hook.remove()


def count(module: nn.Module, *inputs: object) -> Count:
    """Count one forward and backward pass of a module on the meta device."""
    weights = {p.untyped_storage()._cdata for p in module.parameters()}
    fused = mock.patch.object(F, "scaled_dot_product_attention", lambda q, k, v: _Fused.apply(q, k, v))
    counter = FlopCounterMode(display=False)
    _Fused.flops = 0
    with fused, counter, _saved(list(blocks(module)), weights) as saved:
        output = module(*inputs)
        forward = counter.get_total_flops() + _Fused.flops
        total = output.sum() if isinstance(output, Tensor) else sum(part.sum() for part in output)
        total.backward()
    whole: dict[int, int] = {}
    for where, storages in saved.items():
        if where != "inputs":
            whole |= storages
    inside = [sum(storages.values()) for where, storages in saved.items() if isinstance(where, nn.Module)]
    again = sum((saved[None] | saved["inputs"]).values()) + max(inside, default=0)
    backward = counter.get_total_flops() + _Fused.flops - forward
    return Count(forward / TERA, backward / TERA, sum(whole.values()) / GB, min(again, sum(whole.values())) / GB)


def latents(space: SearchSpace, frames: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs of a denoiser for one clip of the space, or for an image."""
    shape = list(space.input_shape())
    shape[2] = frames or shape[2]
    options = {"device": "meta", "dtype": torch.bfloat16}
    return torch.empty(shape, **options), torch.empty(1, **options), torch.empty(space.context_shape(), **options)


def parameters(module: nn.Module) -> int:
    """Their number."""
    return sum(p.numel() for p in module.parameters())


def stages(space: SearchSpace, arch: Architecture, teacher: SearchSpace) -> list[Stage]:
    """The stages of a space: distillation from a larger backbone, the supernet, and training of one architecture.

    A decoder step is of 17 frames. An adversarial step is that of the default config: some clips start at pure noise, the
    others at a later step, to which the student takes them, and from which the guided teacher takes them to the end.
    """
    with torch.device("meta"):
        denoiser, supernet = Denoiser(space, arch), Supernet(space)
        unet = UNet(teacher.backbone, space.latent.channels, space.text.dim)
        autoencoder = Autoencoder(space.autoencoder)
        for module in (denoiser, supernet, unet, autoencoder):
            module.to(torch.bfloat16)
    clip, image = latents(space), latents(space, 1)
    base = count(denoiser, *image)
    taught = count(Images(unet), *image)
    result = [
        Stage(
            "distill",
            parameters(denoiser) - parameters(denoiser.temporal),
            parameters(unet),
            base.forward_tflop + base.backward_tflop + taught.forward_tflop,
            base.saved_gb,
            base.checkpointed_gb,
        )
    ]
    paths = [count(supernet, *clip, space.random(seed)) for seed in range(PATHS)]
    result.append(
        Stage(
            "supernet",
            parameters(supernet),
            0,
            sum(path.forward_tflop + path.backward_tflop for path in paths) / PATHS,
            max(path.saved_gb for path in paths),
            max(path.checkpointed_gb for path in paths),
        )
    )
    own = count(denoiser, *clip)
    step = own.forward_tflop + own.backward_tflop
    result.append(Stage("finetune", parameters(denoiser), 0, step, own.saved_gb, own.checkpointed_gb))
    with torch.device("meta"):
        discriminator = Discriminator(denoiser).to(torch.bfloat16)
    x, *others = clip
    scored = count(discriminator, x.clone().requires_grad_(), *others)  # of the student's clips, back to the student
    judged = count(discriminator, *clip)  # in training the heads: of four kinds of clips, the encoder forward only
    config = AdversarialConfig()
    starts = range(1, config.sampled_steps)  # after pure noise
    later = (1 - config.pure_noise_fraction) / len(starts)
    passes = later * sum(start + 2 * (config.sampled_steps - start) for start in starts)
    tflop = step + passes * own.forward_tflop + scored.forward_tflop + scored.backward_tflop
    tflop += 4 * (judged.forward_tflop + judged.backward_tflop)
    frozen = parameters(denoiser) + parameters(discriminator.encoder)
    trained = parameters(denoiser) + parameters(discriminator.heads)
    saved = [max(each + scored.saved_gb, 4 * judged.saved_gb) for each in (own.saved_gb, own.checkpointed_gb)]
    result.append(Stage("adversarial", trained, frozen, tflop, *saved))
    compression = space.autoencoder.downsampling
    size = (space.latent.height * compression, space.latent.width * compression)
    video = torch.empty(1, space.autoencoder.image_channels, 17, *size, device="meta", dtype=torch.bfloat16)
    whole = count(autoencoder, video)
    result.insert(
        0,
        Stage(
            "decoder",
            parameters(autoencoder),
            0,
            whole.forward_tflop + whole.backward_tflop,
            whole.saved_gb,
            whole.checkpointed_gb,
        ),
    )
    return result


class Images(nn.Module):
    """A spatial UNet on latents with one frame."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        return self.unet(x[:, :, 0], timestep, context)


def tables(rows: list[Stage]) -> str:
    """The document's tables."""
    lines = [
        "| stage | trained | state, GB | TFLOP a clip | activations, GB | checkpointed, GB | GPU-hours |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| `{row.name}` | {row.params / 1e6:.0f}M | {row.state_gb:.1f} | {row.tflop:.1f} | {row.saved_gb:.1f} | "
            f"{row.checkpointed_gb:.1f} | {row.gpu_hours:,.0f} |"
            for row in rows
        ),
        "",
        "| stage | " + " | ".join(f"{gpu} GB" for gpu in GPUS_GB) + " |",
        "| --- |" + " --- |" * len(GPUS_GB),
        *(f"| `{row.name}` | " + " | ".join(row.fits(gpu) for gpu in GPUS_GB) + " |" for row in rows),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the counts")
    args = parser.parse_args()
    search = Search()
    placement = search.best(search.layers, 5.0)
    assert placement is not None
    rows = stages(search.space, placement.architecture, SearchSpace.load("sd15_full"))
    write_json(
        args.out,
        {
            "space": search.space.name,
            "params": placement.params,
            "assumed": {"batch": BATCH, "steps": STEPS, "peak_tflops": PEAK_TFLOPS, "mfu": MFU, "usable": USABLE},
            "stages": [{**asdict(row), "state_gb": row.state_gb, "gpu_hours": row.gpu_hours} for row in rows],
        },
    )
    print(tables(rows))


if __name__ == "__main__":
    main()

"""Workloads as torch modules, and the class that a worker of the `eager` runtime executes. Importing it imports torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nas import models
from nas.errors import MissingDependency
from nas.models.autoencoder import DecoderRun
from nas.models.denoiser import run, to_frames, to_video
from nas.profiling.host import clock_of, limit_memory
from nas.profiling.memory import peak_activation_bytes
from nas.profiling.runtimes.base import InModelWorkload, Runnable, WholeModel, WorkloadStats
from nas.spaces import Backbone, Decoder, TextEncoder, Workload

MB = 1e6


class EagerWorkload:
    """A workload as a torch module with inputs, ready to run.

    Args:
        known: stats of the same workload from an earlier session; memory is then not measured again.

    Attributes:
        stats: memory, weights, parameters and load time.
        copies: for an operator in a model, its copies in `run`; else 0.
        clock: clock that times the runs, in seconds.
    """

    def __init__(
        self, workload: Runnable, device: str, threads: int, compile: bool, known: WorkloadStats | None = None
    ) -> None:
        torch.set_num_threads(threads)
        self.device, self.compile, self.copies = _device(device), compile, 0
        if self.device.type == "cpu":
            limit_memory()
        self.clock = clock_of(threads)[1] if self.device.type == "cpu" else time.perf_counter
        alone = workload.workload if isinstance(workload, InModelWorkload) else workload
        self.stats = known or self._measured(*self._use(alone))
        if isinstance(workload, InModelWorkload):
            self._use_in_model(workload)
        elif known:
            self._use(workload)

    def run(self) -> None:
        """One forward pass, to its end."""
        self._forward(self.module)

    def base(self) -> None:
        """One forward pass of the denoiser without the operator's copies, on the same weights and inputs."""
        self._forward(self.bare)

    def _use(self, workload: Workload | WholeModel) -> tuple[nn.Module, float]:
        """Build the module and run it once.

        Returns:
            the module, not compiled, and the time in ms that this took.
        """
        start = time.perf_counter()
        module = build_module(workload).eval().to(self.device, getattr(torch, workload.dtype))
        self.inputs = make_inputs(workload, self.device)
        self.module = torch.compile(module) if self.compile else module
        self.run()
        return module, (time.perf_counter() - start) * 1e3

    def _measured(self, module: nn.Module, load_ms: float) -> WorkloadStats:
        return WorkloadStats(
            memory_mb=peak_activation_bytes(self.run, self.device) / MB,
            weights_mb=sum(w.numel() * w.element_size() for w in [*module.parameters(), *module.buffers()]) / MB,
            params=sum(p.numel() for p in module.parameters()),
            load_ms=load_ms,
        )

    def _use_in_model(self, workload: InModelWorkload) -> None:
        """Time the operator inside the denoiser from now on; keep its stats."""
        self._use(workload.whole)
        bare = BackboneDenoiser(self.module)
        self.bare, self.copies = torch.compile(bare) if self.compile else bare, workload.copies
        self.base()
        times = [_seconds(self.base) for _ in range(3)]
        self.stats = replace(self.stats, tolerance_ms=sorted(times)[1])  # seconds as ms: a thousandth of the latency

    @torch.inference_mode()
    def _forward(self, module: nn.Module) -> None:
        call(module, self.inputs)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


class OperatorAtSite(nn.Module):
    """An operator on features with the frames in the batch: `(B*T, C, H, W)`, context -> `(B*T, C, H, W)`."""

    def __init__(self, operator: nn.Module, frames: int) -> None:
        super().__init__()
        self.operator, self.frames = operator, frames

    def forward(self, features: Tensor, context: Tensor | None) -> Tensor:
        return to_frames(self.operator(to_video(features, self.frames), context))


class BackboneDenoiser(nn.Module):
    """A UNet as a denoiser with empty slots: `(B, C, T, H, W)`, timestep, context -> `(B, C, T, H, W)`."""

    def __init__(self, unet: models.UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        return run(self.unet, x, timestep, context, {})


class TextEncoderModule(nn.Module):
    """A text encoder of transformers: tokens `(B, tokens)` -> context `(B, tokens, dim)`."""

    def __init__(self, part: TextEncoder, tokens: int, width: int) -> None:
        super().__init__()
        try:
            import transformers
        except ImportError:
            raise MissingDependency(
                "measuring a text encoder needs transformers; run: pip install 'nas-video[demo]'"
            ) from None
        family, positions = {"bert": ("Bert", 512), "clip": ("CLIPText", 77)}[part.kind]
        config = getattr(transformers, f"{family}Config")(
            vocab_size=part.vocabulary,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=part.layers,
            num_attention_heads=part.heads,
            max_position_embeddings=max(positions, tokens),
        )
        self.model = getattr(transformers, f"{family}Model")(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(input_ids=x).last_hidden_state


class DecoderModule(nn.Module):
    """The decoder of an autoencoder on a whole clip: latents `(B, C, T, h, w)` -> video."""

    def __init__(self, autoencoder: models.Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        del self.autoencoder.encoder, self.autoencoder.quant_conv

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)


def decoder_module(part: Decoder) -> nn.Module:
    """What an export folder's decoder computes: a whole clip, or part of one with a state from part to part."""
    autoencoder = models.Autoencoder(part.vae)
    return DecoderModule(autoencoder) if part.frames is None else DecoderRun(autoencoder)


def build_module(workload: Workload | WholeModel) -> nn.Module:
    """The untrained module of a workload with random weights.

    Zero-initialized weights are random, too, because a runtime might skip zeros. An operator is an `OperatorAtSite`.
    """
    torch.manual_seed(0)
    if isinstance(workload, WholeModel):
        module: nn.Module = models.build(workload.space, workload.arch)
    elif isinstance(workload.part, Backbone):
        module = BackboneDenoiser(models.UNet(workload.part, workload.shape[1], workload.context[2]))
    elif isinstance(workload.part, TextEncoder):
        module = TextEncoderModule(workload.part, *workload.context[1:])
    elif isinstance(workload.part, Decoder):
        module = decoder_module(workload.part)
    else:
        context_dim = workload.context[2] if workload.context else 1
        module = OperatorAtSite(models.build_operator(workload.part, workload.shape[1], context_dim), workload.shape[2])
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.02)
    return module


def make_inputs(workload: Workload | WholeModel, device: torch.device) -> tuple[Tensor | None, ...] | dict[str, Tensor]:
    """Random inputs of the workload's shapes, for `build_module`'s forward: by position, or a decoder's by name."""
    part = workload.part if isinstance(workload, Workload) else None
    if isinstance(part, TextEncoder):
        return (torch.randint(part.vocabulary, workload.shape, device=device),)
    options = {"device": device, "dtype": getattr(torch, workload.dtype)}
    x = torch.randn(workload.shape, **options)
    context = torch.randn(workload.context, **options) if workload.context else None
    if isinstance(part, Decoder):
        if part.frames is None:
            return {"latents": x}
        with torch.device("meta"):
            shapes = decoder_module(part).initial_state(len(x), *workload.shape[3:])
        return {"latents": x, **{name: torch.randn(zeros.shape, **options) for name, zeros in shapes.items()}}
    if part is None or isinstance(part, Backbone):
        return x, torch.full((workload.shape[0],), 500.0, device=device), context
    return to_frames(x), context


def call(module: nn.Module, inputs: tuple[Tensor | None, ...] | dict[str, Tensor]) -> Any:
    """The module's outputs for inputs from `make_inputs`."""
    return module(**inputs) if isinstance(inputs, dict) else module(*inputs)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise MissingDependency("device 'cuda': torch finds no CUDA GPU; use --device local, or install a CUDA torch")
    if name == "mps" and not torch.backends.mps.is_available():
        raise MissingDependency("device 'mps': torch finds no Apple GPU; use --device local")
    return torch.device(name)

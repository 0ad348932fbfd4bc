"""What runs inside a child of the `eager` runtime. Importing it imports torch."""

from __future__ import annotations

import time

import torch
from torch import nn

from nas import models
from nas.errors import MissingDependency
from nas.models.denoiser import run, to_frames, to_video
from nas.profiling.memory import peak_activation_bytes
from nas.profiling.runtime import Loaded, WholeModel
from nas.spaces import Backbone, Workload

MB = 1e6


class Compiled:
    """A workload as a torch module with inputs, ready to run.

    Attributes:
        loaded: memory, weights, parameters and load time.
    """

    def __init__(self, workload: Workload | WholeModel, device: str, threads: int, compile: bool) -> None:
        torch.set_num_threads(threads)
        self.device = _device(device)
        start = time.perf_counter()
        torch.manual_seed(0)
        module = build_module(workload).eval().to(self.device, getattr(torch, workload.dtype))
        self.inputs = make_inputs(workload, self.device)
        self.call = torch.compile(module) if compile else module
        self.run()
        load_ms = (time.perf_counter() - start) * 1e3
        weights = [*module.parameters(), *module.buffers()]
        self.loaded = Loaded(
            memory_mb=peak_activation_bytes(self.run, self.device) / MB,
            weights_mb=sum(w.numel() * w.element_size() for w in weights) / MB,
            params=sum(p.numel() for p in module.parameters()),
            load_ms=load_ms,
        )

    @torch.inference_mode()
    def run(self) -> None:
        """One forward pass, to its end."""
        self.call(*self.inputs)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def build_module(workload: Workload | WholeModel) -> nn.Module:
    """The untrained module of a workload, its weights drawn at random (some begin as zeros, which a runtime might
    skip). An operator comes as it stands in the denoiser: between features with the frames in the batch."""
    if isinstance(workload, WholeModel):
        module: nn.Module = models.build(workload.space, workload.arch)
    elif isinstance(workload.part, Backbone):
        module = AsDenoiser(models.UNet(workload.part, workload.shape[1], workload.context[2]))
    else:
        context_dim = workload.context[2] if workload.context else 1
        module = AtSite(models.build_operator(workload.part, workload.shape[1], context_dim), workload.shape[2])
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.02)
    return module


def make_inputs(workload: Workload | WholeModel, device: torch.device) -> tuple[torch.Tensor | None, ...]:
    """Random inputs of the workload's shapes, for `build_module`'s forward."""
    options = {"device": device, "dtype": getattr(torch, workload.dtype)}
    x = torch.randn(workload.shape, **options)
    context = torch.randn(workload.context, **options) if workload.context else None
    if isinstance(workload, WholeModel) or isinstance(workload.part, Backbone):
        return x, torch.full((workload.shape[0],), 500.0, device=device), context
    return to_frames(x), context


class AtSite(nn.Module):
    """An operator between the denoiser's features: `(B*T, C, H, W)`, context -> `(B*T, C, H, W)`."""

    def __init__(self, operator: nn.Module, frames: int) -> None:
        super().__init__()
        self.operator, self.frames = operator, frames

    def forward(self, features: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        return to_frames(self.operator(to_video(features, self.frames), context))


class AsDenoiser(nn.Module):
    """The backbone as a denoiser with nothing in its slots: `(B, C, T, H, W)`, timestep, context -> the same shape."""

    def __init__(self, unet: models.UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return run(self.unet, x, timestep, context, {})


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise MissingDependency(
            "device 'cuda': this torch finds no CUDA GPU; use --device local, or install a CUDA torch"
        )
    if name == "mps" and not torch.backends.mps.is_available():
        raise MissingDependency("device 'mps': this torch finds no Apple GPU; use --device local")
    return torch.device(name)

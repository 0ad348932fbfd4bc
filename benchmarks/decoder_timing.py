"""Time, operations and memory of decoding a clip."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas.errors import MissingDependency
from nas.files import replacing
from nas.models import Autoencoder, VAEConfig, decode_chunks
from nas.profiling.memory import peak_activation_bytes


class Decode(nn.Module):
    """Unscaled latents `(1, C, T, h, w)` -> video, for runtimes that take a module."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode_unscaled(latents)


def time_decoders(
    named: dict[str, Autoencoder], frames: int, side: int, rounds: int, runtime: str, threads: int, converted: Path
) -> dict:
    """What decoding a clip of `frames` frames of side x side pixels takes: medians of rounds in which all take their turn.

    Besides the time that passes, the processor's: on a machine that does other work as well it is the one to go by.

    Args:
        converted: folder of LiteRT models; those that it holds are not converted again.
    """
    calls, found = {}, {}
    for name, autoencoder in named.items():
        decoder, vae = Decode(autoencoder).eval(), autoencoder.config
        size = side // vae.downsampling
        latents = torch.randn(1, vae.latent_channels, vae.latent_frames(frames), size, size)
        calls[name] = _call(decoder, latents, runtime, threads, converted / f"{name}.tflite")
        found[name] = {"gmacs": _gmacs(decoder, latents), "params": _params(decoder)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start, own = time.perf_counter(), time.process_time()
            call()
            if number:  # the first round warms up
                times[name].append(((time.perf_counter() - start) * 1e3, (time.process_time() - own) * 1e3))
    for name, values in times.items():
        wall, own = zip(*values)
        cut = statistics.quantiles(own, n=10)
        found[name] |= {"median_ms": statistics.median(wall), "cpu_ms": statistics.median(own)}
        found[name] |= {"cpu_p10_ms": cut[0], "cpu_p90_ms": cut[-1]}
    return {"frames": frames, "side": side, "rounds": rounds, "threads": threads, "decoders": found}


def _gmacs(decoder: nn.Module, latents: Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder(latents)
    return counter.get_total_flops() / 2e9


def _params(decoder: Decode) -> int:
    return sum(parameter.numel() for parameter in decoder.autoencoder.decoder.parameters())


def _call(decoder: Decode, latents: Tensor, runtime: str, threads: int, converted: Path) -> Callable[[], object]:
    if runtime == "eager":
        torch.set_num_threads(threads)

        def call() -> None:
            with torch.inference_mode():
                decoder(latents)

        return call
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingDependency("litert is not installed; run: pip install 'nas-video[litert]'") from None
    if not converted.exists():
        import litert_torch

        converted.parent.mkdir(parents=True, exist_ok=True)
        with torch.no_grad(), replacing(converted) as file:
            litert_torch.convert(decoder, (latents,)).export(str(file))
    interpreter = Interpreter(model_content=converted.read_bytes(), num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], latents.numpy())
    return interpreter.invoke


def decoding_memory(vae: VAEConfig, lengths: tuple[int, ...], side: int) -> dict[str, float]:
    """Peak MB that decoding clips adds to the process, in chunks of one latent frame, by their number of frames.

    Args:
        lengths: latent frames.
    """
    autoencoder = Autoencoder(vae).eval()
    size, found = side // vae.downsampling, {}
    for length in lengths:
        latents = torch.randn(1, vae.latent_channels, length, size, size)

        def decode(latents: Tensor = latents) -> None:
            for chunk in decode_chunks(autoencoder, latents, 1):
                del chunk  # a caller would write it to a file

        found[str(vae.pixel_frames(length))] = peak_activation_bytes(decode, torch.device("cpu")) / 1e6
    return found

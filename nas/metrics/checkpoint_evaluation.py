"""`nas evaluate`: generates the clips of a suite with a checkpoint and measures them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas import checkpoint, config, distributed, vbench_package
from nas.checkpoint import Checkpoint
from nas.data import video_writer
from nas.data.batches import held_out
from nas.data.latent_cache import LatentCache
from nas.data.scenes import SceneConfig
from nas.diffusion.losses import validation_loss
from nas.diffusion.sampling import generate
from nas.errors import ConfigError, NasError
from nas.files import read_json
from nas.locks import output_lock
from nas.metrics import suites, vbench
from nas.metrics.clip_score import CLIPScore
from nas.metrics.evaluation import DECODED_AT_ONCE, DenoiserEvaluator
from nas.metrics.fvd import FVD
from nas.metrics.judges import load_judges
from nas.metrics.measures import MIN_CLIPS, Collected, Networks, compare
from nas.metrics.results import FOLDER, CaseResult, Evaluation, Measure
from nas.metrics.suites import Case
from nas.models import decode_chunks
from nas.models.text_encoder import EMPTY, PromptEncoder
from nas.progress import progress

CLIPS, DIGIT_CLIPS = 80, 160
"""Clips of each case, and of moving digits at each number of steps."""
GROUP = 40
"""Captions whose latents are generated together."""
LATENT_FRAMES = 8
"""Latent frames decoded at once."""
STANDARD, VBENCH = "standard", "vbench"


@dataclass(frozen=True)
class EvaluationOptions:
    """What to measure.

    Attributes:
        suite: `standard`, `long`, `stress` or `vbench`; None: `standard`, on moving digits only their own classifier.
        steps: numbers of denoising steps; default: as the checkpoint was trained.
        clips: of each case; default: `CLIPS`.
        seeds: noise seeds, each with all clips of a case.
        fvd: path of an I3D network, see `nas.metrics.fvd`.
        clip_model: CLIP model for CLIP scores, see `nas.metrics.clip_score`.
        dimensions: of VBench; default: all.
    """

    suite: str | None = None
    steps: tuple[int, ...] = ()
    clips: int | None = None
    seeds: int = 1
    fvd: str | None = None
    clip_model: str | None = None
    dimensions: tuple[str, ...] = ()


def evaluate_checkpoint(
    folder: str | Path,
    data: str | Path | None = None,
    options: EvaluationOptions | None = None,
    device: str | None = None,
    out: str | Path | None = None,
) -> Evaluation:
    """Measure a checkpoint's clips, and its loss on held-out ones.

    Args:
        data: the folder of a finished `decoder` stage or of `nas prepare`, with clips of the checkpoint's size; default:
            the folder `decoder` beside the checkpoint.
        device: as in `nas.distributed.use_device`.
        out: file for the result; default: SUITE.json in the checkpoint's folder `evaluation`, which the report reads.

    Raises:
        ConfigError: the checkpoint or the data are missing, or do not match.
        LockedError: another process is writing to the file.
        MissingDependency: a package that an option needs is not installed.
    """
    options = options or EvaluationOptions()
    if options.suite == VBENCH:
        vbench_package.load(vbench.NEEDED_BY)  # before anything is generated
    elif options.suite is not None:
        suites.check_suite(options.suite)
    elif options.dimensions:
        raise ConfigError("dimensions: are VBench's; give --suite vbench")
    with distributed.use_device(device):
        loaded = checkpoint.load(folder)
        decoder = _data_folder(Path(folder), data)
        path = Path(out) if out else Path(folder) / FOLDER / f"{options.suite or STANDARD}.json"
        with output_lock(path):
            result = _Run(loaded, decoder, options, device).result()
            result.save(path)
    return result


def _data_folder(folder: Path, data: str | Path | None) -> Path:
    if data is not None:
        return Path(data)
    beside = folder.resolve().parent / "decoder"
    if not (beside / "data.json").exists():
        raise ConfigError(f"{folder}: no folder 'decoder' is beside it; give --data DIR, a decoder stage's folder")
    return beside


class _Run:
    """One evaluation."""

    def __init__(self, loaded: Checkpoint, decoder: Path, options: EvaluationOptions, device: str | None) -> None:
        self.loaded, self.decoder, self.options, self.device_name = loaded, decoder, options, device
        self.about = read_json(decoder / "data.json", "data", dict)
        self.device = distributed.device()
        loaded.denoiser.to(self.device)
        loaded.autoencoder.to(self.device)
        self._text = PromptEncoder(loaded.space.text, self.device)

    def result(self) -> Evaluation:
        options, digits = self.options, self.about.get("data") == "digits"
        suite = options.suite or STANDARD
        clips = options.clips or DIGIT_CLIPS
        latents, contexts = held_out(self.decoder, clips)
        expected = self.loaded.space.input_shape()[1], *self.loaded.space.context_shape()[1:]
        if (latents.shape[1], *contexts.shape[1:]) != expected:
            raise ConfigError(
                f"{self.decoder}: holds latents or texts of another shape than the checkpoint {self.loaded.folder} expects"
            )
        planned: list[Case] = []  # before anything is computed: the suite may not be for these data
        if suite != VBENCH and (not digits or options.suite is not None):
            planned = self._suite(suite, options.clips or CLIPS)
        loss = validation_loss(self.loaded.denoiser, latents, contexts)
        quality, cases = [], []
        if digits and suite != VBENCH:
            evaluator, shape = DenoiserEvaluator(self.decoder, clips), self.loaded.space.input_shape()[1:]
            for count in progress(self.steps, "evaluate", len(self.steps)):
                quality.append(evaluator(self.loaded.denoiser, shape, count, self.loaded.info.guidance))
        if suite == VBENCH:
            cases = [self._vbench(count) for count in self.steps]
        elif planned:
            cases = self._cases(planned)
        return Evaluation(
            str(self.loaded.folder),
            str(self.decoder),
            suite,
            str(self.loaded.clip),
            loss,
            tuple(quality),
            tuple(cases),
        )

    @property
    def steps(self) -> tuple[int, ...]:
        return self.options.steps or (self.loaded.info.steps,)

    def _cases(self, cases: list[Case]) -> list[CaseResult]:
        needs_judges = any(case.on_scenes for case in cases) or len(cases[0].captions) >= MIN_CLIPS
        networks = Networks(
            load_judges() if needs_judges else None,
            FVD(self.options.fvd) if self.options.fvd else None,
            CLIPScore(self.options.clip_model) if self.options.clip_model else None,
        )
        total = len(self.steps) * self.options.seeds * sum(len(case.captions) for case in cases)
        results = []
        with progress(None, "evaluate", total, unit="clip") as bar:
            for case in cases:
                real, reference = self._real(case, networks)
                for count in self.steps:
                    parts = [Collected() for _ in case.parts]
                    for seed in range(self.options.seeds):
                        for index, clip in enumerate(self.generate(case.captions, case.times, count, seed)):
                            for (_, last), part in zip(case.parts, parts):
                                shown = clip if last is None else clip[:, -last:]
                                self._collect(part, shown, case, networks, index, seed)
                            bar.update(1)
                    results += [
                        self._case_result(case, count, number, measured, real[number], reference)
                        for number, measured in enumerate(parts)
                    ]
        return results

    @torch.no_grad()
    def _collect(
        self, into: Collected, clip: Tensor, case: Case, networks: Networks, index: int, seed: int = 0
    ) -> None:
        caption, scene, fps = case.captions[index], case.scenes[index], self.loaded.clip.fps
        into.add(clip, caption, fps, networks, scene, case.on_scenes, seed)

    def _case_result(self, case, count, number, measured, real, reference) -> CaseResult:
        suffix, last = case.parts[number]
        return CaseResult(
            case.title + suffix,
            count,
            self.loaded.info.guidance,
            len(measured),
            last or self._frames(case.times),
            self.options.seeds,
            compare(measured, real, reference),
        )

    def _real(self, case: Case, networks: Networks) -> tuple[list[Collected | None], dict[str, list[np.ndarray]]]:
        """Of each part of a case the measures of real clips; and the features that distances are to."""
        if case.real is None:
            return [None] * len(case.parts), {}
        parts = [Collected() for _ in case.parts]
        for index, pixels in enumerate(case.real()):
            for (_, last), part in zip(case.parts, parts):
                shown = torch.from_numpy(pixels)
                self._collect(part, shown if last is None else shown[:, -last:], case, networks, index)
        if case.reference is None:
            reference = dict(parts[0].features)
            parts[0].features = {}
            return list(parts), reference
        reference: dict[str, list[np.ndarray]] = {}
        for pixels in case.reference():
            clip = torch.from_numpy(pixels)[None]
            if networks.judges is not None:
                reference.setdefault("frechet", []).append(networks.judges.features(clip)[0])
            if networks.fvd is not None:
                reference.setdefault("fvd", []).append(networks.fvd.batch_features(clip)[0].double().cpu().numpy())
        return list(parts), reference

    def _suite(self, suite: str, count: int) -> list[Case]:
        lengths = [self._frames(times) for times in (1, *suites.LONGER)]
        if "scenes" in self.about:
            described = config.build(SceneConfig, self.about["scenes"], str(self.decoder / "data.json"), "scenes")
            return suites.scene_cases(suite, described, self.loaded.clip, lengths, count)
        if self.about.get("data") == "digits":
            return suites.digit_cases(suite, lengths, count)
        cache = LatentCache(self.decoder / "test")
        number = min(count, cache.counts("videos")[0])
        return suites.other_cases(suite, cache.captions("videos", range(number)), lambda: self._decoded(cache, number))

    def _decoded(self, cache: LatentCache, count: int) -> Iterator[np.ndarray]:
        """Held-out clips as the autoencoder reconstructs them: the best that a denoiser of its latents can do."""
        for index in range(count):
            latents, _ = cache.latents("videos", [index])
            yield from (clip.numpy() for clip in self._decode(latents))

    def _frames(self, times: int) -> int:
        return self.loaded.autoencoder.config.pixel_frames(self._latent_frames(times))

    def _latent_frames(self, times: int) -> int:
        return times * self.loaded.space.latent.frames

    def generate(self, captions: Sequence[str], times: int, steps: int, seed: int) -> Iterator[Tensor]:
        """Clips `(C, T, H, W)` in [-1, 1], one per caption; a clip depends on the seed and its place, not on the others."""
        info, latent = self.loaded.info, self.loaded.space.latent
        shape = latent.channels, self._latent_frames(times), latent.height, latent.width
        empty = self._text([EMPTY])
        for start in range(0, len(captions), GROUP):
            context = self._text(captions[start : start + GROUP])
            noise_seed = seed * 1_000_003 + start
            latents = generate(
                self.loaded.denoiser,
                context,
                empty,
                shape,
                steps,
                info.guidance,
                info.sampler,
                noise_seed,
                window=latent.frames,
            )
            yield from self._decode(latents)

    @torch.no_grad()
    def _decode(self, latents: Tensor) -> Iterator[Tensor]:
        for part in latents.split(DECODED_AT_ONCE):
            chunks = decode_chunks(self.loaded.autoencoder, part.to(self.device), LATENT_FRAMES)
            clips = torch.cat(list(chunks), 2).cpu()
            if not torch.isfinite(clips).all():
                raise NasError(
                    f"{self.loaded.folder}: the model returns NaN or infinity at guidance {self.loaded.info.guidance:g}; "
                    "use another checkpoint"
                )
            yield from clips

    def _vbench(self, steps: int) -> CaseResult:
        """VBench's own prompts and scores."""
        folder = Path(self.loaded.folder) / FOLDER / f"{VBENCH}-{steps}"

        def write(prompt: str, seed: int, path: Path) -> None:
            (clip,) = self.generate([prompt], 1, steps, seed)
            video_writer.save(path, video_writer.to_uint8(clip.numpy()), self.loaded.clip.fps)

        scores = vbench.evaluate_vbench(write, folder, self.options.dimensions, self.options.clips, self.device_name)
        clips = sum(1 for _ in (folder / "clips").glob("*.mp4"))
        measures = {name: Measure(value, None, None, clips) for name, value in scores.items()}
        return CaseResult(VBENCH, steps, self.loaded.info.guidance, clips, self._frames(1), 1, measures)

"""Samples for comparing exported parts with torch: the inputs that occur while clips are generated."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.checkpoint import Checkpoint
from nas.diffusion.predictions import add_noise, predict_x0, velocity_fn
from nas.diffusion.schedules import sampling_schedule, scale_noise
from nas.diffusion.seeding import generator
from nas.export import parts
from nas.models.text_encoder import PromptEncoder
from nas.models.unet import TextEmbedding

PROMPTS = parts.PROMPTS
PERTURBATION = 1e-5
"""Relative change of the inputs by which a sample's `sensitivity` is measured."""


@dataclass(frozen=True)
class Sample:
    """Inputs of a part by name, and torch's output for them.

    Attributes:
        expected: outputs by name with the checkpoint's weights.
        expected_rounded: outputs with weights and buffers rounded to float16, as packages store them.
        sensitivity: how much `expected_rounded` changes, as a relative error, with inputs that are larger by a relative
            `PERTURBATION`. A generator may amplify rounding a hundredfold at pure noise, where it decides what to show.
    """

    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    expected_rounded: dict[str, Tensor]
    sensitivity: float = 0.0


@torch.no_grad()
def real_samples(checkpoint: Checkpoint) -> dict[str, list[Sample]]:
    """Generate samples of `denoiser`, `decoder` and `text_encoder`, by part.

    Clips are sampled as the checkpoint specifies, so that the denoiser's inputs cover each timestep of its schedule.
    Each step uses the next of `PROMPTS`, and enough clips are sampled to use them all. The decoder's inputs are the
    final latents, or parts of them with the state before them: the first two and the last of a clip. No two inputs of a sample share memory.

    Raises:
        MissingDependency: the text encoder is not installed.
    """
    encoder = PromptEncoder(checkpoint.space.text)
    contexts = encoder(PROMPTS)
    denoiser: list[dict[str, Tensor]] = []

    def record(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        names = parts.denoiser(checkpoint).inputs
        denoiser.append({name: x.clone() for name, x in zip(names, inputs, strict=True)})

    hook = checkpoint.denoiser.register_forward_hook(record)
    try:
        steps = checkpoint.info.steps
        latents = [_clip(checkpoint, contexts, clip, clip * steps) for clip in range(-(-len(PROMPTS) // steps))]
    finally:
        hook.remove()
    tokenizer, _ = encoder.load()
    tokens = [parts.token_inputs(checkpoint.space.text, prompt, tokenizer) for prompt in PROMPTS]
    return {
        "denoiser": _samples(parts.denoiser(checkpoint), denoiser),
        "decoder": _samples(parts.decoder(checkpoint), _decoder_inputs(parts.decoder(checkpoint), latents[:2])),
        "text_encoder": _samples(parts.text_encoder(checkpoint), tokens),
    }


def _samples(part: parts.Part, inputs: list[dict[str, Tensor]]) -> list[Sample]:
    rounded, samples = with_rounded_weights(part), []
    for given in inputs:
        expected_rounded = _outputs(part, rounded, given)
        changed = {name: x * (1 + PERTURBATION) if x.is_floating_point() else x for name, x in given.items()}
        sensitivity = largest_error(_outputs(part, rounded, changed), expected_rounded)
        samples.append(Sample(given, _outputs(part, part.module, given), expected_rounded, sensitivity))
    return samples


def _outputs(part: parts.Part, module: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The module's outputs by name."""
    returned = module(**inputs)
    return returned if isinstance(returned, dict) else {part.output: returned}


def _decoder_inputs(part: parts.Part, clips: list[Tensor]) -> list[dict[str, Tensor]]:
    """Inputs of the decoder's runs that decode the latents `(1, C, T, h, w)`: for each clip the first two and the last."""
    chosen = []
    for latents in clips:
        state = {name: torch.zeros_like(x) for name, x in part.inputs.items() if name != "latents"}
        runs = latents.split(part.inputs["latents"].shape[2], dim=2)
        for number, run in enumerate(runs):
            inputs = {"latents": run.contiguous(), **state}
            if number in (0, 1, len(runs) - 1):
                chosen.append(inputs)
            if state:
                outputs = part.module(**inputs)
                state = {name: outputs[f"{name}_out"] for name in state}
    return chosen


def with_rounded_weights(part: parts.Part) -> nn.Module:
    """A copy of a part's module with weights and buffers (such as the mean of the text embeddings) rounded to float16,
    except those that its package stores as float32, and with divisors as it stores them."""
    module = copy.deepcopy(part.module)
    kept: set[Tensor] = set()
    if part.float32_residual:
        tokens = module.model.get_input_embeddings()
        for layer in module.modules():
            if isinstance(layer, nn.LayerNorm) or (isinstance(layer, nn.Embedding) and layer is not tokens):
                kept.update(layer.parameters())
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor not in kept and tensor.is_floating_point():
            tensor.data = tensor.data.half().float()
    for layer in module.modules():  # coremltools multiplies by the inverse of a constant, in float16
        if hasattr(layer, "scaling_factor"):
            layer.scaling_factor = _rounded_divisor(torch.tensor(layer.scaling_factor)).item()
        if isinstance(layer, TextEmbedding):
            layer.spread.data = _rounded_divisor(layer.spread)
    return module


def _rounded_divisor(divisor: Tensor) -> Tensor:
    return 1 / (1 / divisor).half().float()


def _clip(checkpoint: Checkpoint, contexts: Tensor, seed: int, first: int) -> Tensor:
    """Sample the latents `(1, C, T, h, w)` of one clip, with context `(first + i) % len(contexts)` at step i."""
    model, shape = checkpoint.denoiser, checkpoint.space.input_shape()
    stream = generator(seed)
    schedule = sampling_schedule(model, checkpoint.info.steps, shape[-2:])
    x = scale_noise(torch.randn(shape, generator=stream), schedule[0])
    for step, (t, next_t) in enumerate(itertools.pairwise(schedule)):
        context = contexts[(first + step) % len(contexts)][None]
        time = x.new_full((len(x),), t)
        velocity = velocity_fn(model, context)(x, time)
        if checkpoint.info.sampler == "euler":
            x = x + (next_t - t) * velocity
        else:
            noise = torch.randn(shape, generator=stream)
            x = add_noise(predict_x0(x, velocity, time), noise, x.new_full((len(x),), next_t))
    return x


def worst(errors: list[float]) -> float:
    """The largest error, or NaN if any error is NaN (`max` alone may ignore it)."""
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def largest_error(outputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest relative error of outputs, by name; infinite if the names differ, NaN if a value is NaN."""
    if outputs.keys() != expected.keys():
        return float("inf")
    return worst([relative_error(outputs[name], value) for name, value in expected.items()])


def relative_error(output: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference divided by that of `expected`; infinite if the shapes differ, NaN if a value is NaN."""
    if output.shape != expected.shape:
        return float("inf")
    return ((output - expected).norm() / expected.norm()).item()

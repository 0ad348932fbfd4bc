"""What exported parts are compared with torch on: what they meet when a clip is made."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.checkpoint import Checkpoint
from nas.diffusion.predictions import add_noise, predict_x0, velocity_fn
from nas.diffusion.schedules import sampling_schedule, scale_noise
from nas.diffusion.seeding import generator
from nas.export import parts
from nas.models.text_encoder import PromptEncoder

PROMPTS = parts.PROMPTS


@dataclass(frozen=True)
class Sample:
    """Inputs of a part by name, and what torch makes of them."""

    inputs: dict[str, Tensor]
    wanted: Tensor


@torch.no_grad()
def real_samples(checkpoint: Checkpoint) -> dict[str, list[Sample]]:
    """By part: samples of `denoiser`, `decoder` and `text_encoder`.

    The denoiser is sampled as the checkpoint says, so that it is seen at each timestep of its schedule with the latents
    that it meets there. Step by step the prompt is the next of `PROMPTS`; as many clips are begun as it takes to see
    each prompt. The decoder gets their ends. No two inputs of a sample share memory.

    Raises:
        MissingDependency: the text encoder is not installed.
    """
    contexts = PromptEncoder(checkpoint.space.text)(PROMPTS)
    denoiser: list[Sample] = []

    def record(module: torch.nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        names = parts.denoiser(checkpoint).inputs
        denoiser.append(Sample({name: x.clone() for name, x in zip(names, given, strict=True)}, output.clone()))

    hook = checkpoint.denoiser.register_forward_hook(record)
    try:
        steps = checkpoint.info.steps
        ends = [_clip(checkpoint, contexts, clip, clip * steps) for clip in range(-(-len(PROMPTS) // steps))]
    finally:
        hook.remove()
    decode, encode = parts.decoder(checkpoint), parts.text_encoder(checkpoint)
    tokens = [parts.token_inputs(checkpoint.space.text, prompt) for prompt in PROMPTS]
    return {
        "denoiser": denoiser,
        "decoder": [Sample({"latents": latents}, decode.module(latents)) for latents in ends[:2]],
        "text_encoder": [Sample(given, encode.module(**given)) for given in tokens],
    }


def _clip(checkpoint: Checkpoint, contexts: Tensor, seed: int, first: int) -> Tensor:
    """Latents `(1, C, T, h, w)` of one clip, whose step i is conditioned on context `first + i`, round and round."""
    model, shape = checkpoint.denoiser, checkpoint.space.input_shape()
    stream = generator(seed)
    schedule = sampling_schedule(model, checkpoint.info.steps, shape[-2:])
    x = scale_noise(torch.randn(shape, generator=stream), schedule[0])
    for step, (t, after) in enumerate(itertools.pairwise(schedule)):
        context = contexts[(first + step) % len(contexts)][None]
        time = x.new_full((len(x),), t)
        velocity = velocity_fn(model, context)(x, time)
        if checkpoint.info.sampler == "euler":
            x = x + (after - t) * velocity
        else:
            noise = torch.randn(shape, generator=stream)
            x = add_noise(predict_x0(x, velocity, time), noise, x.new_full((len(x),), after))
    return x

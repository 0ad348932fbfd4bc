"""CLIP score: how well frames fit their caption (Hessel et al. 2021, arXiv 2104.08718), with a CLIP model of transformers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas import distributed
from nas.errors import ConfigError, MissingDependency

FRAMES = 4
"""Frames of a clip that are compared, spread over it."""


class CLIPScore:
    """100 times the cosine similarity of a CLIP model's embeddings of frames and caption, 0 where it is negative.

    Args:
        model: folder or Hub name of a CLIP model with its processor, such as `openai/clip-vit-base-patch32`.
        device: default: `nas.distributed.device`.

    Raises:
        MissingDependency: transformers is not installed.
        ConfigError: the model cannot be found or read.
    """

    def __init__(self, model: str | Path, device: str | None = None) -> None:
        try:
            from transformers import CLIPModel, CLIPProcessor
        except ImportError:
            raise MissingDependency("CLIP score needs transformers; run: pip install 'nas-video[demo]'") from None
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        self.device = device or distributed.device()
        try:
            self._model: Any = CLIPModel.from_pretrained(str(model)).eval().to(self.device)
            self._processor: Any = CLIPProcessor.from_pretrained(str(model))
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"clip-model: '{model}' is not a CLIP model that transformers can load ({reason}); give the folder of one, "
                "or its Hub name"
            ) from None

    @torch.no_grad()
    def __call__(self, clip: Tensor, caption: str) -> float:
        """Of a clip `(C, T, H, W)` in [-1, 1]."""
        chosen = torch.linspace(0, clip.shape[1] - 1, min(FRAMES, clip.shape[1])).round().long()
        frames = ((clip.expand(3, -1, -1, -1)[:, chosen].clamp(-1, 1) + 1) * 127.5).round().byte()
        images = list(frames.permute(1, 2, 3, 0).cpu().numpy())
        inputs = self._processor(text=[caption], images=images, return_tensors="pt", padding=True, truncation=True)
        output = self._model(**{name: value.to(self.device) for name, value in inputs.items()})
        similarity = torch.cosine_similarity(output.image_embeds, output.text_embeds)
        return float(100 * similarity.clamp(min=0).mean())

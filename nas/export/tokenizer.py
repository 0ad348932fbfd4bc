"""The tokenizer's files as a phone app reads them."""

from __future__ import annotations

from pathlib import Path

from nas.models.text_encoder import PromptEncoder
from nas.spaces import Text


def save_tokenizer(text: Text, folder: Path) -> Path:
    """Write the tokenizer of a text encoder into a folder.

    `tokenizer.json` pads and cuts off at the tokens that the exported encoder takes: apps read it as it is, while
    `transformers` is told at each call, so what it was saved with (128 for MiniLM) never showed.

    Raises:
        MissingDependency: the encoder is not installed.
    """
    tokenizer, _ = PromptEncoder(text).load()
    tokenizer.model_max_length = text.tokens
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.enable_truncation(text.tokens)
        backend.enable_padding(
            length=text.tokens,
            direction=tokenizer.padding_side,
            pad_id=tokenizer.pad_token_id,
            pad_type_id=tokenizer.pad_token_type_id,
            pad_token=tokenizer.pad_token,
        )
    tokenizer.save_pretrained(folder)
    return folder

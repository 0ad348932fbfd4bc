"""Write the tokenizer's files for an app."""

from __future__ import annotations

from pathlib import Path

from nas.models.text_encoder import PromptEncoder
from nas.spaces import Text


def save_tokenizer(text: Text, folder: Path) -> Path:
    """Write the tokenizer of a text encoder into a folder.

    Padding and truncation in `tokenizer.json` are set to the exported encoder's length, since apps use the file
    directly. `transformers` overrides both in each call, so the original file may have other lengths (128 for MiniLM).

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

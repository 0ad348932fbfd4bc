"""Tokenize prompts with the `tokenizer.json` of an export folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from nas.errors import ConfigError, MissingDependency, encodable
from nas.exported.app import Prompt


class PromptTokenizer:
    """Turns prompts into the text encoder's inputs.

    Args:
        folder: the export folder.

    Raises:
        MissingDependency: tokenizers is not installed.
        ConfigError: the tokenizer cannot be read, or does not give the tokens of the empty prompt in `export.json`.
    """

    def __init__(self, folder: Path, prompt: Prompt) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingDependency("tokenizers is not installed; run: pip install 'nas-video[litert]'") from None
        path, self.tokens = folder / prompt.folder / "tokenizer.json", prompt.tokens
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise ConfigError(f"{path}: cannot be read as a tokenizer: {' '.join(str(error).split())[:150]}") from None
        empty = self("")
        wanted = {"input_ids": prompt.empty_ids, "attention_mask": prompt.empty_mask}
        if any(tuple(empty[name][0].tolist()) != values for name, values in wanted.items()):
            raise ConfigError(
                f"{path}: gives other tokens for the empty prompt than export.json lists; export the checkpoint again"
            )

    def __call__(self, prompt: str) -> dict[str, np.ndarray]:
        """`input_ids` and `attention_mask`, int32 `(1, tokens)` each.

        Raises:
            ConfigError: the prompt is not valid Unicode, or the tokenizer does not pad or truncate it.
        """
        if not encodable(prompt):
            raise ConfigError(f"prompt {prompt[:60]!a}: is not valid Unicode; give it as UTF-8")
        encoding = self._tokenizer.encode(prompt)
        if len(encoding.ids) != self.tokens:
            raise ConfigError(
                f"tokenizer.json gives {len(encoding.ids)} tokens, the text encoder takes {self.tokens}; export it again"
            )
        values = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask}
        return {name: np.array([row], np.int32) for name, row in values.items()}

"""A tokenizer for pipelines without files: it reads nothing, and answers as many tokens as are asked for."""

from collections.abc import Sequence
from typing import Any

import torch

LETTERS = 4
"""Letters in a token, roughly, where no length is asked for."""


class LengthTokenizer:
    """Stands for a tokenizer or processor of transformers where only the lengths of sequences matter: every
    prompt fills the limit that its pipeline asks for."""

    pad_token = eos_token = bos_token = ""
    pad_token_id = eos_token_id = bos_token_id = 0
    padding_side = "right"

    def __init__(self, limit: int) -> None:
        self.model_max_length = limit
        self.tokenizer = self

    def __call__(self, text: str | Sequence[str] = "", **options: Any) -> Any:
        """Zeros of the length `max_length`, with a mask of ones."""
        from transformers import BatchEncoding

        texts = [text] if isinstance(text, str) else list(text)
        length = options.get("max_length") or max(len(self.encode(each)) for each in texts)
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def apply_chat_template(self, chat: Sequence[Any], tokenize: bool = True, **options: Any) -> Any:
        """Of one chat or a list of them."""
        texts = [""] * len(chat) if chat and isinstance(chat[0], list) else ""
        return self(texts, **options) if tokenize else texts

    def encode(self, text: str, **options: Any) -> list[int]:
        """About as many tokens as words have."""
        return [0] * (len(text) // LETTERS + 1)

    def tokenize(self, text: str) -> list[str]:
        """None: nothing stands for several tokens."""
        return []

    def batch_decode(self, ids: Any, **options: Any) -> list[str]:
        """Empty texts."""
        return [""] * len(ids)
